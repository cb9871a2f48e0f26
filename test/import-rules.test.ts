import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { ROOT } from './support/programs.ts';

interface Graph {
  modules: { source: string; dependencies: { resolved: string }[] }[];
  summary: { ruleSetUsed: { forbidden: { name: string; from: { path?: string }; to: { path?: string } }[] } };
}

/** The modules of the project and the rules for their imports, as dependency-cruiser reads them. */
async function readGraph(): Promise<Graph> {
  const program = 'node_modules/.bin/depcruise';
  const options = { cwd: ROOT, maxBuffer: 2 ** 26 };
  const { stdout } = await promisify(execFile)(program, ['.', '--output-type', 'json'], options);
  return JSON.parse(stdout);
}

test('every import rule applies to modules that exist', async () => {
  const { modules, summary } = await readGraph();
  const importers = modules.map(({ source }) => source);
  const imported = modules.flatMap(({ dependencies }) => dependencies.map(({ resolved }) => resolved));
  const matches = (path: string | undefined, names: string[]) =>
    path === undefined || names.some((name) => new RegExp(path).test(name));
  const unused = summary.ruleSetUsed.forbidden.filter(
    ({ from, to }) => !matches(from.path, importers) || !matches(to.path, imported),
  );
  expect(unused.map(({ name }) => name)).toEqual([]);
});
