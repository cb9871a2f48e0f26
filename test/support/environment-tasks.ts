import { randomUUID } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import path from 'node:path';

/** A module of own tasks that keeps the environment variables that it finds, as any library could, in `SEEN_FOLDER`. */
const { SEEN_FOLDER } = process.env;
if (SEEN_FOLDER !== undefined) {
  const seen = { command: process.argv.join(' '), environment: process.env };
  writeFileSync(path.join(SEEN_FOLDER, `${randomUUID()}.json`), JSON.stringify(seen));
}

export default [];
