import { spawn, spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { mkdir, rm } from 'node:fs/promises';
import path from 'node:path';
import { text } from 'node:stream/consumers';
import { setTimeout as delay } from 'node:timers/promises';

/** A program that turns a file into PNG files in a folder. */
interface Competitor {
  name: string;
  /** The names of the program; the first one that reports its version is used. */
  programs: string[];
  askVersion: string;
  arguments: (file: string, folder: string) => string[];
  /** The target for our speed as a multiple of its speed, by the title of the comparison. */
  targets: Record<string, number>;
}

/** A competitor that is installed. */
export type Installed = Competitor & { version: string };

export const PDF_COMPETITORS: Competitor[] = [
  {
    // ImageMagick uses the two options for antialiasing.
    name: 'Ghostscript',
    programs: ['gs'],
    askVersion: '--version',
    arguments: (file, folder) =>
      `-q -dNOPAUSE -dBATCH -dSAFER -sDEVICE=png16m -r200 -dTextAlphaBits=4 -dGraphicsAlphaBits=4 -sOutputFile=${folder}/%d.png`
        .split(' ')
        .concat(file),
    targets: { 'Article, warm': 6, 'Book, warm': 7 },
  },
  {
    name: 'pdftoppm',
    programs: ['pdftoppm'],
    askVersion: '-v',
    arguments: (file, folder) => ['-png', '-r', '200', file, `${folder}/page`],
    targets: { 'Article, warm': 12, 'Book, warm': 20 },
  },
  {
    name: 'mutool',
    programs: ['mutool'],
    askVersion: '-v',
    arguments: (file, folder) => ['draw', '-q', '-r', '200', '-o', `${folder}/%d.png`, file],
    targets: { 'Article, warm': 2, 'Article, cold': 1.2, 'Book, warm': 2.2 },
  },
];

export const IMAGE_MAGICK: Competitor = {
  name: 'ImageMagick',
  programs: ['/usr/bin/convert', 'convert', 'magick'],
  askVersion: '-version',
  arguments: (file, folder) => [file, '-auto-orient', '-resize', '3499x3499>', `${folder}/image.png`],
  targets: { images: 9 },
};

/** Limits for any picture: the limits of distributions refuse large pictures or keep them on disk, which is slow. */
export const MAGICK_POLICY = `<policymap>
${Object.entries({ memory: '64GiB', map: '64GiB', disk: '64GiB', width: '200KP', height: '200KP', area: '64GP' })
  .map(([name, value]) => `  <policy domain="resource" name="${name}" value="${value}"/>`)
  .join('\n')}
</policymap>
`;

const SAMPLE_MS = 5;

/** Finds a competitor. Another program of the same name (`convert`, for example) does not count. */
export function find(competitor: Competitor): Installed | undefined {
  const versionPattern = new RegExp(`${competitor.name === 'ImageMagick' ? 'ImageMagick ' : ''}(\\d[\\d.-]+)`);
  for (const program of competitor.programs) {
    const { stdout, stderr } = spawnSync(program, [competitor.askVersion], { encoding: 'utf8' });
    const version = versionPattern.exec(`${stdout}${stderr}`)?.[1];
    if (version) return { ...competitor, programs: [program], version };
  }
  return undefined;
}

/** Converts a file `count` times, `atOnce` at a time, into folders that are removed afterwards. */
export async function convertBy(
  competitor: Installed,
  file: string,
  { outputs, signal, count = 1, atOnce = 1 }: { outputs: string; signal: AbortSignal; count?: number; atOnce?: number },
): Promise<{ seconds: number; peakMb: number }> {
  const folders = Array.from({ length: count }, (_, index) => path.join(outputs, String(index)));
  await Promise.all(folders.map((folder) => mkdir(folder, { recursive: true })));
  let peakMb = 0;
  const waiting = [...folders];
  async function work(): Promise<void> {
    for (let folder = waiting.pop(); folder !== undefined; folder = waiting.pop()) {
      peakMb = Math.max(
        peakMb,
        await runToEnd(competitor.programs[0] ?? '', competitor.arguments(file, folder), signal),
      );
    }
  }
  const began = performance.now();
  await Promise.all(Array.from({ length: atOnce }, work));
  const seconds = (performance.now() - began) / 1000;
  await rm(outputs, { recursive: true });
  return { seconds, peakMb };
}

/** Returns the peak of the program's resident memory in MB; 0 where the kernel does not report it. */
async function runToEnd(program: string, args: string[], signal: AbortSignal): Promise<number> {
  const child = spawn(program, args, { stdio: ['ignore', 'ignore', 'pipe'], signal });
  child.on('error', () => undefined); // 'close' comes as well, and only once the program is gone
  const complaints = text(child.stderr);
  const closed = new Promise((resolve) => child.once('close', resolve));
  let peakMb = 0;
  while (child.exitCode === null && child.signalCode === null) {
    peakMb = Math.max(peakMb, peakSoFar(child.pid));
    await delay(SAMPLE_MS);
  }
  await closed;
  signal.throwIfAborted();
  if (child.exitCode !== 0)
    throw new Error(`${program} ended with ${child.signalCode ?? child.exitCode}: ${await complaints}`);
  return peakMb;
}

/** The kernel's own high-water mark, the figure by which sandboxes are measured as well. */
function peakSoFar(pid: number | undefined): number {
  try {
    return Math.ceil(Number(/VmHWM:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1] ?? 0) / 1024);
  } catch {
    return 0;
  }
}
