import { execFileSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { open, readdir, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import sharp from 'sharp';
import type { ConversionContext } from '../../conversion/conversion-task.ts';
import { archive } from '../../conversion/tasks/archive.ts';
import { conversions } from '../../converter/render/conversions.ts';

/** The file of an upload: the attack of a sandbox that has been taken over by it. */
export interface Attack {
  name: keyof typeof attacks;
  /** A file of another upload. */
  victim: string;
}

type Context = ConversionContext<Record<string, unknown>>;

const SIZE = { width: 10, height: 10 };
const FACTS = { ...SIZE, dpi: 72, reduced: null, engine: 'pdfium', note: null };

const attacks = {
  /** The page is a link to a file of another upload. */
  link: (context: Context, victim: string) => reportPage(context, (file) => symlink(victim, file)),
  /** A reader of the page waits for ever. */
  fifo: (context: Context) => reportPage(context, async (file) => void execFileSync('mkfifo', [file])),
  pathForPage: (context: Context) => reportPage(context, (file) => writePng(file), '../../1' as never),
  /** Writes to the page through a descriptor once the page is stored. */
  async changeLater(context: Context) {
    const file = context.pageOutput(1);
    await writePng(file);
    const writer = await open(file, 'r+');
    await reportPage(context, async () => undefined);
    while (existsSync(file)) await delay(10);
    await writer.write(Buffer.from('changed'), 0, 7, 20);
    await writer.close();
  },
  /** Writes to its input. */
  async changeInput(context: Context) {
    await writeFile(context.input, 'changed');
    await reportPage(context, (file) => writePng(file));
  },
  /** Converts the original of another upload as its own. */
  async split(context: Context, victim: string) {
    context.inspected({ pageCount: 1, selected: [[1, 1]] });
    const payload = { ...context.payload, path: victim, pages: [[1, 1]] };
    context.split([{ type: 'convert_range', payload, shape: { cpuUnits: -5, memoryMb: -100_000 } } as never]);
  },
  /** Follows the path of its input to other uploads, as if that was in the store. */
  async lookAround(context: Context, victim: string) {
    const uploads = path.resolve(context.input, '../../..');
    const name = victim.split('/').slice(-3).join('/');
    const found = await readFile(path.join(uploads, name)).catch(() => readdir(path.dirname(context.input)));
    context.log('info', String(found));
    await reportPage(context, (file) => writePng(file));
  },
};

async function writePng(file: string): Promise<void> {
  const image = sharp({ create: { ...SIZE, channels: 3, background: 'white' } });
  await image.png().toFile(file);
}

async function reportPage(context: Context, make: (file: string) => Promise<unknown>, page = 1): Promise<void> {
  context.inspected({ pageCount: 1, selected: [[1, 1]] });
  await make(context.pageOutput(1));
  context.page({ page, status: 'completed', ...FACTS });
}

conversions.convert = async (context) => {
  const conversion = context as unknown as Context;
  const { name, victim }: Attack = JSON.parse(await readFile(conversion.input, 'utf8'));
  await attacks[name](conversion, victim);
  return { pages: 1 };
};

/** Claims to have made a file of another upload. */
archive.run = async ({ files, output }) => {
  const [page] = files.pages;
  await (page === undefined ? symlink('/etc/passwd', output) : writeFile(output, 'archive'));
  await rm(page?.path ?? '', { force: true });
  return { path: 'uploads/other/originals/1.pdf', sha256: '', bytes: 1, pages: 1 };
};

/** It adds no task: sandboxes that load it have been taken over. */
export default [];
