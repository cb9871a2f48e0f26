import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { openWithPdfToImg } from '../../../../../converter/render/engines/pdf-to-img/document.ts';
import { readMemory } from '../../../../../converter/sandbox/memory-limit.ts';

/**
 * Draws the PDF files given as arguments in a separate process, like a sandbox, and prints a line of JSON for each page: a
 * hash of its pixels, or its error. `CAP_MB` limits the growth of the process after the first file.
 */

function failure(file: string, page: number | null, error: unknown): object {
  return error instanceof Error && 'code' in error && 'retryable' in error
    ? { file, page, code: error.code, retryable: error.retryable }
    : { file, page, crash: String(error) };
}

function print(line: object): void {
  process.stdout.write(`${JSON.stringify(line)}\n`);
}

async function draw(file: string): Promise<void> {
  const document = await openWithPdfToImg(file, null);
  for (let page = 1; page <= document.pageCount; page++) {
    const line = await document.render(page, 1).then(
      ({ data, complaints }) => ({ file, page, hash: createHash('md5').update(data).digest('hex'), complaints }),
      (error) => failure(file, page, error),
    );
    print(line);
  }
  await document.close();
}

let capMb = Number(process.env.CAP_MB ?? 0);
for (const file of process.argv.slice(2)) {
  await draw(file).catch((error) => print(failure(file, null, error)));
  if (capMb === 0) continue;
  const cap = Math.floor((readMemory(process.pid)?.dataMb ?? 0) + capMb) * 2 ** 20;
  execFileSync('prlimit', ['--pid', String(process.pid), `--data=${cap}:`]);
  capMb = 0;
}
