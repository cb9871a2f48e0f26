import type { Config } from '../runtime/config.ts';
import { openDiskStore } from './disk.ts';
import type { S3Keys } from './s3-client.ts';
import type { Store } from './store.ts';

/** The store that STORE_URL names; without it, the one on disk in DATA_DIR. */
export async function openStore({
  STORE_URL,
  STORE_DIR,
  STORE_DOWNLOADS,
  AWS_ACCESS_KEY_ID,
  AWS_SECRET_ACCESS_KEY,
  AWS_SESSION_TOKEN,
}: Pick<Config, 'STORE_URL' | 'STORE_DIR' | 'STORE_DOWNLOADS' | keyof S3Keys>): Promise<Store> {
  if (STORE_URL === undefined) return openDiskStore(STORE_DIR);
  // Loaded only when needed: the AWS SDK takes much memory.
  const { S3Store } = await import('./s3.ts');
  const keys = { AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN };
  return new S3Store(STORE_URL, { links: STORE_DOWNLOADS === 'redirect', keys });
}
