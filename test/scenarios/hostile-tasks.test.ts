import { execFile, spawnSync } from 'node:child_process';
import { chmod, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { promisify } from 'node:util';
import type { Level } from '../../converter/sandbox/isolation/isolation.ts';
import type { HostileOptions, HostileReport } from '../support/hostile-converter.ts';

const CONVERTER = path.resolve(import.meta.dirname, '../support/hostile-converter.ts');
const LATEST = 99;
/** An unused user id. */
const ORDINARY = 65_533;

type Start = string[];
const asRoot: Start = [];
const asUser: Start = ['setpriv', `--reuid=${ORDINARY}`, `--regid=${ORDINARY}`, '--clear-groups'];
/** As `docker run --user --cap-drop ALL --security-opt no-new-privileges`. */
const inContainer: Start = [...asUser, '--no-new-privs', '--bounding-set=-all', '--inh-caps=-all'];

const isRoot = process.getuid?.() === 0;
/** Tests of root switch to other users, who must be able to read the project. */
const canSwitch = isRoot && spawnSync(asUser[0] ?? '', [...asUser.slice(1), 'test', '-r', CONVERTER]).status === 0;
const onLinux = process.platform === 'linux' ? describe : describe.skip;

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(path.join(tmpdir(), 'sheetmill-hostile-'));
  await chmod(folder, 0o777);
});
afterAll(() => rm(folder, { recursive: true }));

/** Runs the hostile tasks in sandboxes of a converter that is started like this. */
async function attack(start: Start, options: HostileOptions): Promise<HostileReport> {
  const command = [...start, process.execPath, CONVERTER, JSON.stringify(options)];
  const env = { PATH: process.env.PATH, SECRET: 'the secret of the converter', TMPDIR: folder };
  const { stdout } = await promisify(execFile)(command[0] ?? '', command.slice(1), { env });
  return JSON.parse(stdout);
}

onLinux('a compromised sandbox', () => {
  const cases: [string, Start, Level, number][] = [
    ['root', asRoot, 'namespaces', LATEST],
    ['root', asRoot, 'process', LATEST],
    ['a user', asUser, 'namespaces', LATEST],
    ['a container', inContainer, 'process', LATEST],
    ['a container of a kernel that does not scope signals', inContainer, 'process', 3],
  ];
  const here = cases.filter(([, start]) => (start === asRoot ? isRoot : canSwitch));

  test.each(here)('reaches nothing outside, with a converter of %s (%#)', async (_who, start, level, maxLandlock) => {
    const { hostile, daemonLives, converterUid } = await attack(start, { level, maxLandlock });
    expect(hostile).toMatchObject({ kind: 'completed', result: { reached: [] } });
    expect(daemonLives).toBe(false);
    if (start === asRoot) expect(hostile).not.toMatchObject({ result: { uid: converterUid } });
  });

  (canSwitch ? test : test.skip)('reaches the machine without isolation', async () => {
    const { hostile, daemonLives } = await attack(asUser, { level: 'memory', maxLandlock: LATEST });
    expect(hostile).toMatchObject({
      kind: 'completed',
      result: { reached: expect.arrayContaining(['read /etc/passwd', 'listen', 'pidfd', 'find the secret in /proc']) },
    });
    expect(daemonLives).toBe(true);
  });
});
