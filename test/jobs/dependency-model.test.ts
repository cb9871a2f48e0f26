import { sql } from 'drizzle-orm';
import fc from 'fast-check';
import { type JobStatus, RUN_ON, type RunOn } from '../../db/schema.ts';
import { AppError } from '../../runtime/errors.ts';
import { COMPLETED, FAILED_PERMANENTLY, type JobsFixture, openJobsFixture } from './fixture.ts';

/* Compares random graphs under random changes with a model that has no rows, counts or steps. */
let fixture: JobsFixture;
beforeAll(async () => {
  fixture = await openJobsFixture();
});
afterEach(() => fixture.expectSound());
afterAll(() => fixture.close());

const RUNS = Number(process.env.PROPERTY_RUNS ?? 12);
const ACTIONS = ['complete', 'fail', 'cancel', 'retry', 'delete'] as const;
type Action = (typeof ACTIONS)[number];
interface Planned {
  dependsOn: number[];
  runOn: RunOn;
}

const graphs = fc
  .array(
    fc.record({
      edges: fc.array(fc.nat({ max: 11 }), { maxLength: 3 }),
      runOn: fc.constantFrom(...RUN_ON),
    }),
    { minLength: 2, maxLength: 12 },
  )
  .map((jobs) =>
    jobs.map(
      ({ edges, runOn }, index): Planned => ({
        // Jobs depend only on earlier ones, so that there is no cycle.
        dependsOn: index === 0 ? [] : [...new Set(edges.map((edge) => edge % index))],
        runOn,
      }),
    ),
  );
const changes = fc.array(fc.tuple(fc.constantFrom(...ACTIONS), fc.nat({ max: 11 })), { maxLength: 25 });

type State = JobStatus | 'deleted';
const hasEnded = (state: State) => ['completed', 'failed', 'cancelled', 'deleted'].includes(state);

class Model {
  readonly #jobs: (Planned & { state: State; waits: boolean; left: State | undefined })[];

  constructor(plan: Planned[]) {
    this.#jobs = plan.map((job) => ({ ...job, state: 'ready', waits: job.dependsOn.length > 0, left: undefined }));
    this.#settle();
  }

  get states(): State[] {
    return this.#jobs.map(({ state }) => state);
  }

  apply(action: Action, index: number): void {
    const job = this.#jobs[index];
    if (job === undefined) return;
    const isOpen = !hasEnded(job.state);
    if (action === 'delete' && hasEnded(job.state) && job.state !== 'deleted') {
      Object.assign(job, { left: job.state, state: 'deleted', waits: false });
    } else if (action === 'cancel' && isOpen) Object.assign(job, { state: 'cancelled', waits: false });
    else if ((action === 'complete' || action === 'fail') && job.state === 'ready')
      Object.assign(job, { state: action === 'complete' ? 'completed' : 'failed', waits: false });
    else if (action === 'retry' && (job.state === 'failed' || job.state === 'cancelled')) {
      const place = this.#placeOf(job);
      if (place === 'ready' || place === 'blocked') Object.assign(job, { state: place, waits: place === 'blocked' });
    }
    this.#settle();
  }

  /** Places all jobs in one pass, because they are in the order of their dependencies. */
  #settle(): void {
    for (const job of this.#jobs) {
      if (!job.waits) continue;
      job.state = this.#placeOf(job);
      // A released job no longer depends on its prerequisites.
      if (job.state === 'ready') job.waits = false;
    }
  }

  #placeOf({ dependsOn, runOn }: Planned): State {
    const outcomes = dependsOn.map((on) => this.#jobs[on]?.left ?? this.#jobs[on]?.state ?? 'deleted');
    const open = outcomes.some((state) => !hasEnded(state));
    const failed = outcomes.some((state) => hasEnded(state) && state !== 'completed');
    if (outcomes.length === 0) return 'ready';
    if (runOn === 'success' && failed) return 'failed';
    if (open) return 'blocked';
    return runOn === 'failure' && !failed ? 'cancelled' : 'ready';
  }
}

/** Makes a change like a client or a converter; a refused change has no effect. */
async function change(action: Action, id: string): Promise<void> {
  const orRefused = (work: Promise<unknown>) =>
    work.catch((error) => {
      if (!(error instanceof AppError) || error.status !== 409) throw error;
    });
  if (action === 'cancel') await orRefused(fixture.cancel(id));
  else if (action === 'retry') await orRefused(fixture.retry(id));
  else if (action === 'delete') {
    await fixture.db.execute(sql`delete from jobs where id = ${id} and finished_at is not null`);
  } else {
    const attempts = await fixture.claim();
    for (const attempt of attempts) {
      const outcome = action === 'complete' ? COMPLETED : FAILED_PERMANENTLY;
      await fixture.settle(attempt, attempt.id === id ? outcome : { kind: 'returned' });
    }
  }
}

const submit = (plan: Planned[]) =>
  fixture.submit(
    ...plan.map(({ dependsOn, runOn }, index) => ({
      id: `j${index}`,
      dependsOn: dependsOn.map((on) => `j${on}`),
      runOn,
    })),
  );

test('each change puts every job into the status of the model', async () => {
  const run = async (plan: Planned[], list: [Action, number][]) => {
    await submit(plan);
    const model = new Model(plan);
    const ids = plan.map((_, index) => `j${index}`);
    for (const [action, index] of list) {
      model.apply(action, index);
      await change(action, `j${index}`);
      await fixture.continueChanges();
      const statuses = (await fixture.statuses(...ids)).map((status) => status ?? 'deleted');
      expect([action, index, statuses]).toEqual([action, index, model.states]);
    }
    expect(await fixture.findings()).toEqual([]);
    await fixture.empty();
  };
  await fc.assert(fc.asyncProperty(graphs, changes, run), { numRuns: RUNS, endOnFailure: true });
});

test('concurrent changes break no invariant, and no work remains', async () => {
  const run = async (plan: Planned[], list: [Action, number][]) => {
    await submit(plan);
    for (let first = 0; first < list.length; first += 5) {
      await Promise.all(list.slice(first, first + 5).map(([action, index]) => change(action, `j${index}`)));
      expect(await fixture.findings()).toEqual([]);
    }
    await fixture.continueChanges();
    expect((await fixture.db.execute(sql`select 1 from pending_outcomes`)).rowCount).toBe(0);
    expect(await fixture.findings()).toEqual([]);
    await fixture.empty();
  };
  await fc.assert(fc.asyncProperty(graphs, changes, run), { numRuns: RUNS, endOnFailure: true });
});
