import { createHash } from 'node:crypto';

const HEAD_BYTES = 1024;

/**
 * Reads as far as the first 1024 bytes. `whole` then gives everything, those included, once; `measured` what it has given
 * so far. Who does not read `whole` to its end calls `drop`, or leaves a `for await` over it early.
 */
export async function measure(source: AsyncIterable<Buffer>) {
  const rest = source[Symbol.asyncIterator]();
  const first: Buffer[] = [];
  const hash = createHash('sha256');
  let bytes = 0;
  const drop = async () => {
    await rest.return?.();
  };

  for (let size = 0; size < HEAD_BYTES; ) {
    const next = await rest.next();
    if (next.done) break;
    first.push(next.value);
    size += next.value.length;
  }

  async function* whole(): AsyncGenerator<Buffer, void> {
    const count = (chunk: Buffer) => {
      hash.update(chunk);
      bytes += chunk.length;
      return chunk;
    };
    try {
      for (const chunk of first.splice(0)) yield count(chunk);
      for (let next = await rest.next(); !next.done; next = await rest.next()) yield count(next.value);
    } finally {
      await drop();
    }
  }

  return {
    head: Buffer.concat(first).subarray(0, HEAD_BYTES),
    whole: whole(),
    drop,
    measured: () => ({ bytes, sha256: hash.copy().digest('hex') }),
  };
}
