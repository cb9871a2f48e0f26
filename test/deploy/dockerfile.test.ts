import { existsSync, readFileSync } from 'node:fs';
import { cp, mkdtemp, rm, symlink } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { run as lint } from 'dockerfilelint';
import { buildContext, instructions } from '../support/image.ts';
import { ROOT, run } from '../support/programs.ts';

test('the linter finds nothing in the Dockerfile', () => {
  const text = readFileSync(path.join(ROOT, 'Dockerfile'), 'utf8');
  // The linter rejects this valid option.
  expect(lint(ROOT, text.replace('--start-period=60s ', ''))).toEqual([]);
});

test('the build context holds only the files that the Dockerfile copies', () => {
  const context = buildContext();
  const copied = instructions
    .filter(([name, rest]) => name === 'COPY' && !rest.startsWith('--from='))
    .flatMap(([, rest]) => rest.split(/\s+/).slice(0, -1));
  expect(copied.length).toBeGreaterThan(9);
  expect([...context].filter((name) => !copied.includes(name))).toEqual([]);
});

test('the dashboard is built from the files of its stage', async () => {
  const begin = instructions.findIndex(([name, rest]) => name === 'FROM' && rest.endsWith(' AS dashboard'));
  const end = instructions.findIndex(([name], index) => name === 'FROM' && index > begin);
  const folder = await mkdtemp(path.join(tmpdir(), 'sheetmill-stage-'));
  try {
    await symlink(path.join(ROOT, 'node_modules'), path.join(folder, 'node_modules'));
    for (const [name, rest] of instructions.slice(begin, end)) {
      if (name !== 'COPY') continue;
      for (const source of rest.split(/\s+/).slice(0, -1)) {
        const isGiven = (file: string) => file !== path.join(ROOT, 'dashboard/dist');
        await cp(path.join(ROOT, source), path.join(folder, source), { recursive: true, filter: isGiven });
      }
    }
    const { exited, output } = run(['npm', 'run', 'build'], { cwd: folder, env: {} });
    expect([await exited, output()]).toEqual([[0, null], expect.any(String)]);
    expect(existsSync(path.join(folder, 'dashboard/dist/index.html'))).toBe(true);
  } finally {
    await rm(folder, { recursive: true });
  }
});
