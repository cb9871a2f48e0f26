/** Which folder may import which: everything else is refused. Each rule says why. */
const folders = 'runtime|api|converter|conversion|jobs|db|store|cli|bench|test|examples|dashboard';
/** The commands that run the service itself. */
const serviceCommands = '^cli/(serve|audit|migrate)\\.ts$';
const only = (from, allowed, comment) => ({
  name: `${from}-imports`,
  comment,
  severity: 'error',
  from: { path: `^${from}/`, pathNot: serviceCommands },
  to: { path: `^(${folders})/`, pathNot: `^(${[from, 'runtime', ...allowed].join('|')})/` },
});

export default {
  forbidden: [
    only('db', [], 'db knows tables and queries, not what they mean; nothing above it may leak in'),
    only('store', [], 'bytes by path: knows neither rows nor jobs'),
    only('jobs', ['db'], 'the engine does not know what it runs: the domain registers hooks, see jobs/domain.ts'),
    only(
      'conversion',
      ['jobs', 'db', 'store'],
      'a definition is shared by both sides, and so does not know its runner',
    ),
    only(
      'api',
      ['conversion', 'jobs', 'db', 'store'],
      'the HTTP edge and the converter meet in Postgres and the store alone',
    ),
    only('converter', ['conversion', 'jobs', 'db', 'store'], 'the converter serves no HTTP'),
    only('cli', ['api'], 'the command line uses the service over HTTP'),
    {
      name: 'service-commands-imports',
      comment: 'these commands run on the machine of the service: one starts its processes, two work on its database',
      severity: 'error',
      from: { path: serviceCommands },
      to: { path: `^(${folders})/`, pathNot: '^(cli/(arguments|errors)\\.ts$|(conversion|db|jobs|runtime)/)' },
    },
    {
      name: 'commands-are-loaded-when-they-run',
      comment: '`npm start` must not load the client, and the client must not load the database',
      severity: 'error',
      from: { path: '^cli/' },
      to: { path: '^cli/(convert|status|verify|serve|audit|migrate)\\.ts$', dependencyTypesNot: ['dynamic-import'] },
    },
    only('examples', ['jobs'], 'tasks of operators import how a task is defined, and errors'),
    only('dashboard', ['api'], 'the page uses the service over HTTP'),
    {
      name: 'types-alone-in-dashboard',
      comment: 'the page imports no code of the server, only types from the schemas of the API',
      severity: 'error',
      from: { path: '^dashboard/' },
      to: {
        path: '^(api|runtime)/',
        dependencyTypesNot: ['type-only'],
      },
    },
    {
      name: 'types-alone-in-cli',
      comment: 'at run time the client needs only Node and ws: it imports only types from the schemas of the API',
      severity: 'error',
      from: { path: '^cli/', pathNot: serviceCommands },
      to: {
        path: '^(api|runtime)/',
        dependencyTypesNot: ['type-only'],
      },
    },
    {
      name: 'runtime-imports-nothing',
      comment: 'every folder may import runtime, so it imports no other folder',
      severity: 'error',
      from: {
        path: '^runtime/',
      },
      to: { path: `^(${folders.replace('runtime|', '')})/` },
    },
    {
      name: 'bench-imports-no-test',
      comment: 'tests use parts of the benchmarks, so the other direction would be a cycle of folders',
      severity: 'error',
      from: { path: '^bench/' },
      to: { path: '^test/' },
    },
    {
      name: 'no-engine-outside-sandboxes',
      comment: 'engines decode untrusted bytes and take time to load: only the programs of a sandbox load them',
      severity: 'error',
      from: { path: '^converter/', pathNot: '^converter/(render/|sandbox/(child|compile)\\.ts$)' },
      // The maximum size of a page.
      to: { path: '^converter/render/', pathNot: '/fit\\.ts$', dependencyTypesNot: ['type-only'] },
    },
    {
      name: 'no-database-in-the-sandbox',
      comment:
        'untrusted bytes are decoded without database or HTTP, and without the time that loading them takes: types at most',
      severity: 'error',
      from: { path: '^(conversion/tasks/|converter/(render/|sandbox/child\\.ts))' },
      to: {
        path: '^(db|jobs)/|node_modules/(pg|pg-boss|drizzle-orm|express)/',
        pathNot: '^(conversion/page-selection|jobs/(background-lane|limits|shape|task|task-limits)|db/storable)\\.ts$',
        dependencyTypesNot: ['type-only'],
      },
    },
    {
      name: 'one-home-a-library',
      comment: 'pg-boss behind db/queues.ts, so that it can be understood and replaced in one place',
      severity: 'error',
      from: { pathNot: '^(db/queues\\.ts|test/|bench/)' },
      to: { path: 'node_modules/pg-boss/' },
    },
    {
      name: 'cron-parser-in-one-file',
      comment: 'it accepts more than five fields: every expression is validated first',
      severity: 'error',
      from: { pathNot: '^(jobs/cron\\.ts|test/)' },
      to: { path: 'node_modules/cron-parser/' },
    },
    {
      name: 'redis-in-one-file',
      comment: 'Redis is only a cache, which one file guarantees',
      severity: 'error',
      from: { pathNot: '^(api/http/status-cache\\.ts|test/|bench/)' },
      to: { path: 'node_modules/@redis/' },
    },
    {
      name: 'opentelemetry-in-one-file',
      comment: 'its SDK is loaded only when spans are sent',
      severity: 'error',
      from: { pathNot: '^runtime/tracing\\.ts$' },
      to: { path: 'node_modules/@opentelemetry/' },
    },
    {
      name: 'koffi-in-one-file',
      comment: 'calls of the C library are unsafe, so one file makes them',
      severity: 'error',
      from: { pathNot: '^runtime/libc\\.ts$' },
      to: { path: 'node_modules/koffi/' },
    },
    {
      name: 's3-in-store',
      comment: 'other folders depend on the interface of the store',
      severity: 'error',
      from: { pathNot: '^(store|test)/' },
      to: { path: 'node_modules/@aws-sdk/' },
    },
    {
      name: 'express-in-api',
      comment: 'HTTP stays at the edge',
      severity: 'error',
      from: { pathNot: '^(api|test)/' },
      to: { path: 'node_modules/(express|multer)/' },
    },
    {
      name: 'sharp-in-one-file',
      comment: 'its global settings (blocked loaders, caches) must be made before any use',
      severity: 'error',
      from: { pathNot: '^(converter/render/libvips\\.ts|test/|bench/)' },
      to: { path: 'node_modules/sharp/' },
    },
    {
      name: 'pdf-to-img-in-one-file',
      comment: 'renderers stand behind a small interface',
      severity: 'error',
      from: { pathNot: '^(converter/render/engines/pdf-to-img/document\\.ts|test/|bench/)' },
      to: { path: 'node_modules/(pdf-to-img|pdfjs-dist)/' },
    },
    {
      name: 'pdfium-in-one-file',
      comment: 'renderers stand behind a small interface',
      severity: 'error',
      from: { pathNot: '^(converter/render/engines/pdfium/instance\\.ts|test/|bench/)' },
      to: { path: 'node_modules/@embedpdf/pdfium/' },
    },
    {
      name: 'no-cycles',
      comment: 'a cycle of modules has no first one to read, and neither has a cycle of their types',
      severity: 'error',
      from: {},
      to: { circular: true },
    },
    {
      name: 'no-unresolved',
      comment: 'a module that cannot be resolved is checked by no rule',
      severity: 'error',
      from: {},
      to: { couldNotResolve: true },
    },
  ],
  options: {
    doNotFollow: { path: 'node_modules' },
    exclude: { path: '^(coverage|scratch|dashboard/dist)/' },
    tsPreCompilationDeps: true,
    tsConfig: { fileName: 'tsconfig.json' },
    enhancedResolveOptions: {
      exportsFields: ['exports'],
      conditionNames: ['import', 'node', 'default', 'types'],
      extensions: ['.ts', '.js', '.mjs', '.json'],
    },
  },
};
