import { mkdir, mkdtemp, readdir, rm, utimes, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { recordPages } from '../../conversion/record-pages.ts';
import { ORPHAN_AGE_MS, type SweepParts, sweepStore } from '../../conversion/sweep-store.ts';
import { openDiskStore } from '../../store/disk.ts';
import { archivePath, pagePath } from '../../store/paths.ts';
import type { Store } from '../../store/store.ts';
import { completedPage, type JobsFixture, openJobsFixture } from '../jobs/fixture.ts';
import { override } from '../support/override.ts';

let fixture: JobsFixture;
let root: string;
let parts: SweepParts;
beforeAll(async () => {
  fixture = await openJobsFixture();
});
beforeEach(async () => {
  root = await mkdtemp(path.join(tmpdir(), 'sheetmill-sweep-'));
  const { db, log } = fixture;
  parts = { db, log, store: await openDiskStore(root) };
});
afterEach(async () => {
  await fixture.expectSound();
  await rm(root, { recursive: true });
});
afterAll(() => fixture.close());

const GOING_ON = new AbortController().signal;
const UNKNOWN_UPLOAD = '01a20a0b-5ccf-7021-8000-000000000000';

const store = () => sweepStore(parts, GOING_ON);

/** Puts files of this age into the store. */
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

/** A completed upload with an original and a page in the store. */
async function ended(): Promise<{ id: string; files: string[] }> {
  const id = await fixture.upload();
  const attempt = await fixture.claimOne();
  const page = pagePath(id, 1, 1, '1');
  await recordPages(fixture.db, attempt, [{ ...completedPage(1), path: page } as never]);
  await fixture.settle(attempt, { kind: 'completed', result: {} });
  const files = [`uploads/${id}/originals/1.pdf`, page];
  await put(OLD, ...files);
  return { id, files };
}

describe('a sweep', () => {
  test('deletes old files that are not recorded', async () => {
    const { id, files } = await ended();
    const late = [pagePath(id, 1, 1, '2'), pagePath(id, 1, 2, '1'), archivePath(id, 'cut-off')];
    const folder = [`uploads/${UNKNOWN_UPLOAD}/originals/1.pdf`, pagePath(UNKNOWN_UPLOAD, 1, 1, '1')];
    await put(OLD, ...late, ...folder, 'incoming/aborted');
    await store();
    expect(await stored()).toEqual(files.toSorted());
    expect(await readdir(path.join(root, 'uploads'))).toEqual([id]);
  });

  test('keeps young files, which a request or an attempt may still record', async () => {
    const { id, files } = await ended();
    const young = [
      pagePath(id, 1, 1, '2'),
      archivePath(id, 'new'),
      `uploads/${UNKNOWN_UPLOAD}/originals/2.pdf`,
      'incoming/under-way',
    ];
    await put(YOUNG, ...young);
    // Its first file is older than its second.
    const older = `uploads/${UNKNOWN_UPLOAD}/originals/1.pdf`;
    await put(OLD, older);
    await store();
    expect(await stored()).toEqual([...files, ...young, older].toSorted());
  });

  test('keeps the files of an upload in progress, and of a completed archive', async () => {
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

  test('deletes empty folders, and keeps unknown files', async () => {
    await mkdir(path.join(root, `uploads/${UNKNOWN_UPLOAD}/pages`), { recursive: true });
    const then = new Date(Date.now() - OLD);
    await utimes(path.join(root, `uploads/${UNKNOWN_UPLOAD}/pages`), then, then);
    const { id, files } = await ended();
    const others = ['else/file', 'uploads/README', 'uploads/not-an-id/file', `uploads/${id}/thumbnails/1.png`];
    await put(OLD, ...others);
    await store();
    expect(await stored()).toEqual([...files, ...others].toSorted());
    expect((await readdir(path.join(root, 'uploads'))).toSorted()).toEqual(['README', id, 'not-an-id'].toSorted());
  });

  test('covers the whole store after the previous one was interrupted or failed', async () => {
    const ids = Array.from({ length: 250 }, (_, index) =>
      UNKNOWN_UPLOAD.replace(/.{3}$/, String(index).padStart(3, '0')),
    );
    await put(OLD, ...ids.map((id) => pagePath(id, 1, 1, '1')));
    const cut = new AbortController();
    let folders = 0;
    const removeFolder: Store['removeFolder'] = async (folder) => {
      if (++folders === 10) throw new Error('the disk is not there');
      if (folders === 30) cut.abort();
      await parts.store.removeFolder(folder);
    };
    await sweepStore({ ...parts, store: override(parts.store, { removeFolder }) }, cut.signal);
    const left = await stored();
    expect([folders < 250, left.length]).toEqual([true, 250 - folders + 1]);
    await store();
    expect(await stored()).toEqual([]);
  });
});

test('one of two concurrent sweeps runs', async () => {
  await put(OLD, ...[1, 2, 3].map((last) => pagePath(UNKNOWN_UPLOAD.replace(/.$/, String(last)), 1, 1, '1')));
  let atWork = 0;
  let most = 0;
  const removeFolder: Store['removeFolder'] = async (folder) => {
    most = Math.max(most, ++atWork);
    await parts.store.removeFolder(folder);
    atWork--;
  };
  const counted = { ...parts, store: override(parts.store, { removeFolder }) };
  await Promise.all([sweepStore(counted, GOING_ON), sweepStore(counted, GOING_ON)]);
  await sweepStore(counted, GOING_ON);
  expect([most, await stored()]).toEqual([1, []]);
});
