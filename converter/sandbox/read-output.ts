import type { Readable } from 'node:stream';

/** V8 writes pages of text about a refused allocation: only the start of each chunk is logged. */
const MAX_TEXT_LENGTH = 500;
/** The pause after each chunk of at most 64 KB: a sandbox that writes more waits. */
const PAUSE_MS = 50;

/** Reads the output of a sandbox at a limited rate: at most 20 texts per second, of 500 characters each. */
export function readOutput(stream: Readable, onText: (text: string) => void): void {
  let resumes: NodeJS.Timeout | undefined;
  stream.setEncoding('utf8').on('data', (text: string) => {
    stream.pause();
    resumes = setTimeout(() => stream.resume(), PAUSE_MS);
    onText(text.slice(0, MAX_TEXT_LENGTH));
  });
  stream.on('close', () => clearTimeout(resumes));
  // `close` follows.
  stream.on('error', () => undefined);
}
