import { existsSync, lstatSync, readdirSync, readlinkSync, realpathSync } from 'node:fs';
import path from 'node:path';

/** Decides which files a sandbox may read. */

const PROJECT = path.resolve(import.meta.dirname, '../../..');
const MODULES = path.join(PROJECT, 'node_modules');
/** The folders of the project whose code a sandbox loads. */
export const CODE_FOLDERS = ['conversion', 'converter', 'db', 'jobs', 'runtime', 'store'];
/** Libraries, programs, and settings that they need. */
const SYSTEM = [
  ...['/usr', '/bin', '/sbin', '/lib', '/lib32', '/lib64', '/nix/store'],
  ...[
    '/etc/alternatives',
    '/etc/ld.so.cache',
    '/etc/localtime',
    '/etc/ssl/openssl.cnf',
    '/etc/ld-musl-x86_64.path',
    '/etc/ld-musl-aarch64.path',
  ],
  '/sys/kernel/mm/transparent_hugepage',
];
const DEVICES = ['/dev/null', '/dev/zero', '/dev/full', '/dev/random', '/dev/urandom'];
/** The kernel's limit of links on a path. */
const MAX_LINKS = 40;
/** Files beside code that may contain secrets. */
const PRIVATE_NAMES = /^\.(env|git|npmrc)/;

export interface ReadablePaths {
  /** Without symbolic links, none inside another. */
  readable: string[];
  links: [place: string, target: string][];
  devices: string[];
}

/** Folders in `hidden` are excluded, even inside readable ones. */
export function readablePaths(tasksModule: string | undefined, hidden: string[]): ReadablePaths {
  const links = new Map<string, string>();
  const hiddenPaths = hidden.map((folder) => withoutLinks(folder, new Map()));
  const wanted = [
    ...SYSTEM,
    process.execPath,
    ...codeOfProject(),
    ...(tasksModule === undefined ? [] : codeAround(tasksModule)),
  ];
  const found = wanted.flatMap((place) => outside(place, hiddenPaths, links));
  const readable = [...new Set(found)].filter((place) => !found.some((other) => isInside(place, other)));
  // Links inside readable folders exist already.
  const made = [...links].filter(([place]) => !readable.some((folder) => isInside(place, folder)));
  return { readable, links: made, devices: DEVICES.filter((device) => existsSync(device)) };
}

function codeOfProject(): string[] {
  return [
    ...['package.json', 'node_modules', ...CODE_FOLDERS].map((name) => path.join(PROJECT, name)),
    ...linkedPackages(MODULES),
  ];
}

/** Some package managers link packages: their real folders, with the packages beside them. */
function linkedPackages(folder: string): string[] {
  const found = readdirSync(folder, { withFileTypes: true }).flatMap((entry) => {
    const place = path.join(folder, entry.name);
    if (entry.name.startsWith('@') && entry.isDirectory()) return linkedPackages(place);
    if (!entry.isSymbolicLink() || !existsSync(place)) return [];
    const target = realpathSync(place);
    const end = target.lastIndexOf('/node_modules/');
    return [end < 0 ? target : target.slice(0, end + '/node_modules'.length)];
  });
  return [...new Set(found)];
}

/** The package of the module, or its folder outside of a package, and the files that Node reads in the folders above. */
function codeAround(module: string): string[] {
  const folders = foldersAbove(module);
  const root = folders.find((folder) => existsSync(path.join(folder, 'package.json'))) ?? path.dirname(module);
  return [
    root,
    ...foldersAbove(root).flatMap((place) => ['package.json', 'node_modules'].map((name) => path.join(place, name))),
  ];
}

function foldersAbove(place: string): string[] {
  const parent = path.dirname(place);
  return parent === place ? [] : [parent, ...foldersAbove(parent)];
}

/** The path with all symbolic links resolved, which are added to `links`. Empty if it does not exist, or has too many. */
function withoutLinks(place: string, links: Map<string, string>, depth = 0): string {
  if (depth > MAX_LINKS) return '';
  let resolved = '/';
  for (const name of path.resolve(place).split('/').filter(Boolean)) {
    const next = path.join(resolved, name);
    const stats = lstatSync(next, { throwIfNoEntry: false });
    if (stats === undefined) return '';
    if (!stats.isSymbolicLink()) {
      resolved = next;
      continue;
    }
    const target = readlinkSync(next);
    links.set(next, target);
    resolved = withoutLinks(path.resolve(resolved, target), links, depth + 1);
    if (resolved === '') return '';
  }
  return resolved;
}

/** The path without links if all of it is readable; otherwise its entries that are neither hidden nor private. */
function outside(wanted: string, hidden: string[], links: Map<string, string>): string[] {
  const place = withoutLinks(wanted, links);
  if (place === '' || hidden.some((one) => one === place || isInside(place, one))) return [];
  const entries = isFolder(place) ? readdirSync(place) : [];
  const holdsHidden = hidden.some((one) => isInside(one, place)) || entries.some((name) => PRIVATE_NAMES.test(name));
  if (!holdsHidden) return [place];
  return entries
    .filter((name) => !PRIVATE_NAMES.test(name))
    .flatMap((name) => outside(path.join(place, name), hidden, links));
}

function isFolder(place: string): boolean {
  return lstatSync(place).isDirectory();
}

function isInside(place: string, folder: string): boolean {
  return folder !== '' && place.startsWith(folder === '/' ? '/' : `${folder}/`) && place !== folder;
}
