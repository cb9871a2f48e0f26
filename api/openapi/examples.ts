/** Real answers and requests, cut where they are long: of one upload of a PDF and a photo, and of some jobs. */

const id = '01a20a0b-5ccf-7021-8a0f-3f6b1c2d4e5f';

const originals = [
  {
    original: 1,
    filename: 'two pages.pdf',
    media_type: 'application/pdf',
    bytes: 1016,
    sha256: '3b0c6f1c2d0a7e5c9d2f4a8b6e1f0d3c5b7a9e8f1c2d3b4a5f6e7d8c9b0a1f2e',
    path: `uploads/${id}/originals/1.pdf`,
    page_count: 2,
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
    width: 556,
    height: 834,
    bytes: 2204,
    dpi: 200,
    reduced: null,
    engine: 'pdf-to-img',
    error: null,
    url: `/uploads/${id}/pages/1/1.png`,
  },
];

const summary = {
  id,
  status: 'completed',
  created_at: '2026-11-24T18:02:11.407Z',
  finished_at: '2026-11-24T18:02:12.126Z',
  expires_at: null,
  priority: 'normal',
  notify_url: null,
  progress: { pages_done: 1, pages_total: 1 },
  error: null,
};

export const upload = { ...summary, originals, pages };

export const queuedUpload = {
  ...summary,
  status: 'queued',
  finished_at: null,
  progress: { pages_done: 0, pages_total: null },
  originals: originals.map((original) => ({ ...original, page_count: null })),
  pages: [],
};

export const uploadList = { items: [summary], next_cursor: id };
export const uploadStatus = {
  id,
  status: 'processing',
  done: false,
  progress: { pages_done: 120, pages_total: 353 },
  error: null,
};
export const uploadPages = { id, status: 'completed', items: pages };
export const uploadOriginals = { id, items: originals };

export const newArchive = { type: 'archive', payload: { upload_id: id } };
export const newBatch = [
  { job_id: 'sums', type: 'checksum', payload: { upload_id: id }, priority: 'high', retry_config: { max_attempts: 5 } },
  { job_id: 'zip', type: 'archive', payload: { upload_id: id }, depends_on: ['sums'], timeout_seconds: 60 },
];

export const readyJob = {
  job_id: 'job_01a20add-1f0e-7c3a-9b52-6d1c0f8e2a47',
  type: 'archive',
  status: 'ready',
  priority: 'normal',
  position_in_queue: 1,
  payload: { upload_id: id },
  resource_requirements: { cpu_units: 1, memory_mb: 256 },
  depends_on: [],
  retry_config: { max_attempts: 3, backoff_multiplier: 2, initial_delay_seconds: 1 },
  timeout_seconds: 300,
  run_at: null,
  notify_url: null,
  upload_id: null,
  parent_id: null,
  progress: null,
  result: null,
  error: null,
  created_at: '2026-11-24T18:05:40.913Z',
  started_at: null,
  finished_at: null,
};

const archivedJob = {
  ...readyJob,
  status: 'completed',
  position_in_queue: null,
  progress: { done: 1, total: 1 },
  result: {
    path: `uploads/${id}/archives/5d0e1c4b-7a3f-4b1e-9c58-0e6d2f7a9b31.zip`,
    bytes: 2330,
    sha256: '9c1185a5c5e9fc54612808977ee8f548b2258d31b5f0e1e8f2f6d0c6b7a4e3d2',
    pages: 1,
  },
  started_at: '2026-11-24T18:05:40.951Z',
  finished_at: '2026-11-24T18:05:41.107Z',
};

export const jobDetail = {
  ...archivedJob,
  attempts: [
    {
      attempt: 1,
      status: 'completed',
      converter: 'host-4711',
      cpu_units: 1,
      memory_mb: 256,
      peak_memory_mb: 111,
      started_at: archivedJob.started_at,
      finished_at: archivedJob.finished_at,
      error: null,
    },
  ],
};

export const jobList = { items: [archivedJob], next_cursor: null };
export const cancelledJob = {
  ...readyJob,
  status: 'cancelled',
  position_in_queue: null,
  finished_at: '2026-11-24T18:05:41.020Z',
  attempts: [],
};
export const retriedJob = { ...readyJob, attempts: [] };

export const jobBatch = {
  items: [
    {
      ...readyJob,
      job_id: 'sums',
      type: 'checksum',
      priority: 'high',
      position_in_queue: null,
      payload: { upload_id: id, original: 1, algorithm: 'sha256', rounds: 1 },
      retry_config: { ...readyJob.retry_config, max_attempts: 5 },
    },
    {
      ...readyJob,
      job_id: 'zip',
      status: 'blocked',
      position_in_queue: null,
      depends_on: ['sums'],
      timeout_seconds: 60,
    },
  ],
};

export const logList = {
  items: [
    { id: 41, at: '2026-11-24T18:05:40.913Z', attempt: null, level: 'info', message: 'ready', data: null },
    { id: 42, at: '2026-11-24T18:05:40.951Z', attempt: 1, level: 'info', message: 'running', data: null },
    { id: 44, at: '2026-11-24T18:05:41.107Z', attempt: 1, level: 'info', message: 'completed', data: null },
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
    },
  ],
  next_cursor: null,
};

export const scheduleRequest = {
  cron: '0 3 * * *',
  timezone: 'Europe/Berlin',
  job: { type: 'archive', payload: { upload_id: id } },
};
export const schedule = { name: 'nightly', ...scheduleRequest, created_at: '2026-11-24T18:07:02.550Z' };
export const scheduleList = { items: [schedule], next_cursor: null };

export const event = {
  id: 42,
  kind: 'job',
  job_id: readyJob.job_id,
  upload_id: null,
  type: 'archive',
  status: 'running',
  attempt: 1,
  progress: null,
  at: '2026-11-24T18:05:40.951Z',
};

export const ready = { status: 'ok', checks: { postgres: 'ok', migrations: 'ok', store: 'ok' } };

export const system = {
  converters: [
    {
      id: '6f0d9a35-1f2b-4a8e-8a51-0c9d8e7f6a5b',
      name: 'host-4711',
      capacity: { cpu_units: 4, memory_mb: 8192 },
      reserved: { cpu_units: 1, memory_mb: 256 },
      running: 1,
      started_at: '2026-11-24T18:00:00.214Z',
      heartbeat_at: '2026-11-24T18:05:39.220Z',
    },
  ],
  queues: [{ cpu_units: 1, memory_mb: 256, depth: 3, oldest_age_seconds: 0.41 }],
  throughput: [{ minute: '2026-11-24T18:05:00.000Z', completed: 12, failed: 0, peak_memory_mb: 143 }],
};

export const metrics = `# HELP sheetmill_queue_depth Ready jobs of a shape, counted up to 10000
# TYPE sheetmill_queue_depth gauge
sheetmill_queue_depth{cpu_units="1",memory_mb="256"} 3
`;
