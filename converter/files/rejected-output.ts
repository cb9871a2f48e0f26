/** Invalid output of a sandbox, which is not used again. The reason is public, so it names no path. */
export class RejectedOutput extends Error {
  constructor(reason: string) {
    super(reason);
    this.name = 'RejectedOutput';
  }
}
