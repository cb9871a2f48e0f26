import { mkdir, mkdtemp, readdir, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { BLUE, encryptedPdf, GREEN, makeImage, makePdf, pixelAt, RED } from '../support/files.ts';
import { expectNothingLeft, type Json, type Service, startService, until } from '../support/service.ts';
import { sheetmill } from './command.ts';

let service: Service;
let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(path.join(tmpdir(), 'sheetmill-convert-test-'));
  await mkdir(path.join(folder, 'sub'));
  const files: [string, Uint8Array][] = [
    ['a.pdf', await makePdf([{ color: RED }, { color: BLUE }, { color: GREEN }])],
    ['sub/a.pdf', await makePdf([{ color: GREEN }])],
    ['b.png', await makeImage({ color: BLUE })],
    ['broken.pdf', (await makePdf([{ color: RED }])).subarray(0, 60)],
    ['secret.pdf', encryptedPdf('open sesame')],
    ['text.pdf', Buffer.from('only text')],
    ['slow.pdf', await makePdf(Array.from({ length: 60 }, () => ({ width: 419, height: 419, color: RED })))],
  ];
  for (const [name, bytes] of files) await writeFile(path.join(folder, name), bytes);
  await symlink('nowhere', path.join(folder, 'dangling.pdf'));
  service = await startService();
});
afterAll(async () => {
  await service.stop();
  await rm(folder, { recursive: true });
});

function convert(args: string[], env: NodeJS.ProcessEnv = { SHEETMILL_URL: service.url }) {
  return sheetmill(['convert', ...args], { env, cwd: folder });
}

async function outputs(name: string): Promise<string[]> {
  return (await readdir(path.join(folder, name))).sort();
}

/** The color in the middle of a page. */
async function colorOf(...names: string[]): Promise<number[]> {
  return (await pixelAt(await readFile(path.join(folder, ...names)), 15, 15)).slice(0, 3);
}

test('files of the same name become PNGs of different names', async () => {
  const args = ['a.pdf', 'b.png', 'sub/a.pdf', '--out', 'same', '--dpi', '36', '--url', service.url];
  const { code, stdout, stderr } = await convert(args, {}).ended;
  expect([code, stderr]).toEqual([0, '']);
  expect(stdout.trim().split('\n').sort()).toEqual([
    'a.pdf: 3 pages, same/a-0001.png to same/a-0003.png',
    'b.png: same/b-0001.png',
    'sub/a.pdf: same/a-2-0001.png',
  ]);
  expect(await outputs('same')).toEqual(['a-0001.png', 'a-0002.png', 'a-0003.png', 'a-2-0001.png', 'b-0001.png']);
  expect(await colorOf('same', 'a-0002.png')).toEqual(BLUE);
  expect(await colorOf('same', 'a-2-0001.png')).toEqual(GREEN);
});

test('--engine selects the engine', async () => {
  const { code } = await convert(['sub/a.pdf', '--out', 'engine', '--dpi', '36', '--engine', 'pdfium']).ended;
  expect(code).toBe(0);
  const { id } = (await service.get('/uploads?limit=1')).items[0];
  expect((await service.get(`/uploads/${id}`)).pages).toMatchObject([{ engine: 'pdfium' }]);
});

test('a file that fails is reported in one line and does not stop the others', async () => {
  const bad = ['broken.pdf', 'text.pdf', 'dangling.pdf', 'missing.pdf', '*.jpg', 'sub', 'secret.pdf'];
  const { code, stdout, stderr } = await convert([...bad, 'b.png', '--out', 'mixed']).ended;
  expect([code, stdout]).toEqual([1, 'b.png: mixed/b-0001.png\n']);
  expect(stderr.trim().split('\n').sort()).toEqual([
    'sheetmill: *.jpg: matches no file',
    'sheetmill: broken.pdf: the PDF cannot be read',
    'sheetmill: dangling.pdf: does not exist',
    'sheetmill: missing.pdf: does not exist',
    expect.stringMatching(/^sheetmill: secret.pdf: .*password/),
    'sheetmill: sub: is a folder; give the files in it',
    'sheetmill: text.pdf: file 1 (text.pdf) is neither PDF, PNG nor JPEG by its content',
  ]);
  expect(await outputs('mixed')).toEqual(['b-0001.png']);
});

test('--json prints one document with pages, sizes and errors', async () => {
  const args = [
    'a.pdf',
    'secret.pdf',
    'text.pdf',
    '--pages',
    '1',
    '--password',
    'open sesame',
    '--out',
    'json',
    '--json',
  ];
  const { code, stdout } = await convert(args).ended;
  const page = { page: 1, width: 556, height: 834, dpi: 200, error: null };
  const id = expect.stringMatching(/^[\da-f-]{36}$/);
  expect([code, JSON.parse(stdout)]).toEqual([
    1,
    {
      converted: 2,
      failed: 1,
      files: [
        { file: 'a.pdf', id, pages: [{ ...page, file: 'json/a-0001.png' }], error: null },
        { file: 'secret.pdf', id, pages: [{ ...page, file: 'json/secret-0001.png' }], error: null },
        {
          file: 'text.pdf',
          id: null,
          pages: [],
          error: { code: 'unsupported_media_type', message: expect.stringContaining('neither PDF, PNG nor JPEG') },
        },
      ],
    },
  ]);
});

test('Ctrl-C interrupts convert with code 130, cancels the upload and leaves no incomplete file', async () => {
  const { child, ended } = convert(['slow.pdf', '--dpi', '600', '--out', 'cut', '--json']);
  const upload: Json = await until(async () => (await service.get('/uploads?status=processing')).items[0]);
  child.kill('SIGINT');
  const { code, stdout, stderr } = await ended;
  expect([code, stderr]).toEqual([130, 'sheetmill: interrupted\n']);
  expect(JSON.parse(stdout)).toEqual({
    converted: 0,
    failed: 1,
    files: [{ file: 'slow.pdf', id: upload.id, pages: [], error: { code: 'interrupted', message: 'interrupted' } }],
  });
  expect(await outputs('cut')).toEqual([]);
  expect((await service.done(upload.id)).status).toBe('cancelled');
  await expectNothingLeft(service);
});

test('status shows an upload and a job, in lines and as JSON', async () => {
  const { body: upload } = await service.upload([['b.png', await makeImage()]]);
  const done = await service.done(upload.id);
  const job = await service.submit({ type: 'checksum', payload: { upload_id: upload.id } });
  await service.jobDone(job.job_id);
  const status = (...args: string[]) => sheetmill(['status', ...args, '--url', service.url]).ended;

  const lines = await status(upload.id);
  expect([lines.code, lines.stderr]).toEqual([0, '']);
  expect(lines.stdout).toMatch(/^status: +completed\n/);
  expect(lines.stdout).toContain(`1/1 40x30 ${done.pages[0].path}\n`);
  const document = await status(upload.id, '--json');
  expect(JSON.parse(document.stdout)).toEqual(done);
  expect((await status(job.job_id)).stdout).toMatch(/^status: +completed\n[\s\S]*result: +\{.*"algorithm":"sha256"/);
  expect(await status('nothing')).toMatchObject({ code: 1, stderr: 'sheetmill: job nothing was not found\n' });
});
