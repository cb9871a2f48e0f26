import type { Readable } from 'node:stream';

/** V8 writes pages about an allocation that was refused: the log takes the beginning of each chunk. */
const MAX_TEXT_LENGTH = 500;
/** The pause after each chunk, which has at most 64 KB: a sandbox that prints more waits. */
const PAUSE_MS = 50;

/** Reads what a sandbox prints, at a bounded rate: 20 texts a second at most, of 500 characters each. */
export function readOutput(stream: Readable, onText: (text: string) => void): void {
  let resumes: NodeJS.Timeout | undefined;
  stream.setEncoding('utf8').on('data', (text: string) => {
    stream.pause();
    resumes = setTimeout(() => stream.resume(), PAUSE_MS);
    onText(text.slice(0, MAX_TEXT_LENGTH));
  });
  stream.on('close', () => clearTimeout(resumes));
  stream.on('error', () => undefined);
}
