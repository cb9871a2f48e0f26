/** Keeps bytes as a file of who looks, as a click on a link would. */
export function saveBlob(blob: Blob, filename: string): void {
  const href = URL.createObjectURL(blob);
  Object.assign(document.createElement('a'), { href, download: filename }).click();
  // The click is taken up a moment later.
  setTimeout(() => URL.revokeObjectURL(href), 60_000);
}
