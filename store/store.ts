/** A received file that is complete and synced, but not yet at its path. */
export interface Received {
  bytes: number;
  sha256: string;
  /** The first bytes, for sniffing: 1024, or all of a smaller file. */
  head: Buffer;
  /** Moves the file to its path for good. */
  keep(path: string): Promise<void>;
  /** Removes it. Also harmless after `keep`. */
  discard(): Promise<void>;
}

/** Where originals and pages live. Paths are relative to its root (see paths.ts). */
export interface Store {
  /** Streams a file in without holding it in memory. Leaves nothing behind when the source fails or is aborted. */
  receive(source: AsyncIterable<Buffer>): Promise<Received>;
  /** A local file with these bytes, to read. */
  localFile(path: string): string;
  /**
   * Every file below a folder, those of one folder one after another; one that holds nothing counts as a file. What is
   * added or removed meanwhile may be among them or not.
   */
  files(folder: string): AsyncIterable<string>;
  /** When a file was last written; undefined if it is not there. */
  modifiedAt(path: string): Promise<Date | undefined>;
  /** Removes a file; fine if it is not there. */
  removeFile(path: string): Promise<void>;
  /** Removes a folder with all that is in it; fine if it is not there. */
  removeFolder(path: string): Promise<void>;
  /** Room that is left, in MB. */
  freeMb(): Promise<number>;
  /** Throws unless the store can be written to. */
  check(): Promise<void>;
}
