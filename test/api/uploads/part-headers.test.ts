import { buffer } from 'node:stream/consumers';
import fc from 'fast-check';
import { boundaryOf, PartHeads } from '../../../api/uploads/part-headers.ts';

const HEAD = 'Content-Disposition: form-data; name="file"';
/** Pieces of multipart bodies, and pieces that look similar. */
const TOKENS = [
  '\r',
  '\n',
  '\r\n',
  '-',
  '--',
  '--b',
  '--bb',
  '--b--',
  'x',
  'é',
  HEAD,
  '; filename=""',
  '; filename="ü"',
];

async function rewrite(chunks: Buffer[]) {
  const heads = new PartHeads({
    boundary: 'b',
    fileField: 'file',
    maxParts: 5,
    maxFileBytes: 100_000,
    maxOtherBytes: 100_000,
  });
  for (const chunk of chunks) heads.write(chunk);
  heads.end();
  return { body: (await buffer(heads)).toString('latin1'), filenames: heads.filenames };
}

test('the result does not depend on the chunks of a body', async () => {
  const body = fc.array(fc.constantFrom(...TOKENS), { maxLength: 60 }).map((tokens) => Buffer.from(tokens.join('')));
  await fc.assert(
    fc.asyncProperty(body, fc.integer({ min: 1, max: 9 }), async (whole, size) => {
      const chunks: Buffer[] = [];
      for (let at = 0; at < whole.length; at += size) chunks.push(whole.subarray(at, at + size));
      expect(await rewrite(chunks)).toEqual(await rewrite([whole]));
    }),
    { numRuns: 2_000 },
  );
});

test('only the headers of parts are rewritten, into the form that busboy needs', async () => {
  const text = '\r\n--b\r\nContent-Disposition: form-data; name="dpi"\r\nContent-Type: image/png\r\n\r\n72';
  const content = `\r\n--bb\r\n--a\r\n\r\n${HEAD}\r\n\r\n`;
  const body = `--b\r\nContent-Type: application/pdf\r\n${HEAD}\r\n\r\n${content}${text}\r\n--b--\r\n`;
  expect(await rewrite([Buffer.from(body)])).toEqual({
    body: `\r\n--b\r\n${HEAD}; filename="0"\r\n\r\n${content}${text.replace('\r\nContent-Type: image/png', '')}\r\n--b--\r\n`,
    filenames: [null],
  });
});

test('headers that busboy refuses or does not read pass unchanged', async () => {
  for (const body of [
    `--b\r\nno colon here\r\n\r\nx\r\n--b--`,
    `--b\r\nContent-Disposition: attachment; name="file"\r\n\r\nx`,
    `--b\r\n${HEAD}`,
  ]) {
    expect(await rewrite([Buffer.from(body)])).toEqual({ body: `\r\n${body}`, filenames: [] });
  }
  const { filenames } = await rewrite([Buffer.from(`--b\r\n${HEAD}\r\n\r\nx\r\n`.repeat(1_000))]);
  expect(filenames).toHaveLength(5);
});

test.each([
  ['64 KB before the first part', 'x'.repeat(64 * 1024), /64 KB/],
  ['the head of a part', `--b\r\nX: ${'x'.repeat(20_000)}\r\n${HEAD}\r\n\r\nx`, /16 KB/],
  ['bytes outside of files', `--b\r\nX: y\r\n\r\n${'x'.repeat(100_000)}`, /outside of files/],
  ['the files', `--b\r\n${HEAD}\r\n\r\n${'x'.repeat(100_001)}\r\n--b--`, /in total/],
])('a body that exceeds the limit of %s fails for any chunks', async (_what, body, error) => {
  for (const size of [1_000, 1_000_000]) {
    const chunks = Array.from({ length: Math.ceil(body.length / size) }, (_, at) =>
      Buffer.from(body.slice(at * size, (at + 1) * size)),
    );
    await expect(rewrite(chunks)).rejects.toThrow(error);
  }
});

test.each([
  ['multipart/form-data; boundary=abc', 'abc'],
  ['multipart/form-data;BOUNDARY="a b\\"c"; charset=utf-8', 'a b"c'],
  ['multipart/form-data; x="; boundary=no"; boundary=----=_Part_1', '----=_Part_1'],
  ['multipart/form-data; boundary=', undefined],
  ['multipart/form-data', undefined],
])('the boundary of %s is read', (type, boundary) => {
  expect(boundaryOf(type)).toBe(boundary);
});
