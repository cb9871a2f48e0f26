/** Paths inside the store, relative to its root. None ever holds a client's file name. */

const EXTENSIONS = { 'application/pdf': 'pdf', 'image/png': 'png', 'image/jpeg': 'jpg' } as const;

export type MediaType = keyof typeof EXTENSIONS;

export function uploadFolder(uploadId: string): string {
  return `uploads/${uploadId}`;
}

export function originalPath(uploadId: string, original: number, mediaType: MediaType): string {
  return `${uploadFolder(uploadId)}/originals/${original}.${EXTENSIONS[mediaType]}`;
}

/** Unique to the attempt that writes it, so that a late attempt never touches what another has recorded. */
export function pagePath(uploadId: string, original: number, page: number, attemptKey: string): string {
  return `${uploadFolder(uploadId)}/pages/${original}-${String(page).padStart(4, '0')}.${attemptKey}.png`;
}

/** Unique to the attempt that writes it, too: `key` is random. */
export function archivePath(uploadId: string, key: string): string {
  return `${uploadFolder(uploadId)}/archives/${key}.zip`;
}
