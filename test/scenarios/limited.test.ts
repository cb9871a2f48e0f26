import path from 'node:path';
import { type Json, type Service, startService } from '../support/service.ts';

let service: Service;
beforeAll(async () => {
  const TASKS = path.join(import.meta.dirname, 'limited-tasks.ts');
  service = await startService({ converters: 2, env: { TASKS, CAPACITY_CPU: '4' } });
}, 60_000);
afterAll(() => service.stop());

test.each(['patient', 'patient_in_sandbox'])('a job of %s snoozes, asks for a retry, and completes', async (type) => {
  const { body } = await service.post('/jobs', {
    type,
    retry_config: { max_attempts: 2, initial_delay_seconds: 3_600 },
  });
  const job = await service.jobDone(body.job_id);
  expect(job).toMatchObject({ status: 'completed', result: { attempt: 3 } });
  expect(job.attempts.map(({ status }: Json) => status)).toEqual(['snoozed', 'failed', 'completed']);
});

test('jobs of one key run one after the other in two converters, those of several at once', async () => {
  const types = await service.get('/job-types');
  expect(types.items.find(({ type }: Json) => type === 'exclusive')).toMatchObject({
    concurrency: { per_type: null, per_key: 1 },
    rate: null,
  });
  const wanted = Array.from({ length: 12 }, (_, index) => ({ type: 'exclusive', concurrency_key: `key${index % 3}` }));
  const { body } = await service.post('/jobs', wanted);
  const done = await Promise.all(body.items.map(({ job_id }: Json) => service.jobDone(job_id)));
  for (const key of ['key0', 'key1', 'key2']) {
    const runs = done
      .filter(({ concurrency_key }) => concurrency_key === key)
      .map(({ attempts: [run] }) => run)
      .sort((a, b) => a.started_at.localeCompare(b.started_at));
    for (const [index, run] of runs.slice(1).entries()) {
      expect(Date.parse(run.started_at)).toBeGreaterThanOrEqual(Date.parse(runs[index].finished_at));
    }
  }
});
