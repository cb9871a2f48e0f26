import { randomBytes, randomUUID } from 'node:crypto';
import { link, mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import path from 'node:path';
import type { Config } from '../../runtime/config.ts';

/**
 * What webhooks are signed with: WEBHOOK_SECRET, or else one that the first start makes and all that share the data folder
 * read from its file `webhook-secret`, as its owner does to tell receivers.
 */
export async function webhookSecrets({
  WEBHOOK_SECRET,
  DATA_DIR,
}: Pick<Config, 'WEBHOOK_SECRET' | 'DATA_DIR'>): Promise<string[]> {
  if (WEBHOOK_SECRET !== undefined) return WEBHOOK_SECRET;
  const file = path.join(DATA_DIR, 'webhook-secret');
  const known = await readFile(file, 'utf8').catch(() => undefined);
  if (known !== undefined) return [known.trim()];
  // Complete at once or not at all, and made by one of those that start together.
  const draft = `${file}.${randomUUID()}`;
  await mkdir(DATA_DIR, { recursive: true });
  await writeFile(draft, `whsec_${randomBytes(32).toString('base64')}\n`, { mode: 0o600 });
  await link(draft, file).catch((error: NodeJS.ErrnoException) => {
    if (error.code !== 'EEXIST') throw error;
  });
  await rm(draft);
  return [(await readFile(file, 'utf8')).trim()];
}
