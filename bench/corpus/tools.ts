import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import path from 'node:path';
import { find, PDF_COMPETITORS } from '../competitors.ts';

/** Programs that draw a page for comparison, each with limits of time and memory. */

const TIMEOUT_SECONDS = 60;
const LIMITS = [`--as=${2 * 2 ** 30}`, `--cpu=${TIMEOUT_SECONDS}`, `--fsize=${2 ** 30}`];

export type ToolName = 'poppler' | 'mutool';

export interface Tool {
  name: ToolName;
  program: string;
  version: string;
}

export interface ToolRequest {
  file: string;
  page: number;
  dpi: number;
  /** The folder that takes the picture. */
  folder: string;
  signal: AbortSignal;
}

/** A picture, or the reason why there is none. */
export type ToolResult = { picture: string; error: null } | { picture: null; error: string };

const PROGRAMS = { poppler: 'pdftoppm', mutool: 'mutool' } as const;
const hasPrlimit = spawnSync('prlimit', ['--version']).status === 0;

/** The tools that are installed here. */
export function findTools(): Tool[] {
  return (['poppler', 'mutool'] as const).flatMap((name) => {
    const competitor = PDF_COMPETITORS.find((candidate) => candidate.name === PROGRAMS[name]);
    const found = competitor && find(competitor);
    return found ? [{ name, program: PROGRAMS[name], version: found.version }] : [];
  });
}

/** Draws one page. Rejects only when it is aborted. */
export async function drawWith(tool: Tool, request: ToolRequest): Promise<ToolResult> {
  const { signal } = request;
  const picture = path.join(request.folder, `${tool.name}-${request.page}.png`);
  const command = [tool.program, ...argumentsOf(tool.name, request, picture)];
  const [program = '', ...args] = hasPrlimit ? ['prlimit', ...LIMITS, ...command] : command;
  const ending = AbortSignal.any([signal, AbortSignal.timeout(TIMEOUT_SECONDS * 1000)]);
  // prlimit becomes the tool, so that killing it kills the tool.
  const child = spawn(program, args, { stdio: 'ignore', signal: ending, killSignal: 'SIGKILL' });
  // The abort is an error event as well; the process has ended only when it is closed.
  child.on('error', () => undefined);
  const [code, by]: unknown[] = await once(child, 'close');
  signal.throwIfAborted();
  if (ending.aborted) return { picture: null, error: `took longer than ${TIMEOUT_SECONDS} s` };
  if (by !== null) return { picture: null, error: `killed by ${by}` };
  // Both report damage by their exit code, and draw what they can.
  return existsSync(picture) ? { picture, error: null } : { picture: null, error: `no picture, exit code ${code}` };
}

function argumentsOf(name: ToolName, { file, page, dpi }: ToolRequest, picture: string): string[] {
  if (name === 'mutool') return ['draw', '-q', '-r', String(dpi), '-o', picture, file, String(page)];
  // pdftoppm appends the extension; mutool and sheetmill draw the crop box without being asked.
  const withoutExtension = picture.slice(0, -'.png'.length);
  const which = ['-f', String(page), '-l', String(page), '-singlefile', '-cropbox'];
  return [...which, '-png', '-r', String(dpi), file, withoutExtension];
}
