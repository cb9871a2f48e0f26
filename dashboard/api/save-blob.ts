/** Saves bytes as a file, as a click on a link would. */
export function saveBlob(blob: Blob, filename: string): void {
  const href = URL.createObjectURL(blob);
  Object.assign(document.createElement('a'), { href, download: filename }).click();
  // The browser handles the click later.
  setTimeout(() => URL.revokeObjectURL(href), 60_000);
}
