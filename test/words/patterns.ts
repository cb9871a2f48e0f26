/** A word or phrase that prose and comments avoid. */
export interface Pattern {
  pattern: RegExp;
  /** Plain words to use instead. */
  instead: string;
  reason: string;
}

/** Phrases may span lines, so blanks are `\s+`. */
export const PROSE: Pattern[] = [
  {
    pattern: /(?<![\w`'"-])(?:What|Who|Whose|Whom|Whether|Of)(?=\s)/g,
    instead: 'begin with the subject',
    reason: 'a sentence that begins with a relative clause hides its subject',
  },
  { pattern: /\b(?:tells?|told|telling)\b/gi, instead: 'report, notify, show, say', reason: 'code does not talk' },
  { pattern: /\b(?:hears?|heard|hearing)\b/gi, instead: 'receive, notice, listen', reason: 'code does not hear' },
  { pattern: /\banew\b/gi, instead: 'again', reason: 'archaic' },
  {
    pattern: /\bof\s+(?:its|their|his|our|your|one's|a\s+\w+'s)\s+own\b/gi,
    instead: 'separate, dedicated',
    reason: 'names no property',
  },
  { pattern: /\bby\s+(?:itself|themselves)\b/gi, instead: 'automatically, alone', reason: 'two meanings' },
  { pattern: /\bfor\s+good\b/gi, instead: 'permanently', reason: 'idiom' },
  { pattern: /\bunder\s+way\b/gi, instead: 'in progress, running', reason: 'idiom' },
  { pattern: /\bbesides\b/gi, instead: 'also, beside', reason: 'two meanings' },
  { pattern: /\b(?:whoever|whomever|whosever)\b/gi, instead: 'name the person or part', reason: 'hides the subject' },
  { pattern: /\bwhat\s+it\s+takes\b/gi, instead: 'the memory, the time', reason: 'hides the object' },
  { pattern: /\bis\s+to\s+be\s+had\b/gi, instead: 'is available', reason: 'archaic' },
  { pattern: /\bcomes?\s+to\s+pass\b/gi, instead: 'happens', reason: 'archaic' },
  { pattern: /\bgoes\b/gi, instead: 'is sent, is deleted, ends', reason: 'many meanings' },
  { pattern: /(?<!`|user )\bnobody\b/gi, instead: 'no client, no process', reason: 'hides the subject' },
  { pattern: /\bjust\s+now\b/gi, instead: 'currently', reason: 'two meanings' },
];

/** Messages and test names begin in lower case. */
export const TEXTS: Pattern[] = [
  ...PROSE,
  {
    pattern: /(?<=^[`'"])(?:what|who|whose|whom|of)(?=\s)/g,
    instead: 'begin with the subject',
    reason: 'a sentence that begins with a relative clause hides its subject',
  },
];

export const IDENTIFIERS: Pattern[] = [
  {
    pattern: /^(?:MOST|LONGEST|LARGEST|DEEPEST|HIGHEST)_/g,
    instead: 'MAX_',
    reason: 'a limit has one name',
  },
  { pattern: /^(?:LEAST|SHORTEST|SMALLEST|LOWEST)_/g, instead: 'MIN_', reason: 'a limit has one name' },
];
