/** Real requests and answers: of an upload of one page, and of some jobs that followed it. */

export const id = '01a20f50-4823-7e24-8897-32e4b8302ba6';

const originals = [
  {
    original: 1,
    filename: 'letter.pdf',
    media_type: 'application/pdf',
    bytes: 817,
    sha256: 'e4cd85eac318d5c3826b0eb772422ec3a5c46b026476d5838e5ff28c33525bb9',
    path: `uploads/${id}/originals/1.pdf`,
    page_count: 1,
    error: null,
    url: `/uploads/${id}/originals/1`,
  },
];

const pages = [
  {
    original: 1,
    page: 1,
    status: 'completed',
    path: `uploads/${id}/pages/1-0001.1.png`,
    width: 1653,
    height: 2339,
    bytes: 64473,
    dpi: 200,
    reduced: null,
    engine: 'pdf-to-img',
    note: null,
    error: null,
    url: `/uploads/${id}/pages/1/1.png`,
  },
];

const summary = {
  id,
  status: 'completed',
  created_at: '2026-11-24T20:47:29.436Z',
  finished_at: '2026-11-24T20:47:32.371Z',
  expires_at: null,
  priority: 'normal',
  notify_url: null,
  progress: { pages_done: 1, pages_total: 1 },
  error: null,
};

export const upload = { ...summary, originals, pages, pages_next_cursor: null };

export const queuedUpload = {
  ...summary,
  status: 'queued',
  finished_at: null,
  progress: { pages_done: 0, pages_total: null },
  originals: originals.map((original) => ({ ...original, page_count: null })),
  pages: [],
  pages_next_cursor: null,
};

export const uploadList = { items: [{ ...summary, filenames: ['a.pdf'] }], next_cursor: null };
export const uploadStatus = {
  id,
  status: 'processing',
  done: false,
  progress: { pages_done: 0, pages_total: 1 },
  error: null,
};
export const uploadPages = { id, status: 'completed', items: pages, next_cursor: null };
export const uploadOriginals = { id, items: originals };

export const webhookList = {
  items: [
    {
      id: '01a20f50-5400-7c1a-9d0e-3f1b7a6c2d11',
      url: 'https://client.example/done',
      type: 'upload.completed',
      status: 'delivered',
      created_at: '2026-11-24T20:47:32.371Z',
      finished_at: '2026-11-24T20:47:32.498Z',
      attempts: [
        { attempt: 1, started_at: '2026-11-24T20:47:32.410Z', duration_ms: 81, status_code: 204, error: null },
      ],
    },
  ],
  next_cursor: null,
};

export const newArchive = { type: 'archive', payload: { upload_id: id } };
export const newBatch = [
  { job_id: 'sums', type: 'checksum', payload: { upload_id: id }, priority: 'high', retry_config: { max_attempts: 5 } },
  { job_id: 'zip', type: 'archive', payload: { upload_id: id }, depends_on: ['sums'], timeout_seconds: 60 },
];

export const readyJob = {
  job_id: 'job_01a20f50-554b-7815-8ac3-556393c78d16',
  type: 'archive',
  status: 'ready',
  priority: 'normal',
  position_in_queue: 1,
  payload: { upload_id: id },
  resource_requirements: { cpu_units: 1, memory_mb: 256 },
  depends_on: [],
  run_on: 'success',
  retry_config: { max_attempts: 3, backoff_multiplier: 2, initial_delay_seconds: 1 },
  timeout_seconds: 300,
  run_at: null,
  notify_url: null,
  concurrency_key: null,
  upload_id: null,
  parent_id: null,
  progress: null,
  result: null,
  error: null,
  created_at: '2026-11-24T20:47:32.682Z',
  started_at: null,
  finished_at: null,
};

const archivedJob = {
  ...readyJob,
  status: 'completed',
  position_in_queue: null,
  progress: { done: 1, total: 1 },
  result: {
    path: `uploads/${id}/archives/1e141e95-5a7c-48c9-9a15-abae217af9d5.zip`,
    bytes: 64616,
    pages: 1,
    sha256: '4a888602491b13c86edaf7d80323d62ab5a11432f09843b6cc37579bb6b2cd65',
  },
  started_at: '2026-11-24T20:47:32.738Z',
  finished_at: '2026-11-24T20:47:32.921Z',
};

export const jobDetail = {
  ...archivedJob,
  attempts: [
    {
      attempt: 1,
      status: 'completed',
      converter: 'host-9788',
      cpu_units: 1,
      memory_mb: 256,
      peak_memory_mb: 145,
      started_at: archivedJob.started_at,
      finished_at: archivedJob.finished_at,
      error: null,
    },
  ],
};

export const jobList = { items: [archivedJob], next_cursor: null };
export const jobGraph = {
  items: [{ job_id: 'archive-1', type: 'archive', status: 'ready', parent_id: null, depends_on: [] }],
  complete: true,
};

export const bulkOperation = {
  id: '01a20f50-6a10-7d1f-8c3e-0a1b2c3d4e5f',
  action: 'retry',
  status: 'completed',
  count: 3,
  done: 3,
  skipped: 0,
  created_at: '2026-11-24T20:47:35.100Z',
  finished_at: '2026-11-24T20:47:35.140Z',
};

const scheduledJob = {
  ...readyJob,
  job_id: 'job_01a20f50-5dd5-72d3-9b6c-77a4dab143ff',
  status: 'scheduled',
  position_in_queue: null,
  run_at: '2026-12-24T18:00:00.000Z',
  created_at: '2026-11-24T20:47:34.869Z',
};
export const changedJob = { ...readyJob, priority: 'high', attempts: [] };
export const cancelledJob = {
  ...scheduledJob,
  status: 'cancelled',
  finished_at: '2026-11-24T20:47:34.963Z',
  attempts: [],
};
export const retriedJob = { ...scheduledJob, attempts: [] };

const inBatch = { ...readyJob, position_in_queue: null, created_at: '2026-11-24T20:47:34.628Z' };
export const jobBatch = {
  items: [
    {
      ...inBatch,
      job_id: 'sums',
      type: 'checksum',
      priority: 'high',
      payload: { rounds: 1, original: 1, algorithm: 'sha256', upload_id: id },
      retry_config: { max_attempts: 5, backoff_multiplier: 2, initial_delay_seconds: 1 },
    },
    { ...inBatch, job_id: 'zip', status: 'blocked', depends_on: ['sums'], timeout_seconds: 60 },
  ],
};

export const logList = {
  items: [
    { id: 10, at: '2026-11-24T20:47:32.698Z', attempt: 0, level: 'info', message: 'ready', data: null },
    { id: 11, at: '2026-11-24T20:47:32.754Z', attempt: 1, level: 'info', message: 'running', data: null },
    { id: 12, at: '2026-11-24T20:47:32.899Z', attempt: 1, level: 'info', message: 'hashed 1 file', data: null },
    { id: 13, at: '2026-11-24T20:47:32.966Z', attempt: 1, level: 'info', message: 'completed', data: null },
  ],
  next_cursor: null,
};

export const jobTypeList = {
  items: [
    {
      type: 'archive',
      payload: {
        $schema: 'https://json-schema.org/draft/2020-12/schema',
        type: 'object',
        properties: { upload_id: { type: 'string', format: 'uuid' } },
        required: ['upload_id'],
        additionalProperties: false,
      },
      resource_requirements: { cpu_units: 1, memory_mb: 256 },
      trusted: false,
      internal: false,
      paused: false,
      paused_at: null,
      concurrency: { per_type: null, per_key: null },
      rate: null,
    },
  ],
  next_cursor: null,
};

export const pausedJobType = { ...jobTypeList.items[0], paused: true, paused_at: '2026-11-24T20:47:32.682Z' };

export const scheduleRequest = {
  cron: '0 3 * * *',
  timezone: 'Europe/Berlin',
  job: { type: 'archive', payload: { upload_id: id } },
};
export const schedule = {
  name: 'nightly',
  ...scheduleRequest,
  paused: false,
  overlap: 'allow',
  missed: 'once',
  next_run_at: '2026-11-26T02:00:00.000Z',
  last_run_at: '2026-11-25T02:00:00.000Z',
  last_error: null,
  created_at: '2026-11-24T20:47:35.681Z',
  updated_at: '2026-11-24T20:47:35.681Z',
};
export const scheduleList = { items: [schedule], next_cursor: null };

export const event = {
  id: 11,
  kind: 'job',
  job_id: readyJob.job_id,
  upload_id: null,
  type: 'archive',
  status: 'running',
  attempt: 1,
  progress: null,
  at: '2026-11-24T20:47:32.754Z',
};

export const ready = { status: 'ok', checks: { postgres: 'ok', migrations: 'ok', store: 'ok' } };

export const system = {
  converters: [
    {
      id: 'c7d18408-9638-467c-844b-e1823234fb7e',
      name: 'host-9788',
      capacity: { cpu_units: 2, memory_mb: 23337 },
      reserved: { cpu_units: 1, memory_mb: 256 },
      running: 1,
      isolation: { level: 'process', layers: ['no_new_privs', 'landlock', 'seccomp', 'rlimits'] },
      started_at: '2026-11-24T20:46:00.893Z',
      heartbeat_at: '2026-11-24T20:47:32.701Z',
    },
  ],
  queues: [{ cpu_units: 1, memory_mb: 256, depth: 3, oldest_age_seconds: 0.41 }],
  throughput: [{ minute: '2026-11-24T20:47:00.000Z', completed: 4, failed: 0, peak_memory_mb: 179 }],
  deaths: [
    {
      job_id: 'job_01a20f50-5400-7c1a-9d0e-3f1b7a6c2d12',
      type: 'convert_range',
      upload_id: id,
      attempt: 1,
      converter: 'host-9788',
      memory_mb: 256,
      peak_memory_mb: 251,
      at: '2026-11-24T20:46:31.118Z',
      error: { code: 'out_of_memory', message: 'its sandbox was killed' },
    },
  ],
};

export const metrics = `# HELP sheetmill_queue_depth Ready jobs of a shape, counted up to 10000
# TYPE sheetmill_queue_depth gauge
sheetmill_queue_depth{cpu_units="1",memory_mb="256"} 3
`;
