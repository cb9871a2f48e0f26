/** Explanations for codes with short messages. Other messages explain themselves. */
const WORDS: Record<string, string> = {
  unreachable: 'The service cannot be reached. Accepted uploads are safe, and this page reconnects automatically.',
  unauthorized: 'The service requires a valid key.',
  forbidden: 'Your key does not allow this.',
  file_too_large: 'The file is larger than this service allows.',
  unsupported_media_type: 'The content is not a PDF, PNG or JPEG. The name does not count.',
  corrupt_file: 'The file is damaged and cannot be read.',
  unsupported_feature: 'The file needs a feature that this service does not support.',
  encrypted_pdf: 'The PDF is encrypted: send it again with its password.',
  wrong_password: 'The password does not open this PDF.',
  too_many_pages: 'The PDF has more pages than this service allows.',
  too_many_pixels: 'The image has more pixels than this service allows.',
  page_out_of_range: 'The file has no such page.',
  out_of_memory: 'It needs more memory than the largest converter has.',
  timeout: 'It exceeded its time limit.',
  converter_lost: 'Its converter stopped responding.',
  sandbox_violation: 'It was stopped because its sandbox sent invalid data.',
  dependency_failed: 'A job that it depends on failed.',
  too_many_requests: 'Too many requests: try again later.',
};

/** An error in plain words, with the message of the service. */
export function explainError({ code, message }: { code: string; message: string }): string {
  const words = WORDS[code];
  if (words === undefined) return sentence(message);
  return code === 'unreachable' || code === 'unauthorized' ? words : `${words} (${message})`;
}

function sentence(text: string): string {
  return text.charAt(0).toUpperCase() + text.slice(1);
}
