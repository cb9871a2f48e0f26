/** Of codes whose messages are short: what went wrong, and what may help. The rest say it themselves. */
const WORDS: Record<string, string> = {
  unreachable: 'The service cannot be reached. What was sent is safe; this page goes on by itself.',
  unauthorized: 'The service wants a key that it knows.',
  forbidden: 'Your key may not do this.',
  file_too_large: 'The file is larger than this service takes.',
  unsupported_media_type: 'This is neither a PDF nor a PNG nor a JPEG, whatever its name says.',
  corrupt_file: 'The file is damaged and cannot be read.',
  unsupported_feature: 'The file is sound, but needs something that this service does not support.',
  encrypted_pdf: 'The PDF is protected: send it again with its password.',
  wrong_password: 'That is not the password of this PDF.',
  too_many_pages: 'The PDF has more pages than this service takes.',
  too_many_pixels: 'The picture has more pixels than this service takes.',
  page_out_of_range: 'The file has no such page.',
  out_of_memory: 'It needs more memory than it may have.',
  timeout: 'It took longer than it may.',
  converter_lost: 'The converter that worked on it went away.',
  sandbox_violation: 'It was stopped because its sandbox sent invalid data.',
  dependency_failed: 'A job that it waited for has failed.',
  too_many_requests: 'Too much at once: try again in a moment.',
};

/** An error in plain words, with what the service says of it. */
export function inWords({ code, message }: { code: string; message: string }): string {
  const words = WORDS[code];
  if (words === undefined) return sentence(message);
  return code === 'unreachable' || code === 'unauthorized' ? words : `${words} (${message})`;
}

function sentence(text: string): string {
  return text.charAt(0).toUpperCase() + text.slice(1);
}
