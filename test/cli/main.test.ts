import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { ROOT } from '../support/programs.ts';
import { sheetmill } from './command.ts';

const CONVERT = ['convert', 'b.png', '--out', 'x'];

test.concurrent.each<[string, number, string[], RegExp]>([
  ['no command', 2, [], /^sheetmill: no command given; see sheetmill --help\n$/],
  ['an unknown command', 2, ['melt'], /^sheetmill: unknown command "melt"; see sheetmill --help\n$/],
  ['no files', 2, ['convert', '--out', 'x'], /^sheetmill: no files given; see sheetmill convert --help\n$/],
  ['no folder', 2, ['convert', 'b.png'], /^sheetmill: --out DIR is missing.*\n$/],
  ['an unknown option', 2, [...CONVERT, '--size', '1'], /^sheetmill: Unknown option '--size'; see .*\n$/],
  ['an invalid number', 2, [...CONVERT, '--dpi', '1e3'], /^sheetmill: --dpi 1e3: must be .*\n$/],
  ['an invalid choice', 2, [...CONVERT, '--engine', 'X'], /--engine X: must be pdfium or pdf-to-img/],
  [
    'an unexpected argument',
    2,
    ['audit', 'now'],
    /^sheetmill: unexpected argument "now"; see sheetmill audit --help\n$/,
  ],
  ['an invalid URL', 2, ['status', 'x', '--url', 'localhost:3000'], /^sheetmill: "localhost:3000" is not a URL.*\n$/],
  ['an unreachable service', 3, ['status', 'x', '--url', 'http://127.0.0.1:9'], /cannot be reached: .*\n$/],
  ['an unreachable deployment', 3, ['verify', 'http://127.0.0.1:9'], /cannot be reached: .*\n$/],
  ['no database', 1, ['migrate'], /^sheetmill: DATABASE_URL is not set.*\n$/],
  ['no embedded Postgres', 1, ['audit'], /^sheetmill: no embedded Postgres runs in .*\n$/],
])('%s: exit code %i and one line on standard error', async (_case, code, args, line) => {
  const ended = await sheetmill(args, { env: { DATABASE_URL: '', DATA_DIR: '/nonexistent' } }).ended;
  expect(ended).toMatchObject({ code, stdout: '', stderr: expect.stringMatching(line) });
});

test.concurrent.each(['', 'convert', 'status', 'verify', 'serve', 'migrate', 'audit'])(
  '%s --help prints the usage',
  async (command) => {
    const { code, stdout, stderr } = await sheetmill([...(command ? [command] : []), '--help']).ended;
    expect([code, stderr]).toEqual([0, '']);
    expect(stdout).toMatch(new RegExp(`^Usage: sheetmill ${command || 'COMMAND'}[^]*xit code`));
  },
);

test('--version prints the version of the package', async () => {
  const { version } = JSON.parse(await readFile(path.join(ROOT, 'package.json'), 'utf8'));
  expect(await sheetmill(['--version']).ended).toMatchObject({ code: 0, stdout: `${version}\n`, stderr: '' });
});
