import path from 'node:path';
import { readMemory } from '../../converter/sandbox/memory-limit.ts';
import { makeImage } from '../support/files.ts';
import { expectNothingLeft, type Json, type Service, startService } from '../support/service.ts';

/** How much the converter may grow while eight sandboxes send it all they can. */
const MAX_GROWTH_MB = 100;

const once = { retry_config: { max_attempts: 1 } };
const progress = `${JSON.stringify({ kind: 'progress', progress: { done: 1, total: null } })}\n`;
const ended = (outcome: unknown) => `${JSON.stringify({ kind: 'ended', outcome })}\n`;
const parts = (payload: object) =>
  ended({ kind: 'split', children: [{ type: 'convert_range', payload, shape: { cpuUnits: -5, memoryMb: -100_000 } }] });

const HOSTILE: Record<string, Json> = {
  null: { text: 'null\n' },
  'no JSON': { text: '{"kind"\n' },
  'no outcome': { text: '{"kind":"ended"}\n' },
  'a message that is no string': { text: '{"kind":"log","level":"info","message":5}\n' },
  'a page that was not requested': {
    text: '{"kind":"page","outcome":{"page":1,"status":"failed","error":{"code":"internal","message":""}}}\n',
  },
  'a split into other originals and negative shapes': { text: parts({ path: 'uploads/other/originals/1.pdf' }) },
  '400 MB without a newline': { text: 'x'.repeat(2 ** 17), times: 3_200 },
  'a million messages': { text: progress.repeat(1_000), times: 1_000 },
};

let service: Service;
beforeAll(async () => {
  const tasks = path.join(import.meta.dirname, '../converter/sandbox/raw-tasks.ts');
  service = await startService({
    env: { TASKS: tasks, CAPACITY_CPU: '3', CAPACITY_MEMORY_MB: '1024', LOG_LEVEL: 'fatal' },
  });
});
afterAll(() => service.stop());

test('an invalid message ends its sandbox, fails its job with sandbox_violation, and affects no other job', async () => {
  const [converter] = service.converters;
  const peak = () => readMemory(converter?.pid ?? 0)?.peakMb ?? 0;
  const before = peak();
  const jobs = Object.values(HOSTILE).map((payload) => ({ type: 'write_raw', payload, timeout_seconds: 30 }));
  const submitted: Json[] = await service.submit(jobs);
  const { body } = await service.upload([['a.png', await makeImage()]]);
  const ends = await Promise.all(submitted.map(({ job_id: id }) => service.jobDone(id, 50_000)));
  const upload = await service.done(body.id);

  const codes = ends.map(({ status, error, attempts }) => [status, error?.code, attempts.length]);
  expect(Object.fromEntries(Object.keys(HOSTILE).map((name, index) => [name, codes[index]]))).toEqual(
    Object.fromEntries(Object.keys(HOSTILE).map((name) => [name, ['failed', 'sandbox_violation', 1]])),
  );
  expect(upload).toMatchObject({ status: 'completed', pages: [{ status: 'completed' }] });
  expect([converter?.exitCode, converter?.signalCode]).toEqual([null, null]);
  expect(peak() - before).toBeLessThan(MAX_GROWTH_MB);
  await expectNothingLeft(service);
});

test('a task that reports without a pause and one that prints endlessly run like any other', async () => {
  const [talks, prints] = await service.submit([
    { type: 'chatter', payload: {} },
    {
      type: 'write_raw',
      payload: { text: 'x'.repeat(2 ** 16), times: 100_000, to: 'stdout' },
      ...once,
      timeout_seconds: 1,
    },
  ]);
  const [done] = await Promise.all([service.jobDone(talks.job_id), service.jobDone(prints.job_id, 50_000)]);
  expect(done).toMatchObject({ status: 'completed', progress: { done: 200_000, total: 200_000 } });
  const { items } = await service.get(`/jobs/${talks.job_id}/logs?limit=200`);
  expect(items.filter(({ message }: Json) => /^line \d+$/.test(message)).length).toBeGreaterThan(100);
});
