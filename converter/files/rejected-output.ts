/** A result of a sandbox that breaks the rules. The reason names no path; the sandbox is not used again. */
export class RejectedOutput extends Error {
  constructor(reason: string) {
    super(reason);
    this.name = 'RejectedOutput';
  }
}
