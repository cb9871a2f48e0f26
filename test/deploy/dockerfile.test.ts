import { readFileSync } from 'node:fs';
import path from 'node:path';
import { run as lint } from 'dockerfilelint';
import { buildContext, image, instructions } from '../support/image.ts';
import { ROOT } from '../support/programs.ts';

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
  expect([...context]).toEqual(
    expect.arrayContaining(['api', 'converter', 'config.ts', 'package-lock.json', '.npmrc']),
  );
});

test('its processes are no root, and what they leave behind is reaped', () => {
  expect(image).toMatchObject({ user: 'node', entrypoint: ['tini', '--'], env: { NODE_ENV: 'production' } });
});
