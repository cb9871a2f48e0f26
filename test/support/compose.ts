import { readFileSync } from 'node:fs';
import path from 'node:path';
import { parse } from 'yaml';
import { ROOT } from './programs.ts';
import type { Json } from './service.ts';

/** docker-compose.yml with the defaults of its variables. */
export const compose: Json = JSON.parse(
  JSON.stringify(parse(readFileSync(path.join(ROOT, 'docker-compose.yml'), 'utf8'), { merge: true })),
  (_name, value) => (typeof value === 'string' ? value.replaceAll(/\$\{\w+:-([^}]*)\}/g, '$1') : value),
);

/** The public key of docker-compose.yml and deploy/overlays/local. */
export const LOCAL_KEY = 'local-development-key';
