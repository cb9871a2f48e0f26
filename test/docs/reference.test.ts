import { existsSync, globSync, readFileSync } from 'node:fs';
import path from 'node:path';
import packageJson from '../../package.json' with { type: 'json' };
import { ENVIRONMENT_VARIABLES, withoutApiVariables } from '../../runtime/config.ts';
import { ERROR_CODES } from '../../runtime/errors.ts';
import { ROOT } from '../support/programs.ts';
import { DOCUMENTS, readDocument } from './blocks.ts';

const MAX_COLUMNS = 120;
const MAX_README_LINES = 150;

test('docs/errors.md has a heading with cause and remedy for every error code', () => {
  const sections = readDocument('docs/errors.md').split(/^### /m).slice(1);
  expect(sections.map((section) => section.split('\n')[0]).sort()).toEqual([...ERROR_CODES].sort());
  for (const section of sections) expect(section).toMatch(/- \*\*Cause:\*\* .*- \*\*Remedy:\*\* /s);
});

describe('docs/configuration.md', () => {
  const rows = readDocument('docs/configuration.md').matchAll(/^\| `([A-Z_]+)` \| .* \| ([ACM ]+) \| .* \|$/gm);
  const readBy = new Map([...rows].map(([, name = '', processes = '']) => [name, processes.split(' ')]));

  test('lists every environment variable', () => {
    expect([...readBy.keys()].sort()).toEqual([...ENVIRONMENT_VARIABLES].sort());
  });

  test('says that converters read only variables that are passed to them', () => {
    const ofConverters = [...readBy].filter(([, processes]) => processes.includes('C')).map(([name]) => name);
    const passed = withoutApiVariables(Object.fromEntries(ofConverters.map((name) => [name, 'set'])));
    expect(Object.keys(passed)).toEqual(ofConverters);
  });
});

test('the runbook explains every alert', () => {
  const alerts = readFileSync(path.join(ROOT, 'deploy/prometheus/alerts.yml'), 'utf8').matchAll(/alert: (\w+)/g);
  const runbook = readDocument('docs/operations.md');
  for (const [, alert = ''] of alerts) expect(runbook).toContain(`\`${alert}\``);
});

test('README.md is short and names the version of Node that package.json requires', () => {
  const readme = readDocument('README.md');
  expect(readme.split('\n').length).toBeLessThanOrEqual(MAX_README_LINES);
  expect(readme).toContain(`${packageJson.engines.node.replace('>=', '')} or newer`);
});

test.each(DOCUMENTS)('%s has lines of at most 120 columns outside of tables', (document) => {
  const long = readDocument(document)
    .split('\n')
    .filter((line) => line.length > MAX_COLUMNS && !/^\s*\|/.test(line));
  expect(long).toEqual([]);
});

test.each(DOCUMENTS)('the links of %s lead to files and headings that exist', (document) => {
  const links = readDocument(document).matchAll(/\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)/g);
  for (const [link, file = '', heading] of links) {
    const target = file === '' ? document : path.join(path.dirname(document), file);
    expect([link, existsSync(path.join(ROOT, target))]).toEqual([link, true]);
    if (heading !== undefined) expect([link, anchorsOf(target)]).toEqual([link, expect.arrayContaining([heading])]);
  }
});

test.each(DOCUMENTS.filter((name) => name !== 'CHANGELOG.md'))('the files that %s names exist', (document) => {
  const named = [...readDocument(document).matchAll(/`([\w-]+\/[\w./*{},-]+)`/g)].map(([, file = '']) => file);
  const ofFolders = named.filter((file) => existsSync(path.join(ROOT, file.split('/')[0] ?? '')));
  expect(ofFolders.filter((file) => !isThere(file))).toEqual([]);
});

/** True for a file, a folder, or a test without its ending, as docs/security.md names them. */
function isThere(file: string): boolean {
  const generated = /^(scratch|coverage|dashboard\/dist)\//.test(file);
  return generated || globSync([file, `test/${file}.test.ts`], { cwd: ROOT }).length > 0;
}

/** The anchors that GitHub gives to headings. */
function anchorsOf(document: string): string[] {
  return [...readDocument(document).matchAll(/^#+ (.*)$/gm)].map(([, title = '']) =>
    title
      .toLowerCase()
      .replace(/[^\p{L}\p{N}\s_-]/gu, '')
      .replace(/\s/g, '-'),
  );
}
