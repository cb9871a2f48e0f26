import { createRandom } from '../random.ts';
import type { Innocents } from './normal-files.ts';

/** Of a thousand uploads, so many are monsters. */
const MONSTERS_PER_THOUSAND = 5;
const PHOTOS = 0.6;
const SCANS = 0.2;

export interface Upload {
  file: string;
  /** Which monster it is; undefined for the innocent. */
  monster: string | undefined;
  /** When it arrives, counted in mean spaces between two uploads. */
  at: number;
}

/** The uploads in the order of their arrival, a pure function of the seed; with `everyKind`, each kind of monster comes at least once. */
export function makeTraffic(
  seed: number,
  count: number,
  innocents: Innocents,
  monsters: Record<string, string>,
  { everyKind }: { everyKind: boolean },
): Upload[] {
  const random = createRandom(seed);
  let at = 0;
  const uploads = Array.from({ length: count }, (): Upload => {
    at += random.space();
    const kind = random.next();
    const pool = kind < PHOTOS ? innocents.photos : kind < PHOTOS + SCANS ? innocents.scans : innocents.pdfs;
    return { file: random.pick(pool), monster: undefined, at };
  });
  const kinds = Object.entries(monsters);
  const monsterCount = Math.max(everyKind ? kinds.length : 1, Math.round((count * MONSTERS_PER_THOUSAND) / 1000));
  // Where only some kinds come, it is the hardest, which stand first.
  const turn = everyKind ? random.wholeNumber(0, kinds.length - 1) : 0;
  // One in each stretch of the same length: the last ones to end are not all monsters, whatever the seed.
  const stretch = count / monsterCount;
  for (let index = 0; index < monsterCount; index++) {
    const [monster, file] = kinds[(turn + index) % kinds.length] ?? [];
    const upload = uploads[random.wholeNumber(Math.ceil(index * stretch), Math.ceil((index + 1) * stretch) - 1)];
    if (upload !== undefined && file !== undefined) Object.assign(upload, { monster, file });
  }
  return uploads;
}
