/** Created by root, or by an ordinary user who is root in a user namespace. */
export type Namespaces = 'by-root' | 'by-user' | 'none';

export interface Isolation {
  level: Level;
  namespaces: Namespaces;
  /** The first user id of the sandboxes; null if they run as the user of the converter. */
  firstUid: number | null;
  /** The version of Landlock; 0 without it. */
  landlock: number;
  seccomp: boolean;
  hasSetpriv: boolean;
  /** The names of all active layers. */
  layers: string[];
}

/**
 * Strongest first. `namespaces`: the sandbox does not see the machine. `process`: the kernel denies access to it. `memory`:
 * the machine supports neither, and only the memory of a sandbox is limited.
 */
export const LEVELS = ['namespaces', 'process', 'memory'] as const;
export type Level = (typeof LEVELS)[number];
