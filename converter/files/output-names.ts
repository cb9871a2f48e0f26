/** The names of output files: fixed, so that a sandbox cannot choose paths. */

export function pageName(page: number): string {
  return `${page}.png`;
}

/** The name of the single file of a task with a `filePath`. */
export const FILE_NAME = 'file';
