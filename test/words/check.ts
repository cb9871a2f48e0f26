import { globSync, readFileSync } from 'node:fs';
import { findWords } from './find.ts';

/** `npm run check:words`: lists words that are not plain, one line each, and fails if there are any. */
const FOLDERS = 'api,bench,cli,conversion,converter,dashboard,db,docs,examples,jobs,runtime,store,test';
const files = globSync(['*.{md,ts}', `{${FOLDERS}}/**/*.{md,ts,vue}`], {
  exclude: (name) => name === 'dist' || name === 'node_modules',
});

let count = 0;
for (const file of files.filter((name) => !name.startsWith('test/words/')).sort()) {
  for (const { line, word, instead } of findWords(file, readFileSync(file, 'utf8'))) {
    process.stdout.write(`${file}:${line}: ${word} -> ${instead}\n`);
    count += 1;
  }
}
if (count > 0) process.stdout.write(`${count} words; test/words/patterns.ts has the reasons\n`);
process.exitCode = count > 0 ? 1 : 0;
