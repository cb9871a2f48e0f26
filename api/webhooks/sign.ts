import { randomBytes, randomUUID } from 'node:crypto';
import { link, mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { Webhook as Signer } from 'standardwebhooks';
import type { Config } from '../../runtime/config.ts';

/** Gives the headers that Standard Webhooks specifies for a webhook and its body. */
export type Sign = (webhookId: string, body: string) => Record<string, string>;

/** Signs with every secret, so that a receiver may know any of them. */
export function createSign(secrets: string[]): Sign {
  const signers = secrets.map((secret) => new Signer(secret));
  return function sign(webhookId, body) {
    const now = new Date();
    return {
      'webhook-id': webhookId,
      'webhook-timestamp': String(Math.floor(now.getTime() / 1000)),
      'webhook-signature': signers.map((signer) => signer.sign(webhookId, now, body)).join(' '),
    };
  };
}

/** Gives the secrets of WEBHOOK_SECRET; by default the one in the file `webhook-secret`, which the first start creates. */
export async function webhookSecrets({
  WEBHOOK_SECRET,
  DATA_DIR,
}: Pick<Config, 'WEBHOOK_SECRET' | 'DATA_DIR'>): Promise<string[]> {
  if (WEBHOOK_SECRET !== undefined) return WEBHOOK_SECRET;
  const file = path.join(DATA_DIR, 'webhook-secret');
  const known = await readIfPresent(file);
  if (known !== undefined) return [known];
  // A link appears with its whole content, and only one of several processes that start together creates it.
  const draft = `${file}.${randomUUID()}`;
  await mkdir(DATA_DIR, { recursive: true });
  await writeFile(draft, `whsec_${randomBytes(32).toString('base64')}\n`, { mode: 0o600 });
  await link(draft, file).catch((error: NodeJS.ErrnoException) => {
    if (error.code !== 'EEXIST') throw error;
  });
  await rm(draft);
  return [(await readFile(file, 'utf8')).trim()];
}

async function readIfPresent(file: string): Promise<string | undefined> {
  try {
    return (await readFile(file, 'utf8')).trim();
  } catch {
    // Any other error than a missing file occurs again when the file is created.
    return undefined;
  }
}
