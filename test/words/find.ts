import path from 'node:path';
import ts from 'typescript';
import { parse } from 'vue/compiler-sfc';
import { IDENTIFIERS, type Pattern, PROSE, TEXTS } from './patterns.ts';

export interface Finding {
  line: number;
  word: string;
  instead: string;
}

/** A piece of a file that is checked, with its place in the file. */
interface Piece {
  text: string;
  offset: number;
  patterns: Pattern[];
}

/** Finds words that are not plain in the prose, comments, texts and constants of a file; its name decides how it is read. */
export function findWords(file: string, source: string): Finding[] {
  const found = piecesOf(path.extname(file), source).flatMap(({ text, offset, patterns }) =>
    patterns.flatMap(({ pattern, instead }) =>
      [...text.matchAll(pattern)].map((match) => ({ word: match[0], instead, at: offset + match.index })),
    ),
  );
  return found
    .sort((left, right) => left.at - right.at)
    .map(({ word, instead, at }) => ({
      line: source.slice(0, at).split('\n').length,
      word: word.replace(/\s+/g, ' '),
      instead,
    }));
}

function piecesOf(extension: string, source: string): Piece[] {
  if (extension === '.md') return [{ text: withoutCode(source), offset: 0, patterns: PROSE }];
  if (extension === '.vue') return piecesOfVue(source);
  return piecesOfScript(source, 0);
}

/** Markdown with blanks in place of its code, so that offsets stay. */
function withoutCode(source: string): string {
  return source.replace(/^\s*```.*?^\s*```|`[^`\n]*`/gms, (code) => code.replace(/[^\n]/g, ' '));
}

function piecesOfVue(source: string): Piece[] {
  const { script, scriptSetup, template } = parse(source).descriptor;
  const scripts = [script, scriptSetup].filter((block) => block != null);
  return [
    ...scripts.flatMap(({ content, loc }) => piecesOfScript(content, loc.start.offset)),
    ...(template?.ast === undefined ? [] : piecesOfTemplate(template.ast)),
  ];
}

interface TemplateNode {
  type: number;
  loc: { start: { offset: number }; source: string };
  children?: unknown;
  props?: unknown;
}

const ELEMENT = 1;
const DIRECTIVE = 7;

/** Text, comments and attributes of a template; its expressions are scripts. */
function piecesOfTemplate(node: TemplateNode): Piece[] {
  const below = [node.children, node.props].flatMap((part) => (Array.isArray(part) ? part.filter(isTemplateNode) : []));
  if (below.length > 0 || node.type <= ELEMENT) return below.flatMap(piecesOfTemplate);
  const { source, start } = node.loc;
  return node.type === DIRECTIVE ? [] : [{ text: source, offset: start.offset, patterns: PROSE }];
}

function isTemplateNode(value: unknown): value is TemplateNode {
  return typeof value === 'object' && value !== null && 'loc' in value && 'type' in value;
}

function piecesOfScript(source: string, offset: number): Piece[] {
  const file = ts.createSourceFile('script.ts', source, ts.ScriptTarget.Latest, true);
  const pieces = new Map<number, Piece>();
  const add = (start: number, end: number, patterns: Pattern[]) =>
    pieces.set(start, { text: source.slice(start, end), offset: offset + start, patterns });

  const visit = (node: ts.Node): void => {
    const comments = [
      ...(ts.getLeadingCommentRanges(source, node.getFullStart()) ?? []),
      ...(ts.getTrailingCommentRanges(source, node.getEnd()) ?? []),
    ];
    for (const { pos, end } of comments) pieces.set(pos, { ...commentOf(source, pos, end), offset: offset + pos });
    if (ts.isIdentifier(node)) add(node.getStart(), node.getEnd(), IDENTIFIERS);
    else if (isText(node)) add(node.getStart(), node.getEnd(), TEXTS);
    if (!ts.isJSDoc(node)) for (const child of node.getChildren(file)) visit(child);
  };
  visit(file);
  return [...pieces.values()];
}

/** A comment without the stars at the starts of its lines, which may stand within a phrase. */
function commentOf(source: string, start: number, end: number): Pick<Piece, 'text' | 'patterns'> {
  const text = source.slice(start, end).replace(/^\s*(?:\/\*\*?|\*|\/\/)/gm, (mark) => mark.replace(/[*/]/g, ' '));
  return { text, patterns: PROSE };
}

/** True for strings of several words, apart from SQL. */
function isText(node: ts.Node): boolean {
  if (!ts.isStringLiteralLike(node) && !ts.isTemplateHead(node) && !ts.isTemplateMiddleOrTemplateTail(node))
    return false;
  const template = ts.isTemplateSpan(node.parent) ? node.parent.parent : node.parent;
  const isSql = ts.isTaggedTemplateExpression(template) || ts.isTaggedTemplateExpression(template.parent);
  const text = node.getText();
  return !isSql && /\w\s+\w/.test(text) && !/^[`'"]\s*(?:select|insert|update|delete|create|alter|with) /.test(text);
}
