import { createHash, randomBytes, randomUUID } from 'node:crypto';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { z } from 'zod';
import { checksum } from '../../../conversion/tasks/checksum.ts';
import { taskContext } from '../../support/task-context.ts';

let folder: string;
beforeEach(async () => {
  folder = await mkdtemp(path.join(tmpdir(), 'sheetmill-checksum-'));
});
afterEach(() => rm(folder, { recursive: true }));

type Payload = z.input<typeof checksum.payload>;

/** The originals are numbered from 1. */
async function contextOf(
  contents: (string | Buffer)[],
  payload: Omit<Payload, 'upload_id'> = {},
  signal?: AbortSignal,
) {
  const originals = contents.map(async (content, index) => {
    const file = path.join(folder, `${index + 1}.pdf`);
    await writeFile(file, content);
    return { original: index + 1, path: file, mediaType: 'application/pdf', sha256: '' };
  });
  return taskContext(checksum.payload.parse({ upload_id: randomUUID(), ...payload }), folder, {
    files: { originals: await Promise.all(originals), pages: [] },
    ...(signal === undefined ? {} : { signal }),
  });
}

test('one round returns the plain sha256 of the first original', async () => {
  expect(await checksum.run(await contextOf(['abc', 'another']))).toEqual({
    algorithm: 'sha256',
    rounds: 1,
    bytes: 3,
    digest: 'ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad',
  });
});

test.each(['sha256', 'sha512', 'sha1', 'md5'] as const)('%s equals the digest of node:crypto', async (algorithm) => {
  const content = randomBytes(300_000);
  const { digest, bytes } = await checksum.run(await contextOf(['abc', content], { original: 2, algorithm }));
  expect(digest).toBe(createHash(algorithm).update(content).digest('hex'));
  expect(bytes).toBe(300_000);
});

test('each round hashes the digest before and then the file', async () => {
  const content = randomBytes(100_000);
  const context = await contextOf([content], { rounds: 3 });
  let digest = Buffer.alloc(0);
  for (let round = 0; round < 3; round++) digest = createHash('sha256').update(digest).update(content).digest();
  expect(await checksum.run(context)).toMatchObject({ rounds: 3, bytes: 100_000, digest: digest.toString('hex') });
  expect(context.reports.progress).toEqual([
    [1, 3],
    [2, 3],
    [3, 3],
  ]);
});

test('a missing original fails permanently', async () => {
  const run = checksum.run(await contextOf(['abc'], { original: 2 }));
  await expect(run).rejects.toMatchObject({
    code: 'task_failed',
    message: 'the upload has no original 2',
    retryable: false,
  });
});

test('an abort stops a checksum between and within rounds', async () => {
  const controller = new AbortController();
  const context = await contextOf([randomBytes(1_000_000)], { rounds: 1000 }, controller.signal);
  const rounds: number[] = [];
  context.progress = (done) => {
    rounds.push(done);
    if (done === 2) controller.abort();
  };
  await expect(checksum.run(context)).rejects.toMatchObject({ name: 'AbortError' });
  expect(rounds).toEqual([1, 2]);
});

test.each([
  ['no rounds', { rounds: 0 }],
  ['too many rounds', { rounds: 1001 }],
  ['half an original', { original: 0.5 }],
  ['an unknown algorithm', { algorithm: 'crc32' }],
  ['an unknown field', { colour: 'red' }],
  ['no UUID', { upload_id: '../../etc' }],
])('%s is refused', (_, part) => {
  expect(checksum.payload.safeParse({ upload_id: randomUUID(), ...part }).success).toBe(false);
});

test('the payload has a JSON Schema', () => {
  expect(z.toJSONSchema(checksum.payload)).toMatchObject({ properties: { rounds: { minimum: 1, maximum: 1000 } } });
});
