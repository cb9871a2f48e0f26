import { drizzle } from 'drizzle-orm/node-postgres';
import pg from 'pg';
import type { Database } from '../../db/client.ts';
import { listLogs } from '../../db/job-logs.ts';
import {
  findJobDetails,
  findJobs,
  listJobs,
  listRelatives,
  positionInQueue,
  someDependenciesOf,
} from '../../db/jobs.ts';
import * as schema from '../../db/schema.ts';
import { listConverters, queueDepths, recentAbnormalEnds, recentThroughput } from '../../db/system.ts';
import {
  findOriginal,
  findPage,
  findUploads,
  listOriginals,
  listSomePages,
  listUploadIds,
  listUploads,
} from '../../db/uploads.ts';
import { countReady, readUsage } from '../../db/usage.ts';
import { listWebhooks } from '../../db/webhooks.ts';
import { type Claimant, claimJobs } from '../../jobs/claim.ts';
import { sendDueJobs } from '../../jobs/due-jobs.ts';
import { maintain } from '../../jobs/maintenance.ts';
import { type JobsFixture, openJobsFixture } from '../jobs/fixture.ts';
import { insertUploads } from '../support/listed-uploads.ts';
import { fillMillions, HUB, JOBS, jobIdOf, READY, UPLOADS, uploadIdOf } from './fill.ts';

/** `npm run test:plans`: each query on the way of a request reads few rows of a million jobs, by an index. */
const MAX_ROWS = 1_000;
const MAX_BLOCKS = 3_000;
const LIMIT = 51;
/** Tables that grow. */
const LARGE = /^(jobs|job_attempts|job_dependencies|uploads|originals|pages|events|webhooks)$/;

let fixture: JobsFixture;
let pool: pg.Pool;
let db: Database;
const statements: { query: string; params: unknown[] }[] = [];

beforeAll(async () => {
  fixture = await openJobsFixture();
  pool = new pg.Pool({ connectionString: fixture.url, max: 4 });
  await insertUploads(pool, ['model.pdf'], 'alice');
  await fixture.submit({ owner: 'alice' });
  await fillMillions(pool);
  const logger = { logQuery: (query: string, params: unknown[]) => statements.push({ query, params }) };
  db = drizzle({ client: pool, schema, logger });
}, 600_000);
afterAll(async () => {
  await pool.end();
  await fixture.close();
});

interface PlanNode {
  'Node Type': string;
  'Relation Name'?: string;
  'Actual Rows': number;
  'Actual Loops': number;
  'Rows Removed by Filter'?: number;
  'Rows Removed by Index Recheck'?: number;
  'Shared Hit Blocks': number;
  'Shared Read Blocks': number;
  Plans?: PlanNode[];
}

/** The reads of a statement: rows of tables, blocks, and large tables that it scans completely. */
async function costOf({ query, params }: { query: string; params: unknown[] }) {
  const client = await pool.connect();
  try {
    await client.query('begin');
    const { rows } = await client.query(`explain (analyze, buffers, format json) ${query}`, params);
    const plan: PlanNode = rows[0]['QUERY PLAN'][0].Plan;
    let read = 0;
    const scanned: string[] = [];
    (function add(node: PlanNode): void {
      const relation = node['Relation Name'];
      if (relation !== undefined && /Scan$/.test(node['Node Type'])) {
        const dropped = (node['Rows Removed by Filter'] ?? 0) + (node['Rows Removed by Index Recheck'] ?? 0);
        read += (node['Actual Rows'] + dropped) * node['Actual Loops'];
        if (node['Node Type'] === 'Seq Scan' && LARGE.test(relation) && node['Actual Loops'] > 0)
          scanned.push(relation);
      }
      for (const child of node.Plans ?? []) add(child);
    })(plan);
    return { rows: read, blocks: plan['Shared Hit Blocks'] + plan['Shared Read Blocks'], scanned };
  } finally {
    await client.query('rollback');
    client.release();
  }
}

type Check = [name: string, ask: () => Promise<unknown>, bounds?: { rows?: number; blocks?: number }];

const uploads = (filter: Omit<Parameters<typeof listUploads>[1], 'limit'>) => () =>
  listUploads(db, { ...filter, limit: LIMIT });
const jobs = (filter: Parameters<typeof listJobs>[1], before?: { createdAt: number; id: string }) => () =>
  listJobs(db, filter, { limit: LIMIT, before });
/** The time of creation of the job with this number, about. */
const createdAt = (n: number) => new Date(Date.now() - (JOBS - n) * 1_000);
const cursorAt = (n: number) => ({ createdAt: createdAt(n).getTime() * 1_000, id: jobIdOf(n) });

/** Add a query here when a request or a loop gets a new one. */
const CHECKS: Check[] = [
  ['uploads', uploads({})],
  ['uploads of an owner', uploads({ owner: 'bob' })],
  ['uploads of an owner who has none', uploads({ owner: 'carol' })],
  ['uploads by status', uploads({ status: 'failed' })],
  ['uploads by a status that none has', uploads({ status: 'cancelled' })],
  ['uploads of an owner by a status that none has', uploads({ owner: 'alice', status: 'queued' })],
  ['uploads far down', uploads({ owner: 'alice', before: uploadIdOf(1_000) })],
  ['uploads by a rare name', uploads({ search: 'report 176543' })],
  ['uploads of an owner by a rare name', uploads({ owner: 'alice', search: 'report 176543' })],
  ['uploads by a name that all have', uploads({ owner: 'alice', search: '.pdf' })],
  ['uploads by a name that none has', uploads({ owner: 'alice', search: 'nowhere' })],
  ['uploads by the start of an id', uploads({ search: '01990000-0000-7000-8000-00000000ab' })],
  ['uploads by letters that the index of names lacks', uploads({ search: '報告書' }), { rows: 20_100, blocks: 60_000 }],
  ['upload ids', () => listUploadIds(db, ids(uploadIdOf, 200), 'alice')],
  ['statuses', () => findUploads(db, ids(uploadIdOf, 500))],
  ['originals', () => listOriginals(db, uploadIdOf(7))],
  ['an original', () => findOriginal(db, uploadIdOf(7), 1)],
  ['pages far down', () => listSomePages(db, uploadIdOf(1), { limit: 200, after: { original: 2, page: 90_000 } })],
  ['a page', () => findPage(db, uploadIdOf(1), 2, 90_000)],
  ['webhooks of an upload', () => listWebhooks(db, { uploadId: uploadIdOf(7) }, { limit: LIMIT })],

  ['jobs', jobs({})],
  ['jobs of an owner', jobs({ owner: 'bob' })],
  ['jobs of an owner who has none', jobs({ owner: 'carol' })],
  ['jobs by status', jobs({ status: 'failed' })],
  ['jobs by a status that none has', jobs({ status: 'blocked' })],
  ['jobs by priority', jobs({ priority: 'critical' })],
  ['jobs by type', jobs({ type: 'checksum' })],
  ['jobs by a type that none has', jobs({ type: 'nothing' })],
  ['jobs of an owner by a type that only others have', jobs({ owner: 'alice', type: 'checksum' })],
  ['jobs of another owner by a type that only others have', jobs({ owner: 'bob', type: 'noop' })],
  ['jobs of an owner by type', jobs({ owner: 'bob', type: 'checksum' })],
  ['jobs of an owner by all filters', jobs({ owner: 'bob', type: 'checksum', status: 'failed', priority: 'low' })],
  ['jobs of an owner by a type and a time', jobs({ owner: 'alice', type: 'noop', createdBefore: createdAt(500) })],
  ['jobs of an upload', jobs({ uploadId: uploadIdOf(7) })],
  ['jobs of an upload and an owner', jobs({ owner: 'bob', uploadId: uploadIdOf(7) })],
  ['jobs created after', jobs({ createdAfter: createdAt(JOBS) })],
  ['jobs created before', jobs({ createdBefore: createdAt(1_000) })],
  ['jobs far down', jobs({ owner: 'alice' }, cursorAt(1_000))],
  ['jobs by type far down', jobs({ type: 'email' }, cursorAt(1_000))],
  ['some dependencies', () => someDependenciesOf(db, ids(jobIdOf, 200), 51)],
  ['job details', () => findJobDetails(db, ids(jobIdOf, 32))],
  ['the graph of a hub', () => listRelatives(db, HUB, 201), { rows: 11_000, blocks: 60_000 }],
  ['logs', () => listLogs(db, jobIdOf(7), { after: 0, limit: LIMIT })],
  ['webhooks of a job', () => listWebhooks(db, { jobId: jobIdOf(7) }, { limit: LIMIT })],
  ['the position of the last', async () => positionInQueue(db, await aJob(READY)), { rows: 2_000 }],
  ['the count of ready jobs', () => countReady(db, 10_000, 2_500), { rows: 25_000, blocks: 10_000 }],
  ['the usage of an owner', () => readUsage(db, 'alice', 2_500, 32), { rows: 3_000 }],

  ['converters', () => listConverters(db)],
  // Up to a thousand of each group, from the index alone.
  ['depths of queues', () => queueDepths(db, 1_000), { rows: 8_000 }],
  ['throughput', () => recentThroughput(db, 10)],
  ['deaths', () => recentAbnormalEnds(db, { owner: undefined, limit: 20 })],
  ['deaths of an owner', () => recentAbnormalEnds(db, { owner: 'alice', limit: 20 })],
  ['a claim', async () => claimJobs(db, fixture.queues, await claimant()), { rows: 2_000 }],
  ['due jobs, of which there are none', () => sendDueJobs(db, fixture.queues)],
  ['lost converters and overdue attempts, of which there are none', () => maintain(db, fixture.queues, fixture.log)],
];

function ids(idOf: (n: number) => string, count: number): string[] {
  return Array.from({ length: count }, (_, index) => idOf(((index + 1) * 7_919) % UPLOADS));
}

async function claimant(): Promise<Claimant> {
  const types = ['noop', 'email', 'report', 'checksum'];
  return { ...(await fixture.converter()), capacity: { cpuUnits: 64, memoryMb: 65_536 }, types, running: [] };
}

async function aJob(n: number) {
  const [job] = await findJobs(db, [jobIdOf(n)]);
  if (job === undefined) throw new Error(`there is no job ${n}`);
  return job;
}

test.each(CHECKS)('%s', async (_name, ask, { rows: maxRows = MAX_ROWS, blocks: maxBlocks = MAX_BLOCKS } = {}) => {
  statements.length = 0;
  await ask();
  const asked = statements.filter(({ query }) => /^\s*(select|with|update|delete)/i.test(query));
  expect(asked.length).toBeGreaterThan(0);
  for (const statement of asked) {
    const { rows, blocks, scanned } = await costOf(statement);
    expect({ scanned, tooManyRows: rows > maxRows && rows, tooManyBlocks: blocks > maxBlocks && blocks }).toEqual({
      scanned: [],
      tooManyRows: false,
      tooManyBlocks: false,
    });
  }
});
