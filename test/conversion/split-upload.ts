import { recordInspection } from '../../conversion/record-pages.ts';
import type { ClaimedJob } from '../../jobs/claim.ts';
import { type JobsFixture, range } from '../jobs/fixture.ts';

/** An upload of one PDF that was split into ranges of two pages each, which all run. */
export async function splitUpload(
  fixture: JobsFixture,
  pageCount = 6,
): Promise<{ upload: string; root: string; ranges: ClaimedJob[] }> {
  const upload = await fixture.upload();
  const root = await fixture.claimOne();
  await recordInspection(fixture.db, root, { pageCount, selected: [[1, pageCount]] });
  const firsts = Array.from({ length: pageCount / 2 }, (_, index) => 2 * index + 1);
  await fixture.settle(root, { kind: 'split', children: firsts.map((page) => range([page, page + 1])) });
  return { upload, root: root.id, ranges: await fixture.claimApart() };
}

/** Starts both at the same time, the first one first. */
export function both<T, U>(first: () => Promise<T>, second: () => Promise<U>): Promise<(T | U)[]> {
  return Promise.all([first(), second()]);
}
