import { cpSync, existsSync, globSync, mkdirSync, readdirSync, readFileSync, realpathSync, symlinkSync } from 'node:fs';
import path from 'node:path';
import { ROOT } from './programs.ts';

/** Reads from the Dockerfile the files of the image and the start of a container. */

/** The name and the arguments of each instruction. */
export const instructions = readFileSync(path.join(ROOT, 'Dockerfile'), 'utf8')
  .replaceAll(/^#.*\n/gm, '')
  .replaceAll(/\\\n\s*/g, '')
  .split('\n')
  .filter((line) => line !== '')
  .map((line) => /^(\w+)\s+(.*)$/.exec(line)?.slice(1) as [name: string, rest: string]);

const lastStage = instructions.slice(instructions.findLastIndex(([name]) => name === 'FROM'));
const rests = (wanted: string) => lastStage.flatMap(([name, rest]) => (name === wanted ? [rest] : []));
const listIn = (text = ''): string[] => JSON.parse(text.slice(text.indexOf('[')));

export const image = {
  env: Object.fromEntries(rests('ENV').flatMap((rest) => rest.split(' ').map((pair) => pair.split(/=(.*)/)))),
  user: rests('USER').at(-1),
  entrypoint: listIn(rests('ENTRYPOINT')[0]),
  command: listIn(rests('CMD')[0]),
  healthcheck: listIn(rests('HEALTHCHECK')[0]),
};

/** The names at the root of the project that .dockerignore lets into the build context. */
export function buildContext(): Set<string> {
  const given = new Set(readdirSync(ROOT));
  for (const line of readFileSync(path.join(ROOT, '.dockerignore'), 'utf8').split('\n').filter(Boolean)) {
    const again = line.startsWith('!');
    for (const name of again ? globSync(line.slice(1), { cwd: ROOT }) : [...given]) {
      if (again) given.add(name);
      else if (path.matchesGlob(name, line) || line === '*') given.delete(name);
    }
  }
  return given;
}

/** Creates in `folder` the content of /app in the image: the copied files, and links to the installed dependencies. */
export function layOutImage(folder: string): void {
  const context = buildContext();
  mkdirSync(folder);
  for (const copied of rests('COPY').filter((rest) => !rest.startsWith('--from='))) {
    const words = copied.split(/\s+/);
    const target = words.pop() as string;
    for (const source of words) {
      const names = [...context].filter((name) => path.matchesGlob(name, source));
      if (names.length === 0) throw new Error(`COPY ${source}: the build context has no such file`);
      for (const name of names) {
        cpSync(path.join(ROOT, name), path.join(folder, target.endsWith('/') ? name : target), { recursive: true });
      }
    }
  }
  linkDependencies(folder);
}

function linkDependencies(folder: string): void {
  const removed = instructions.flatMap(([, rest]) => /\brm -rf? (.*)/.exec(rest)?.[1]?.split(' ') ?? []);
  const lock = JSON.parse(readFileSync(path.join(ROOT, 'package-lock.json'), 'utf8'));
  const installed = Object.entries<{ dev?: boolean }>(lock.packages)
    .filter(([name, { dev }]) => /^node_modules\/(@[^/]+\/)?[^/]+$/.test(name) && !dev)
    .map(([name]) => name)
    .filter((name) => !removed.some((gone) => name === gone || name.startsWith(`${gone}/`)))
    // The lock file lists packages for other systems, which are not installed.
    .filter((name) => existsSync(path.join(ROOT, name)));
  for (const name of installed) {
    mkdirSync(path.dirname(path.join(folder, name)), { recursive: true });
    symlinkSync(realpathSync(path.join(ROOT, name)), path.join(folder, name));
  }
}
