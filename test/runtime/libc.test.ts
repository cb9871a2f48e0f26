import { type ChildProcess, execFile, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import net, { type AddressInfo } from 'node:net';
import path from 'node:path';
import { promisify } from 'node:util';

/** A user without other processes. */
const user = ['setpriv', '--reuid=65533', '--regid=65533', '--clear-groups'];
const project = path.resolve(import.meta.dirname, '../..');
const canSwitch =
  process.getuid?.() === 0 &&
  spawnSync('setpriv', [...user.slice(1), 'test', '-r', `${project}/cli/main.ts`]).status === 0;

let child: ChildProcess | undefined;
let postgres: net.Server;
beforeEach(async () => {
  // It accepts connections and never answers, so that its clients wait.
  postgres = net.createServer().listen(0, '127.0.0.1');
  await once(postgres, 'listening');
});
afterEach(async () => {
  const exited = child && once(child, 'exit');
  child?.kill('SIGKILL');
  await exited;
  postgres.close();
});

(canSwitch ? test : test.skip).each([['api/main.ts'], ['converter/main.ts'], ['cli/main.ts', 'serve']])(
  'another process of the same user reads no secret of %s %s',
  async (...command) => {
    const { port } = postgres.address() as AddressInfo;
    const DATABASE_URL = `postgres://sheetmill:secret@127.0.0.1:${port}/sheetmill`;
    const connected = once(postgres, 'connection');
    child = spawn(user[0] ?? '', [...user.slice(1), process.execPath, ...command], {
      cwd: project,
      env: { PATH: process.env.PATH, DATABASE_URL, PORT: '0', DATA_DIR: '/nonexistent' },
      stdio: 'ignore',
    });
    const [socket] = await connected;
    const read = (file: string) =>
      promisify(execFile)(user[0] ?? '', [...user.slice(1), 'head', '-c', '9', `/proc/${child?.pid}/${file}`]);
    await expect(read('environ')).rejects.toThrow('Permission denied');
    await expect(read('mem')).rejects.toThrow('Permission denied');
    await expect(read('status')).resolves.toMatchObject({ stdout: expect.stringContaining('Name:') });
    socket.destroy();
  },
);
