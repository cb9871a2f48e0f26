import { findWords } from './find.ts';
import { IDENTIFIERS, TEXTS } from './patterns.ts';

const wordsIn = (file: string, source: string) => findWords(file, source).map(({ line, word }) => `${line}: ${word}`);

test('every pattern has a reason and a replacement', () => {
  for (const { reason, instead } of [...TEXTS, ...IDENTIFIERS]) expect([reason, instead]).not.toContain('');
});

test('prose of Markdown is checked, its code is not', () => {
  const source = 'Clients are told.\n\n```sh\necho told\n```\n\nA `told` field. Of\nthese, some run by\nitself.\n';
  expect(wordsIn('a.md', source)).toEqual(['1: told', '7: Of', '8: by itself']);
});

test('comments and texts of TypeScript are checked', () => {
  const source = [
    '/** Runs a queue of its',
    ' * own. */',
    "const a = 'queued anew'; // for good",
    'const b = `$' + '{a} is under way $' + '{a}`;',
    'function f() {',
    '  // Whether it runs.',
    '}',
  ].join('\n');
  expect(wordsIn('a.ts', source)).toEqual(['1: of its own', '3: anew', '3: for good', '4: under way', '6: Whether']);
});

test('the Unix user nobody can be named', () => {
  expect(wordsIn('a.md', 'Nobody listens.\n')).toEqual(['1: Nobody']);
  expect(wordsIn('a.ts', '// Runs as `nobody`, the user nobody.\n')).toEqual([]);
});

test('texts begin with their subject', () => {
  expect(wordsIn('a.ts', "test('what waits is kept', f);\nfail('the part of what waits');")).toEqual(['1: what']);
});

test('names, single words, regular expressions and SQL are no prose', () => {
  const source = "const told = 'anew';\nconst r = /told it/;\nconst q = sql`select told from hear`;\n";
  expect(wordsIn('a.ts', source)).toEqual([]);
});

test('constants that name a limit begin with MAX_ or MIN_', () => {
  expect(wordsIn('a.ts', 'const MOST_PAGES = 1;\nconst MAX_PAGES = 1;\nconst SHORTEST_WAIT = 2;')).toEqual([
    '1: MOST_',
    '3: SHORTEST_',
  ]);
});

test('scripts, text and attributes of Vue components are checked', () => {
  const source = [
    '<script setup lang="ts">',
    '// What runs.',
    'const a = 1;',
    '</script>',
    '<template>',
    '  <p title="It is told">An upload of its own {{ a }}</p>',
    '</template>',
  ].join('\n');
  expect(wordsIn('a.vue', source)).toEqual(['2: What', '6: told', '6: of its own']);
});
