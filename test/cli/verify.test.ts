import { once } from 'node:events';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { expectNothingLeft, type Service, startService } from '../support/service.ts';
import { sheetmill } from './command.ts';

const SECRET = `whsec_${Buffer.alloc(32, 'a test').toString('base64')}`;

let service: Service;
beforeAll(async () => {
  service = await startService({ env: { WEBHOOK_SECRET: SECRET } });
});
afterAll(() => service.stop());

test('a deployment that works passes every check, and keeps nothing of them', async () => {
  const args = ['verify', service.url, '--json', '--webhook-secret', SECRET];
  const { code, stdout, stderr } = await sheetmill(args).ended;
  const { checks, ...rest } = JSON.parse(stdout);
  expect(checks.filter(({ outcome }: { outcome: string }) => outcome !== 'passed')).toEqual([
    { check: 'keys', outcome: 'skipped', seconds: expect.any(Number), detail: 'no --key was given' },
  ]);
  expect(rest).toEqual({ url: service.url, passed: checks.length - 1, failed: 0, skipped: 1 });
  expect([code, stderr]).toEqual([0, '']);
  expect((await service.get('/uploads')).items).toEqual([]);
  await service.pool.query(`delete from jobs where type = 'archive'`);
  await expectNothingLeft(service);
}, 120_000);

const other = createServer((_request, response) => response.end('hello'));
afterAll(() => {
  other.close();
  other.closeAllConnections();
});

test('what is not sheetmill fails in every check, with a line for each', async () => {
  other.listen(0, '127.0.0.1');
  await once(other, 'listening');
  const { port } = other.address() as AddressInfo;
  const { code, stdout } = await sheetmill(['verify', `http://127.0.0.1:${port}`]).ended;
  expect(code).toBe(1);
  expect(stdout).toMatch(/^failed +health +\d\.\d s {2}http\S+ answers no JSON/);
  expect(stdout).toMatch(/\n0 passed, \d+ failed, 2 skipped\n$/);
});
