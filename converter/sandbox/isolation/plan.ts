/** The steps of the launcher of a sandbox before it executes the sandbox's program. Plain data: it is passed as JSON. */
export interface Plan {
  program: string;
  args: string[];
  /** The private folder: the only place that the sandbox may write to. */
  folder: string;
  /** Files and folders that it may read, none inside another, without symbolic links. */
  readable: string[];
  devices: string[];
  /** Readable folders with the place at which they appear in a private root. */
  moved: [source: string, target: string][];
  /** Symbolic links on the way to readable paths, with their targets. */
  links: [place: string, target: string][];
  /** Namespaces were made for it: it gets a root, and sees its own processes alone. */
  hasNamespaces: boolean;
  /** The user that it becomes; null leaves it the converter's. */
  uid: number | null;
  /** The version of Landlock; 0 without. */
  landlock: number;
  seccomp: boolean;
  /** The process whose death ends the sandbox; null where something else sees to that. */
  parent: number | null;
}
