import { existsSync, readFileSync } from 'node:fs';
import { cp, mkdtemp, rm, symlink } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { run as lint } from 'dockerfilelint';
import { buildContext, image, instructions } from '../support/image.ts';
import { ROOT, run } from '../support/programs.ts';

test('the linter finds nothing in the Dockerfile', () => {
  const text = readFileSync(path.join(ROOT, 'Dockerfile'), 'utf8');
  // An option that the linter does not know, though it names it among those that it does.
  expect(lint(ROOT, text.replace('--start-period=60s ', ''))).toEqual([]);
});

test('a build is given what the Dockerfile copies, and neither data, secrets, tests nor deployments', () => {
  const context = buildContext();
  const copied = instructions
    .filter(([name, rest]) => name === 'COPY' && !rest.startsWith('--from='))
    .flatMap(([, rest]) => rest.split(/\s+/).slice(0, -1));
  expect(copied.length).toBeGreaterThan(9);
  for (const name of context) {
    expect([name, copied.some((source) => path.matchesGlob(name, source))]).toEqual([name, true]);
  }
  expect([...context]).toEqual(expect.arrayContaining(['api', 'converter', 'runtime', 'package-lock.json', '.npmrc']));
});

test('the stage of the dashboard is given all that its build takes', async () => {
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

test('its processes are no root, and what they leave behind is reaped', () => {
  expect(image).toMatchObject({ user: 'node', entrypoint: ['tini', '--'], env: { NODE_ENV: 'production' } });
});
