/** The isolation that the launcher applies before it executes the sandbox. Plain data, because it is passed as JSON. */
export interface Plan {
  program: string;
  args: string[];
  /** The private folder, the only folder that the sandbox may write to. */
  folder: string;
  /** Files and folders that the sandbox may read, none inside another, without symbolic links. */
  readable: string[];
  devices: string[];
  /** Readable folders with their paths in a private root. */
  moved: [source: string, target: string][];
  /** Symbolic links on the way to readable paths, with their targets. */
  links: [place: string, target: string][];
  /** The sandbox runs in namespaces: it gets a private root, and sees only its own processes. */
  hasNamespaces: boolean;
  /** The user of the sandbox; null for the user of the converter. */
  uid: number | null;
  /** The version of Landlock; 0 without. */
  landlock: number;
  seccomp: boolean;
  /** The process whose death ends the sandbox; null where namespaces ensure that. */
  parent: number | null;
}
