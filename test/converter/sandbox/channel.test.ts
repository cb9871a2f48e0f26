import type { ChildProcess } from 'node:child_process';
import { type Duplex, duplexPair } from 'node:stream';
import fc from 'fast-check';
import type { TaskRequest } from '../../../converter/run-task.ts';
import { Channel } from '../../../converter/sandbox/channel.ts';
import type { RunMessage } from '../../../converter/sandbox/protocol.ts';

const UPLOAD = '01990000-0000-7000-8000-000000000000';
const MB = 2 ** 20;

function requestOf(type: string, payload: Record<string, unknown>, more: Partial<TaskRequest> = {}): TaskRequest {
  return {
    type,
    payload,
    attempt: 1,
    files: { originals: [], pages: [] },
    input: 'a.pdf',
    password: null,
    dependencies: [],
    settledPages: [],
    failedSteps: [],
    reservation: { cpuUnits: 1, memoryMb: 256 },
    limits: { maxPages: 20, maxPixels: 1e8, stepSeconds: 30, firstEngine: 'pdfium' },
    outputFolder: '/out',
    ...more,
  };
}

const original = { upload_id: UPLOAD, original: 1, path: 'a.pdf', media_type: 'application/pdf', dpi: 200 };
const CONVERT = requestOf('convert', { ...original, page_selection: '1-3' });
const RANGE = requestOf('convert_range', { ...original, pages: [[4, 6]] }, { settledPages: [6] });
const IMAGE = requestOf('convert', { ...original, media_type: 'image/png', page_selection: null });
const OWN = requestOf('own', {});

/** A connection whose other side the test controls. */
function connect() {
  const [ours, theirs] = duplexPair();
  const reasons: string[] = [];
  const messages: RunMessage[] = [];
  const stdio = [null, null, null, theirs] as unknown as ChildProcess['stdio'];
  const channel = new Channel({ stdio }, (reason) => reasons.push(reason));
  // The messages of the converter must be read, or it would wait.
  ours.on('error', () => undefined).resume();
  const onMessage = (message: RunMessage): Promise<void> | undefined => {
    messages.push(message);
    return undefined;
  };
  return { ours, channel, reasons, messages, onMessage };
}

const line = (value: unknown) => `${JSON.stringify(value)}\n`;
const READY = line({ kind: 'ready' });

/** Sends lines during a run of `request`. Returns the reasons of violations, and the messages that passed. */
async function send(request: TaskRequest, ...lines: unknown[]) {
  const { ours, channel, reasons, messages, onMessage } = connect();
  ours.write(READY);
  await channel.ready;
  channel.run(request, onMessage);
  for (const each of lines) ours.write(typeof each === 'string' || Buffer.isBuffer(each) ? each : line(each));
  ours.end();
  await channel.ended;
  return { reason: reasons[0], messages };
}

const inspected = (pageCount: number, ...selected: [number, number][]) => ({
  kind: 'inspected',
  found: { pageCount, selected },
});
const page = (number: number, more = {}) => ({
  kind: 'page',
  report: {
    page: number,
    status: 'completed',
    ...{ width: 1700, height: 2200, dpi: 200, reduced: null, engine: 'pdfium' },
    note: null,
    ...more,
  },
});
const failed = (number: number) => ({
  kind: 'page',
  report: { page: number, status: 'failed', error: { code: 'corrupt_file', message: 'no page' } },
});
const step = (number: number | null, engine = 'pdfium') => ({
  kind: 'step',
  step: { page: number, engine, last: true },
});
const ended = (outcome: unknown) => ({ kind: 'ended', outcome });
const COMPLETED = ended({ kind: 'completed', result: {} });
const split = (...parts: [memoryMb: unknown, ...pages: [number, number][]][]) =>
  ended({ kind: 'split', parts: parts.map(([memoryMb, ...pages]) => ({ pages, memoryMb })) });
/** An outcome with nested lists. */
const nested = (depth: number) => `{"kind":"ended","outcome":${'['.repeat(depth)}${']'.repeat(depth)}}\n`;
const nestedResult = (depth: number) =>
  `{"kind":"ended","outcome":{"kind":"completed","result":{"a":${'['.repeat(depth)}${']'.repeat(depth)}}}}\n`;

test.each<[string, TaskRequest, unknown[]]>([
  ['a conversion', CONVERT, [step(null), inspected(9, [1, 3]), step(1), page(1), failed(2), page(3), COMPLETED]],
  ['a conversion that is split', CONVERT, [inspected(9, [1, 3]), failed(2), split([256, [1, 1]], [16_384, [3, 3]])]],
  ['a page of a kilometre', RANGE, [page(4, { dpi: 0, reduced: 'fits below 3500' }), page(5), COMPLETED]],
  ['a range', RANGE, [step(4), page(4, { dpi: 31.5, reduced: 'fits below 3500', note: 'n' }), page(5), COMPLETED]],
  ['an image', IMAGE, [inspected(1, [1, 1]), step(1, 'sharp'), page(1, { engine: 'sharp', dpi: null }), COMPLETED]],
  ['a task that reports progress', OWN, [{ kind: 'progress', progress: { done: 1, total: 1 } }, COMPLETED]],
  ['a task that logs', OWN, [{ kind: 'log', level: 'info', message: 'm', data: { a: [1] } }, COMPLETED]],
  ['a task that snoozes', OWN, [ended({ kind: 'snoozed', seconds: 1 })]],
  [
    'a task that fails',
    OWN,
    [ended({ kind: 'failed', error: { code: 'task_failed', message: '' }, retryable: true, retryAfterSeconds: 0 })],
  ],
  ['a long result', OWN, [ended({ kind: 'completed', result: { text: '\u4e00'.repeat(262_000) } })]],
])('%s is accepted', async (_name, request, lines) => {
  const { reason, messages } = await send(request, ...lines);
  expect(reason).toBeUndefined();
  expect(messages).toEqual(lines);
});

test.each<[string, TaskRequest, unknown[]]>([
  ['null', OWN, [null]],
  ['no JSON', OWN, ['{"kind"\n']],
  ['an empty line', OWN, ['\n']],
  ['bytes that are no UTF-8', OWN, [Buffer.from('"\xff"\n', 'latin1')]],
  ['a number beyond all numbers', OWN, ['{"kind":"progress","progress":{"done":1e999,"total":null}}\n']],
  ['a further member', OWN, ['{"kind":"progress","progress":{"done":1,"total":null},"__proto__":{"a":1}}\n']],
  ['a message that is no string', OWN, [{ kind: 'log', level: 'info', message: 5 }]],
  ['a long message', OWN, [{ kind: 'log', level: 'info', message: 'x'.repeat(10_001) }]],
  ['a NUL', OWN, [{ kind: 'log', level: 'info', message: '\0' }]],
  ['large data', OWN, [{ kind: 'log', level: 'info', message: '', data: { a: 'x'.repeat(32_768) } }]],
  ['too many lines', OWN, Array(1_001).fill({ kind: 'log', level: 'info', message: '' })],
  ['too many messages', OWN, [line({ kind: 'progress', progress: { done: 1, total: null } }).repeat(20_000)]],
  ['an end without an outcome', OWN, [{ kind: 'ended' }]],
  ['an end after the end', OWN, [COMPLETED, COMPLETED]],
  ['a second ready', OWN, [READY]],
  ['a second warm', OWN, [{ kind: 'warm' }, { kind: 'warm' }]],
  ['a large result', OWN, [ended({ kind: 'completed', result: { text: 'x'.repeat(262_144) } })]],
  ['deep nesting', OWN, [nested(200_000)]],
  ['a deep result', OWN, [nestedResult(100_000)]],
  ['an unknown code', OWN, [ended({ kind: 'failed', error: { code: 'nope', message: '' }, retryable: true })]],
  ['an endless snooze', OWN, [ended({ kind: 'snoozed', seconds: 1e9 })]],
  ['a page of a task that converts nothing', OWN, [failed(1)]],
  ['a step of a task that converts nothing', OWN, [step(null)]],
  ['a split of a task that converts nothing', OWN, [split([256, [1, 1]])]],
  ['a conversion that snoozes', CONVERT, [ended({ kind: 'snoozed', seconds: 1 })]],
  ['a page before the inspection', CONVERT, [page(1)]],
  ['an end before the inspection', CONVERT, [COMPLETED]],
  ['another selection', CONVERT, [inspected(9, [1, 4])]],
  ['a selection beyond the last page', CONVERT, [inspected(2, [1, 2])]],
  ['a second inspection', CONVERT, [inspected(9, [1, 3]), inspected(9, [1, 3])]],
  ['an inspection of a range', RANGE, [inspected(9, [4, 6])]],
  ['an image of two pages', IMAGE, [inspected(2, [1, 2])]],
  ['too many pages', requestOf('convert', { ...original, page_selection: null }), [inspected(21, [1, 21])]],
  ['a page that was not asked for', RANGE, [page(7)]],
  ['a page twice', RANGE, [page(4), failed(4)]],
  ['a page that was settled before', RANGE, [page(6)]],
  ['a page with a path', RANGE, [page(4, { path: `uploads/${UPLOAD}/originals/1.pdf` })]],
  ['a page that is too wide', RANGE, [page(4, { width: 3_500 })]],
  ['a page without rows', RANGE, [page(4, { height: 0 })]],
  ['a page of a fraction of a pixel', RANGE, [page(4, { width: 0.5 })]],
  ['a page with more dpi', RANGE, [page(4, { dpi: 201 })]],
  ['a page by an unknown engine', RANGE, [page(4, { engine: 'mine' })]],
  ['a page of a PDF by the engine for images', RANGE, [page(4, { engine: 'sharp', dpi: null })]],
  ['a step for another page', RANGE, [step(1)]],
  ['an end without a page', RANGE, [page(4), COMPLETED]],
  ['a split of a range', RANGE, [split([256, [4, 5]])]],
  ['a split into nothing', CONVERT, [inspected(9, [1, 3]), split()]],
  ['a split without a page', CONVERT, [inspected(9, [1, 3]), split([256, [1, 2]])]],
  ['a split with a page twice', CONVERT, [inspected(9, [1, 3]), split([256, [1, 3]], [256, [3, 3]])]],
  ['a split with too many pages', CONVERT, [inspected(9, [1, 3]), split([256, [1, 2_147_483_647]])]],
  ['a split with a negative reservation', CONVERT, [inspected(9, [1, 3]), split([-100_000, [1, 3]])]],
  ['a split of no memory class', CONVERT, [inspected(9, [1, 3]), split([300, [1, 3]])]],
])('%s ends the connection', async (_name, request, lines) => {
  const { reason } = await send(request, ...lines);
  expect(reason).toEqual(expect.any(String));
  expect(reason?.length).toBeLessThan(500);
});

test.each([
  ['before it is ready', [line({ kind: 'warm' })]],
  ['between two tasks', [READY, line({ kind: 'step' })]],
  ['between two tasks and longer than any that may come then', [READY, line(step(1))]],
])('a message %s ends the connection', async (_name, lines) => {
  const { ours, channel, reasons } = connect();
  for (const each of lines) ours.write(each);
  await channel.ended;
  expect(reasons).toHaveLength(1);
});

/** Writes until the other side closes. Returns the number of bytes written. */
async function flood(ours: Duplex, chunk: Buffer, mostBytes: number): Promise<number> {
  let bytes = 0;
  const closed = new Promise((resolve) => ours.once('close', resolve));
  while (bytes < mostBytes && !ours.destroyed) {
    bytes += chunk.length;
    if (!ours.write(chunk)) await Promise.race([closed, new Promise((resolve) => ours.once('drain', resolve))]);
  }
  return bytes;
}

test('a line that is too long ends the connection, in chunks of any size', async () => {
  for (const size of [1, 65_536]) {
    const { ours, channel, reasons, onMessage } = connect();
    ours.write(READY);
    await channel.ready;
    if (size > 1) channel.run(OWN, onMessage);
    const taken = flood(ours, Buffer.alloc(size, 'x'), 400 * MB);
    await channel.ended;
    ours.destroy();
    expect(await taken).toBeLessThan(2 * MB);
    expect(reasons).toEqual([size > 1 ? `a line has more than ${MB} bytes` : 'a line has more than 64 bytes']);
  }
});

test('no message is read while another is handled', async () => {
  const { ours, channel } = connect();
  ours.write(READY);
  await channel.ready;
  const first = Promise.withResolvers<void>();
  const seen: string[] = [];
  channel.run(OWN, (message) => {
    seen.push(message.kind);
    return message.kind === 'log' ? first.promise : undefined;
  });
  ours.write(line({ kind: 'log', level: 'info', message: '' }));
  const taken = flood(ours, Buffer.from(line({ kind: 'progress', progress: { done: 1, total: null } })), MB);
  await new Promise((resolve) => setTimeout(resolve, 50));
  expect(seen).toEqual(['log']);
  expect(ours.writableNeedDrain).toBe(true);
  channel.close();
  first.resolve();
  ours.destroy();
  await taken;
});

const anyText = fc.string({ unit: 'binary', maxLength: 30 });
const anyPage = fc.integer({ min: -1, max: 8 });
const validMessage = fc.oneof(
  anyPage.map((number) => page(number)),
  anyPage.map(failed),
  anyPage.map((number) => step(number)),
  fc.constantFrom(inspected(9, [1, 3]), inspected(9, [4, 6]), COMPLETED, split([256, [1, 3]]), { kind: 'warm' }),
  fc.record({
    kind: fc.constant('log'),
    level: fc.constant('info'),
    message: anyText,
    data: fc.dictionary(anyText, fc.jsonValue()),
  }),
);
/** Messages with one member of any other value. */
const wrongMessage = fc
  .tuple(validMessage, fc.nat(), fc.anything({ withNullPrototype: true }))
  .map(([message, at, value]) => {
    const copy = structuredClone(message) as Record<string, unknown>;
    const inner = Object.values(copy).find((member) => typeof member === 'object' && member !== null) ?? copy;
    const names = [...Object.keys(inner), '__proto__', 'constructor'];
    Object.defineProperty(inner, names[at % names.length] ?? '', { value, enumerable: true, configurable: true });
    return copy;
  });
const anyLine = fc.oneof(
  validMessage.map((message) => Buffer.from(line(message))),
  wrongMessage.map((message) => Buffer.from(safeLine(message))),
  fc.json().map((json) => Buffer.from(`${json}\n`)),
  fc.uint8Array({ maxLength: 40 }).map((bytes) => Buffer.from(bytes)),
);

function safeLine(value: unknown): string {
  try {
    return line(value);
  } catch {
    return '\n';
  }
}

test('random data causes no exception, and only valid messages pass', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.constantFrom(CONVERT, RANGE, IMAGE, OWN),
      fc.array(anyLine, { minLength: 1, maxLength: 12 }),
      fc.integer({ min: 1, max: 200 }),
      async (request, lines, size) => {
        const { ours, channel, messages, onMessage, reasons } = connect();
        ours.write(READY);
        await channel.ready;
        channel.run(request, onMessage);
        const bytes = Buffer.concat(lines);
        for (let at = 0; at < bytes.length; at += size) ours.write(bytes.subarray(at, at + size));
        ours.end();
        await channel.ended;
        expect(reasons.length).toBeLessThanOrEqual(1);
        const made = messages.flatMap((message) => (message.kind === 'page' ? [message.report.page] : []));
        expect(new Set(made).size).toBe(made.length);
        const allowed = request === RANGE ? [4, 5] : request === IMAGE ? [1] : request === CONVERT ? [1, 2, 3] : [];
        expect(made.filter((number) => !allowed.includes(number))).toEqual([]);
        expect(messages.slice(0, -1).map(({ kind }) => kind)).not.toContain('ended');
      },
    ),
    { numRuns: 1_000 },
  );
});
