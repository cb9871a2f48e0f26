import { eq } from 'drizzle-orm';
import { settledPages } from '../conversion/record-pages.ts';
import type { Database } from '../db/client.ts';
import { listPrerequisites } from '../db/jobs.ts';
import { uploads } from '../db/schema.ts';
import { listOriginals, listPages } from '../db/uploads.ts';
import type { ClaimedJob } from '../jobs/claim.ts';
import type { UploadFiles } from '../jobs/task.ts';
import type { AttemptFiles } from './files/attempt-files.ts';
import type { PrivateFolder } from './files/private-folder.ts';
import type { TaskRequest } from './run-task.ts';

/** The inputs of a task other than its payload. Files are named by their paths in the store until they are copied. */
export type Inputs = Pick<TaskRequest, 'input' | 'password' | 'settledPages' | 'files' | 'dependencies'>;

/** The limit of the results of prerequisites together, as JSON. */
const MAX_RESULTS_BYTES = 256 * 1024;

/** The password is read here, and only the sandbox gets it. */
export async function readInputs(
  db: Database,
  job: ClaimedJob,
  uploadId: string | null,
  only: keyof UploadFiles | undefined,
): Promise<Inputs> {
  const files =
    uploadId === null || uploadId === job.uploadId
      ? { originals: [], pages: [] }
      : await listUploadFiles(db, uploadId, only);
  if (job.uploadId === null || job.original === null) {
    const dependencies = job.hasDependencies ? await listPrerequisites(db, job.id, MAX_RESULTS_BYTES) : [];
    return { input: '', password: null, settledPages: [], files, dependencies };
  }
  const isImage = String(job.payload.media_type).startsWith('image/');
  return {
    input: String(job.payload.path),
    password: isImage ? null : await findPassword(db, job.uploadId),
    settledPages: job.attempt > 1 ? await settledPages(db, job.uploadId, job.original) : [],
    files,
    // Conversions depend on no other job.
    dependencies: [],
  };
}

/** Copies the files into the folder of the process that reads them, and returns their paths there. */
export async function copyInputs(
  attempt: AttemptFiles,
  folder: PrivateFolder,
  { input, files }: Inputs,
  giveUp: AbortSignal,
): Promise<Pick<Inputs, 'input' | 'files'>> {
  const copy = async <File extends { path: string }>(file: File): Promise<File> => {
    giveUp.throwIfAborted();
    return { ...file, path: await attempt.copyIn(folder, file.path) };
  };
  const local: UploadFiles = { originals: [], pages: [] };
  for (const original of files.originals) local.originals.push(await copy(original));
  for (const page of files.pages) local.pages.push(await copy(page));
  return { input: input === '' ? '' : (await copy({ path: input })).path, files: local };
}

async function listUploadFiles(
  db: Database,
  uploadId: string,
  only: keyof UploadFiles | undefined,
): Promise<UploadFiles> {
  const originals = only === 'pages' ? [] : await listOriginals(db, uploadId);
  const pages = only === 'originals' ? [] : await listPages(db, uploadId);
  return {
    originals: originals.map(({ original, path, mediaType, sha256 }) => ({ original, path, mediaType, sha256 })),
    pages: pages.flatMap(({ original, page, path, sha256 }) =>
      path && sha256 ? [{ original, page, path, sha256 }] : [],
    ),
  };
}

async function findPassword(db: Database, uploadId: string): Promise<string | null> {
  const [upload] = await db.select({ password: uploads.password }).from(uploads).where(eq(uploads.id, uploadId));
  return upload?.password ?? null;
}
