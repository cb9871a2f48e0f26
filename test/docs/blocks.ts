import { globSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { ROOT } from '../support/programs.ts';

/** A fenced block of code in a document. */
export interface Block {
  line: number;
  language: string;
  /** The second word after the fence: how a test treats the block; empty for an ordinary one. */
  mark: string;
  text: string;
}

/** All documents of the project, as paths relative to its root. */
export const DOCUMENTS = globSync(['*.md', '{docs,examples}/**/*.md'], { cwd: ROOT }).sort();

export function readDocument(document: string): string {
  return readFileSync(path.join(ROOT, document), 'utf8');
}

export function blocksOf(document: string): Block[] {
  const blocks: Block[] = [];
  let open: Block | undefined;
  for (const [index, line] of readDocument(document).split('\n').entries()) {
    const fence = /^\s*```(\S*) ?(.*)$/.exec(line);
    if (fence === null) {
      if (open !== undefined) open.text += `${line}\n`;
    } else if (open === undefined) {
      open = { line: index + 1, language: fence[1] ?? '', mark: fence[2] ?? '', text: '' };
    } else {
      blocks.push(open);
      open = undefined;
    }
  }
  if (open !== undefined) throw new Error(`${document}:${open.line}: the block is not closed`);
  return blocks;
}
