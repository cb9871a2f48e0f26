import { createRandom } from '../random.ts';
import type { NormalFiles } from './normal-files.ts';

const HOSTILE_PER_THOUSAND = 5;
const PHOTOS = 0.6;
const SCANS = 0.2;

export interface Upload {
  file: string;
  /** The kind of a hostile file; undefined for a normal file. */
  hostileKind: string | undefined;
  /** The time of arrival, in mean intervals between two uploads. */
  at: number;
}

/** Makes the uploads in the order of their arrival. The same seed makes the same uploads. `everyKind`: each kind of hostile file is sent at least once. */
export function makeTraffic(
  seed: number,
  count: number,
  normalFiles: NormalFiles,
  hostileFiles: Record<string, string>,
  { everyKind }: { everyKind: boolean },
): Upload[] {
  const random = createRandom(seed);
  let at = 0;
  const uploads = Array.from({ length: count }, (): Upload => {
    at += random.space();
    const kind = random.next();
    const pool = kind < PHOTOS ? normalFiles.photos : kind < PHOTOS + SCANS ? normalFiles.scans : normalFiles.pdfs;
    return { file: random.pick(pool), hostileKind: undefined, at };
  });
  const kinds = Object.entries(hostileFiles);
  const hostileCount = Math.max(everyKind ? kinds.length : 1, Math.round((count * HOSTILE_PER_THOUSAND) / 1000));
  // The hardest kinds are first in the list, so a few uploads are of those.
  const turn = everyKind ? random.wholeNumber(0, kinds.length - 1) : 0;
  // One in each stretch of the same length, so that with no seed the last uploads are all hostile.
  const stretch = count / hostileCount;
  for (let index = 0; index < hostileCount; index++) {
    const [hostileKind, file] = kinds[(turn + index) % kinds.length] ?? [];
    const upload = uploads[random.wholeNumber(Math.ceil(index * stretch), Math.ceil((index + 1) * stretch) - 1)];
    if (upload !== undefined && file !== undefined) Object.assign(upload, { hostileKind, file });
  }
  return uploads;
}
