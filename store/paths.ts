/** Paths inside the store, relative to its root. No path holds a client's file name. */

const EXTENSIONS = { 'application/pdf': 'pdf', 'image/png': 'png', 'image/jpeg': 'jpg' } as const;

export type MediaType = keyof typeof EXTENSIONS;

export const UPLOADS = 'uploads';

const FILE_OF_UPLOAD = /^uploads\/([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})(?:\/(?:(pages|archives)\/)?|$)/;

export function uploadFolder(uploadId: string): string {
  return `${UPLOADS}/${uploadId}`;
}

/** The upload of a file, and its kind if attempts write such files; undefined for a file of no upload. */
export function readPath(path: string): { uploadId: string; made: 'pages' | 'archives' | undefined } | undefined {
  const [, uploadId, made] = FILE_OF_UPLOAD.exec(path) ?? [];
  if (uploadId === undefined) return undefined;
  return { uploadId, made: made === 'pages' || made === 'archives' ? made : undefined };
}

export function originalPath(uploadId: string, original: number, mediaType: MediaType): string {
  return `${uploadFolder(uploadId)}/originals/${original}.${EXTENSIONS[mediaType]}`;
}

/** Unique to the attempt that writes it, so that a late attempt never overwrites a recorded page. */
export function pagePath(uploadId: string, original: number, page: number, attemptKey: string): string {
  return `${uploadFolder(uploadId)}/pages/${original}-${String(page).padStart(4, '0')}.${attemptKey}.png`;
}

/** @param key random, so that the path is unique to the attempt that writes it */
export function archivePath(uploadId: string, key: string): string {
  return `${uploadFolder(uploadId)}/archives/${key}.zip`;
}
