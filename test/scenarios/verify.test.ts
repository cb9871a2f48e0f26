import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { sheetmill } from '../cli/command.ts';
import { expectNothingLeft, type Service, startService } from '../support/service.ts';

const SECRET = `whsec_${Buffer.alloc(32, 'a test').toString('base64')}`;
const KEY = 'a-key-for-verify';
const KEYS = [{ name: 'verify', sha256: createHash('sha256').update(KEY).digest('hex'), scopes: ['admin'] }];

let service: Service;
const other = createServer((_request, response) => response.end('hello'));
beforeAll(async () => {
  service = await startService({ env: { WEBHOOK_SECRET: SECRET, API_KEYS: JSON.stringify(KEYS) } });
});
afterAll(async () => {
  other.close();
  other.closeAllConnections();
  await service.stop();
});

test('a healthy deployment passes every check and keeps no upload of them', async () => {
  const args = ['verify', service.url, '--json', '--key', KEY, '--webhook-secret', SECRET];
  const { code, stdout, stderr } = await sheetmill(args).ended;
  const { checks, ...rest } = JSON.parse(stdout);
  expect(checks.filter(({ outcome }: { outcome: string }) => outcome !== 'passed')).toEqual([]);
  expect(rest).toEqual({ url: service.url, passed: checks.length, failed: 0, skipped: 0 });
  expect([code, stderr]).toEqual([0, '']);
  // The file of the archive is deleted with its upload; its job remains as history.
  await service.pool.query(`delete from jobs where type = 'archive'`);
  await expectNothingLeft(service);
  expect((await service.pool.query('select id from uploads')).rows).toEqual([]);
}, 120_000);

test('a refused key is reported in one line with exit code 4', async () => {
  const id = crypto.randomUUID();
  const { code, stdout, stderr } = await sheetmill(['status', id, '--url', service.url, '--key', 'wrong']).ended;
  expect([code, stdout, stderr.split('\n').length]).toEqual([4, '', 2]);
});

test('a web server other than sheetmill fails every check, with a line for each', async () => {
  other.listen(0, '127.0.0.1');
  await once(other, 'listening');
  const { port } = other.address() as AddressInfo;
  const { code, stdout } = await sheetmill(['verify', `http://127.0.0.1:${port}`]).ended;
  expect(code).toBe(1);
  expect(stdout).toMatch(/^failed +health +\d\.\d s {2}http\S+ did not answer with JSON/);
  expect(stdout).toMatch(/\n0 passed, \d+ failed, 2 skipped\n$/);
});
