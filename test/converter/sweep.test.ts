import { mkdir, mkdtemp, readdir, rm, utimes, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { eq, sql } from 'drizzle-orm';
import { ORPHAN_AGE_MS, type SweepParts, sweepHistory, sweepStore } from '../../converter/sweep.ts';
import { events, jobs, uploads } from '../../db/schema.ts';
import { recordPages } from '../../jobs/conversion.ts';
import { openDiskStore } from '../../store/disk.ts';
import { archivePath, pagePath } from '../../store/paths.ts';
import type { Store } from '../../store/store.ts';
import { completedPage, FAILED_FOR_GOOD, type JobsFixture, openJobsFixture } from '../jobs/fixture.ts';

let fixture: JobsFixture;
let root: string;
let parts: SweepParts;
beforeAll(async () => {
  fixture = await openJobsFixture();
});
beforeEach(async () => {
  root = await mkdtemp(path.join(tmpdir(), 'sheetmill-sweep-'));
  const { db, queues, log } = fixture;
  parts = { db, queues, log, store: await openDiskStore(root) };
});
afterEach(async () => {
  await fixture.expectSound();
  await rm(root, { recursive: true });
});
afterAll(() => fixture.close());

const GOING_ON = new AbortController().signal;
const NOBODYS = '01a20a0b-5ccf-7021-8000-000000000000';
const DAYS = 30;

const history = (retentionDays?: number) => sweepHistory(parts, retentionDays, GOING_ON);
const store = () => sweepStore(parts, GOING_ON);

/** Puts files into the store that were last written so long ago. */
async function put(ageMs: number, ...paths: string[]): Promise<void> {
  const then = new Date(Date.now() - ageMs);
  for (const file of paths.map((relative) => path.join(root, relative))) {
    await mkdir(path.dirname(file), { recursive: true });
    await writeFile(file, 'content');
    await utimes(file, then, then);
  }
}
const OLD = ORPHAN_AGE_MS + 60_000;
const YOUNG = ORPHAN_AGE_MS - 60_000;

async function stored(): Promise<string[]> {
  const entries = await readdir(root, { recursive: true, withFileTypes: true });
  const files = entries.filter((entry) => entry.isFile());
  return files.map((entry) => path.relative(root, path.join(entry.parentPath, entry.name))).sort();
}

/** An upload with an original and a page in the store, completed so many days ago. */
async function ended(daysAgo = 0, outcome?: typeof FAILED_FOR_GOOD): Promise<{ id: string; files: string[] }> {
  const id = await fixture.upload();
  const attempt = await fixture.claimOne();
  const page = pagePath(id, 1, 1, '1');
  await recordPages(fixture.db, attempt, [{ ...completedPage(1), path: page } as never]);
  await fixture.settle(attempt, outcome ?? { kind: 'completed', result: {} });
  const files = [`uploads/${id}/originals/1.pdf`, page];
  await put(OLD, ...files);
  const finishedAt = sql`now() - make_interval(days => ${daysAgo})`;
  await fixture.db.update(uploads).set({ finishedAt }).where(eq(uploads.id, id));
  return { id, files };
}

const remaining = async () => (await fixture.db.select({ id: uploads.id }).from(uploads)).map(({ id }) => id);

describe('the history', () => {
  test('goes with its files once it is older than the retention, and not before', async () => {
    const [old, young] = [await ended(DAYS + 1), await ended(DAYS - 1)];
    const running = await fixture.upload();
    await fixture.db.update(uploads).set({ createdAt: sql`now() - interval '1 year'` }).where(eq(uploads.id, running));
    await history(DAYS);
    expect((await remaining()).toSorted()).toEqual([young.id, running].toSorted());
    expect(await stored()).toEqual(young.files.toSorted());
    expect(old.files.every((file) => !file.includes(young.id))).toBe(true);
  });

  test('is kept for ever unless there is a retention', async () => {
    const { id, files } = await ended(5_000);
    await fixture.db.update(events).set({ at: sql`now() - interval '10 years'` });
    await history();
    expect([await remaining(), await stored()]).toEqual([[id], files.toSorted()]);
    expect(await fixture.db.$count(events)).toBeGreaterThan(0);
  });

  test('ends with expires_at, also while the upload is at work', async () => {
    const { id: done } = await ended();
    const [running, later] = [await fixture.upload(2), await fixture.upload()];
    const claimed = await fixture.claim();
    await put(0, `uploads/${running}/originals/1.pdf`);
    const past = sql`now() - interval '1 second'`;
    for (const id of [done, running])
      await fixture.db.update(uploads).set({ expiresAt: past }).where(eq(uploads.id, id));
    await fixture.db.update(uploads).set({ expiresAt: sql`now() + interval '1 hour'` }).where(eq(uploads.id, later));
    await history();
    expect(await remaining()).toEqual([later]);
    expect(await stored()).toEqual([]);
    expect(await fixture.db.$count(jobs)).toBe(1);
    for (const attempt of claimed) {
      expect(await fixture.settle(attempt, { kind: 'completed', result: {} })).toBe(attempt.uploadId === later);
    }
  });

  test('of jobs without an upload goes by the same retention, and so do events', async () => {
    await fixture.submit({ id: 'old' }, { id: 'young' }, { id: 'after', dependsOn: ['old'] });
    await fixture.finishAll();
    await fixture.submit({ id: 'waiting' });
    const yearAgo = sql`now() - interval '1 year'`;
    await fixture.db.update(jobs).set({ finishedAt: yearAgo }).where(eq(jobs.id, 'old'));
    await fixture.db.update(jobs).set({ createdAt: yearAgo }).where(eq(jobs.id, 'waiting'));
    await fixture.db.update(events).set({ at: yearAgo }).where(eq(events.jobId, 'old'));
    await history(DAYS);
    const left = await fixture.db.select({ id: jobs.id }).from(jobs);
    expect(left.map(({ id }) => id).toSorted()).toEqual(['after', 'waiting', 'young']);
    expect(await fixture.events('old')).toEqual([]);
    expect(await fixture.events('young')).toHaveLength(3);
  });

  test('spares an upload that is retried while it is swept', async () => {
    for (let round = 0; round < 12; round++) {
      const { id } = await ended(DAYS + 1, FAILED_FOR_GOOD);
      const retries = () => fixture.retryUpload(id);
      const [, retried] = await (round % 2
        ? Promise.all([history(DAYS), retries()])
        : Promise.all([retries(), history(DAYS)]).then(([kept]) => [undefined, kept]));
      expect(await remaining()).toEqual(retried ? [id] : []);
      expect(await fixture.findings()).toEqual([]);
      await fixture.deleteUpload(id);
    }
  });

  test('is swept on although the files of one upload cannot be removed; those are found as orphans later', async () => {
    const broken = await ended(DAYS + 1);
    const fine = await ended(DAYS + 1);
    const removeFolder: Store['removeFolder'] = async (folder) => {
      if (folder.includes(broken.id)) throw new Error('the disk is not there');
      await parts.store.removeFolder(folder);
    };
    await sweepHistory({ ...parts, store: { ...parts.store, removeFolder } }, DAYS, GOING_ON);
    expect(await remaining()).toEqual([]);
    expect(await stored()).toEqual(broken.files.toSorted());
    expect(fine.files).toHaveLength(2);
    await store();
    expect(await stored()).toEqual([]);
  });
});

describe('the store', () => {
  test('loses what nobody has recorded, once it is old', async () => {
    const { id, files } = await ended();
    const late = [pagePath(id, 1, 1, '2'), pagePath(id, 1, 2, '1'), archivePath(id, 'cut-off')];
    const folder = [`uploads/${NOBODYS}/originals/1.pdf`, pagePath(NOBODYS, 1, 1, '1')];
    await put(OLD, ...late, ...folder, 'incoming/aborted');
    await store();
    expect(await stored()).toEqual(files.toSorted());
    expect(await readdir(path.join(root, 'uploads'))).toEqual([id]);
  });

  test('keeps what is young: a request or an attempt may be about to record it', async () => {
    const { id, files } = await ended();
    const young = [
      pagePath(id, 1, 1, '2'),
      archivePath(id, 'new'),
      `uploads/${NOBODYS}/originals/2.pdf`,
      'incoming/under-way',
    ];
    await put(YOUNG, ...young);
    // Its first file came earlier than its second.
    const older = `uploads/${NOBODYS}/originals/1.pdf`;
    await put(OLD, older);
    await store();
    expect(await stored()).toEqual([...files, ...young, older].toSorted());
  });

  test('keeps everything of an upload that is at work, and what a completed archive has made', async () => {
    const working = await fixture.upload();
    await fixture.claimOne();
    const { id, files } = await ended();
    const kept = archivePath(id, 'kept');
    await fixture.submit({ type: 'archive', payload: { upload_id: id } });
    await fixture.finishAll({ kind: 'completed', result: { path: kept } });
    await put(OLD, pagePath(working, 1, 1, '1'), kept, archivePath(id, 'lost'));
    await store();
    expect(await stored()).toEqual([...files, pagePath(working, 1, 1, '1'), kept].toSorted());
  });

  test('loses empty folders too, and nothing that it does not know', async () => {
    await mkdir(path.join(root, `uploads/${NOBODYS}/pages`), { recursive: true });
    const then = new Date(Date.now() - OLD);
    await utimes(path.join(root, `uploads/${NOBODYS}/pages`), then, then);
    const { id, files } = await ended();
    const others = ['else/file', 'uploads/README', 'uploads/not-an-id/file', `uploads/${id}/thumbnails/1.png`];
    await put(OLD, ...others);
    await store();
    expect(await stored()).toEqual([...files, ...others].toSorted());
    expect((await readdir(path.join(root, 'uploads'))).toSorted()).toEqual(['README', id, 'not-an-id'].toSorted());
  });

  test('is swept to the end by the next sweep when one is cut off, or cannot remove something', async () => {
    const ids = Array.from({ length: 250 }, (_, index) => NOBODYS.replace(/.{3}$/, String(index).padStart(3, '0')));
    await put(OLD, ...ids.map((id) => pagePath(id, 1, 1, '1')));
    const cut = new AbortController();
    let folders = 0;
    const removeFolder: Store['removeFolder'] = async (folder) => {
      if (++folders === 10) throw new Error('the disk is not there');
      if (folders === 30) cut.abort();
      await parts.store.removeFolder(folder);
    };
    await sweepStore({ ...parts, store: { ...parts.store, removeFolder } }, cut.signal);
    const left = await stored();
    expect([folders < 250, left.length]).toEqual([true, 250 - folders + 1]);
    await store();
    expect(await stored()).toEqual([]);
  });
});

test.each([
  ['the history', (counted: SweepParts) => sweepHistory(counted, DAYS, GOING_ON)],
  ['the store', (counted: SweepParts) => sweepStore(counted, GOING_ON)],
])('of two converters that sweep %s at the same time one does', async (_name, sweep) => {
  for (let count = 0; count < 8; count++) await ended(DAYS + 1);
  await put(OLD, ...[1, 2, 3].map((last) => pagePath(NOBODYS.replace(/.$/, String(last)), 1, 1, '1')));
  let atWork = 0;
  let most = 0;
  const removeFolder: Store['removeFolder'] = async (folder) => {
    most = Math.max(most, ++atWork);
    await parts.store.removeFolder(folder);
    atWork--;
  };
  const counted = { ...parts, store: { ...parts.store, removeFolder } };
  await Promise.all([sweep(counted), sweep(counted)]);
  await sweep(counted);
  expect(most).toBe(1);
  await history(DAYS);
  await store();
  expect([await remaining(), await stored()]).toEqual([[], []]);
});
