import { mkdtemp, readdir, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { webhookSecrets } from '../../../api/webhooks/sign.ts';
import { parseConfig } from '../../../runtime/config.ts';

let folder: string;
beforeEach(async () => {
  folder = await mkdtemp(path.join(tmpdir(), 'sheetmill-secrets-'));
});
afterEach(() => rm(folder, { recursive: true }));

const secrets = (WEBHOOK_SECRET?: string) => webhookSecrets(parseConfig({ DATA_DIR: folder, WEBHOOK_SECRET }));

test('configured secrets are used, and no file is written', async () => {
  const both = [`whsec_${Buffer.alloc(24).toString('base64')}`, `whsec_${Buffer.alloc(64, 1).toString('base64')}`];
  expect(await secrets(both.join(', '))).toEqual(both);
  expect(await readdir(folder)).toEqual([]);
});

test('processes that start together create one secret, which they keep and only their user can read', async () => {
  const made = await Promise.all(Array.from({ length: 10 }, () => secrets()));
  expect(new Set(made.flat()).size).toBe(1);
  const [secret] = made.flat();
  expect(secret).toMatch(/^whsec_[A-Za-z0-9+/]{43}=$/);
  expect(await secrets()).toEqual([secret]);
  expect(await secrets(secret)).toEqual([secret]);
  expect(await readdir(folder)).toEqual(['webhook-secret']);
  expect((await stat(path.join(folder, 'webhook-secret'))).mode & 0o777).toBe(0o600);
});

test('a folder that cannot be created is an error', async () => {
  await writeFile(path.join(folder, 'file'), '');
  await expect(webhookSecrets(parseConfig({ DATA_DIR: path.join(folder, 'file', 'data') }))).rejects.toThrow(/ENOTDIR/);
});
