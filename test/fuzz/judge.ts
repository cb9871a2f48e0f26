/** How a damaged file ended: `completed`, `refused` at the edge, or the codes of its errors. */
export interface Verdict {
  outcome: string;
  /** Null for a result or a specific code. */
  fault: string | null;
  /** An engine crashed on the file, even if the other one drew it. */
  isCrash: boolean;
}

interface Part {
  error?: { code: string; message: string } | null | undefined;
  /** Why another engine than the first drew a page. */
  note?: string | null | undefined;
}

/** The codes that say what is wrong with a file. `internal` and `converter_lost` do not. */
const SPECIFIC_CODES = [
  'corrupt_file',
  'unsupported_feature',
  'encrypted_pdf',
  'wrong_password',
  'too_many_pages',
  'too_many_pixels',
  'page_out_of_range',
  'out_of_memory',
  'timeout',
];

const CRASH = /the engine crashed/;

/** Judges the errors of an upload, of its originals and of its pages. */
export function judgeErrors(parts: readonly Part[]): Verdict {
  const errors = parts.flatMap(({ error }) => (error ? [error] : []));
  const vague = errors.find(({ code }) => !SPECIFIC_CODES.includes(code));
  const codes = [...new Set(errors.map(({ code }) => code))].sort();
  return {
    outcome: codes.join(', ') || 'completed',
    fault: vague === undefined ? null : `${vague.code}: ${vague.message}`,
    isCrash: parts.some(({ error, note }) => CRASH.test(`${error?.message} ${note}`)),
  };
}
