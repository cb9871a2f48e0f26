/** The names of results in the folder for output: a task and its converter agree on them, and nobody tells any. */

export function pageName(page: number): string {
  return `${page}.png`;
}

/** Of the one file that a task makes. */
export const FILE_NAME = 'file';
