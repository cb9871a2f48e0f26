import { totalmem } from 'node:os';
import path from 'node:path';
import { parseConfig, sharedCapacityMb } from '../../runtime/config.ts';

test('the defaults are a configuration for one machine', () => {
  expect(parseConfig({})).toMatchObject({
    HOST: '127.0.0.1',
    PORT: 3000,
    DATA_DIR: path.resolve('scratch'),
    STORE_DIR: path.resolve('scratch/store'),
    MAX_UPLOAD_MB: 2048,
    LOG_LEVEL: 'info',
  });
  expect(parseConfig({}).DATABASE_URL).toBeUndefined();
  expect(parseConfig({}).CAPACITY_CPU).toBeGreaterThan(0);
});

test('the default capacity is the memory of the machine less that of the processes', () => {
  const machineMb = Math.floor(Math.min(totalmem(), process.constrainedMemory() || Infinity) / 2 ** 20);
  expect(parseConfig({}).CAPACITY_MEMORY_MB).toBe(Math.max(256, machineMb - 128));
  expect(sharedCapacityMb({})).toBe(String(Math.max(256, machineMb - 640)));
  expect(sharedCapacityMb({ CAPACITY_MEMORY_MB: '300' })).toBe('300');
});

test('the default capacity is smaller with a store on S3', () => {
  const s3 = { STORE_URL: 's3://bucket' };
  const least = (mb: number) => Math.max(256, mb - 64);
  expect(parseConfig(s3).CAPACITY_MEMORY_MB).toBe(least(parseConfig({}).CAPACITY_MEMORY_MB));
  expect(sharedCapacityMb(s3)).toBe(String(least(Number(sharedCapacityMb({})))));
});

test('variables are converted to their types', () => {
  const config = parseConfig({
    PORT: '0',
    DATA_DIR: '/var/lib/x/../sheetmill',
    DATABASE_URL: 'postgresql://a:b@c/d',
    MAX_UPLOAD_MB: '1',
    CAPACITY_CPU: '3',
    LOG_LEVEL: 'silent',
  });
  expect(config).toMatchObject({
    PORT: 0,
    DATA_DIR: '/var/lib/sheetmill',
    STORE_DIR: '/var/lib/sheetmill/store',
    DATABASE_URL: 'postgresql://a:b@c/d',
    MAX_UPLOAD_MB: 1,
    CAPACITY_CPU: 3,
    LOG_LEVEL: 'silent',
  });
});

test('an empty variable counts as unset', () => {
  expect(parseConfig({ PORT: '', DATABASE_URL: '', HOST: '', LOG_LEVEL: '' })).toEqual(parseConfig({}));
});

test('unknown variables are ignored', () => {
  expect(parseConfig({ PATH: '/bin', port: 'x', SHEETMILL: '1' })).toEqual(parseConfig({}));
});

test('errors hide secrets and the passwords of URLs', () => {
  for (const value of ['mysql://me:secret/with@signs@host/db', 'postgres:me:secret@host/db', 'secret'])
    for (const name of ['DATABASE_URL', 'DATABASE_READ_URL', 'REDIS_URL'])
      expect(() => parseConfig({ [name]: value })).toThrow(new RegExp(`^${name}: must begin with \\w+:// or \\w+://$`));
  expect(() => parseConfig({ JWT_JWKS_URL: 'ftp://me:secret/with@signs@host' })).toThrow(
    'JWT_JWKS_URL="ftp://...@host": must be a http or https URL',
  );
});

test.each([
  ['PORT', 'abc'],
  ['PORT', '65536'],
  ['PORT', '-1'],
  ['PORT', '30.5'],
  ['STORE_URL', 'https://bucket.s3.amazonaws.com'],
  ['STORE_URL', 's3://'],
  ['MAX_UPLOAD_MB', '10MB'],
  ['CAPACITY_MEMORY_MB', '255'],
  ['MIN_FREE_MB', '-1'],
  ['ALLOWED_HOSTS', 'http://example.com'],
  ['ALLOWED_HOSTS', 'example.com:80'],
  ['ALLOWED_HOSTS', '*.example.com'],
  ['ALLOWED_ORIGINS', 'example.com'],
  ['ALLOWED_ORIGINS', 'https://example.com/'],
  ['ALLOWED_ORIGINS', 'null'],
  ['ALLOWED_ORIGINS', '*'],
  ['WEBHOOK_ALLOWED_HOSTS', 'http://example.com'],
  ['WEBHOOK_ALLOWED_HOSTS', 'example.com,10.0.0.0/33'],
  ['WEBHOOK_ALLOWED_HOSTS', '10.0.0.0/8/8'],
  ['WEBHOOK_ALLOWED_HOSTS', 'a.*.example.com'],
  ['WEBHOOK_ALLOWED_HOSTS', ','],
  ['AUTH', 'off'],
  ['JWT_JWKS_URL', 'ftp://issuer.example/keys'],
  ['OTEL_EXPORTER_OTLP_ENDPOINT', 'collector:4318'],
  ['LOG_LEVEL', 'loud'],
])('%s=%s is refused in one line that names the variable and its value', (name, value) => {
  let message = '';
  try {
    parseConfig({ [name]: value });
  } catch (error) {
    message = (error as Error).message;
  }
  expect(message).toContain(`${name}=`);
  expect(message).toContain(value);
  expect(message).not.toContain('\n');
});

test('several values are separated by commas or spaces', () => {
  const hosts = ['*.example.com', 'hooks.example.org', '10.0.0.0/8', 'fd12::/16', '::1'];
  expect(parseConfig({ WEBHOOK_ALLOWED_HOSTS: hosts.join(', ') }).WEBHOOK_ALLOWED_HOSTS).toEqual(hosts);
  const secrets = [24, 64].map((bytes) => `whsec_${Buffer.alloc(bytes, 7).toString('base64')}`);
  expect(parseConfig({ WEBHOOK_SECRET: ` ${secrets.join(' ')}\n` }).WEBHOOK_SECRET).toEqual(secrets);
});

test.each(['secret', 'whsec_', 'whsec_c2hvcnQ=', `whsec_${'A'.repeat(100)}`, `whsec_${'é'.repeat(44)}`])(
  'the invalid webhook secret %s is refused without being shown',
  (secret) => {
    for (const value of [secret, `whsec_${Buffer.alloc(32).toString('base64')} ${secret}`]) {
      expect(() => parseConfig({ WEBHOOK_SECRET: value })).toThrow(
        /^WEBHOOK_SECRET: \d: must be whsec_ and 24 to 64 bytes in base64$/,
      );
    }
  },
);

test('one error names all wrong variables', () => {
  expect(() => parseConfig({ PORT: 'x', MAX_PAGES: 'y' })).toThrow(/PORT="x".*MAX_PAGES="y"/);
});

describe('keys and tokens', () => {
  const key = { name: 'web', sha256: 'a'.repeat(64), scopes: ['uploads:read'] };
  const keys = (...written: unknown[]) => ({ API_KEYS: JSON.stringify(written) });
  const jwt = { JWT_ISSUER: 'https://issuer.example', JWT_AUDIENCE: 'sheetmill' };
  const secret = 'a-secret-that-no-error-may-ever-show';

  test('valid ones are accepted', () => {
    expect(parseConfig(keys(key)).API_KEYS).toEqual([key]);
    // One name may have two keys, while one is being replaced.
    expect(parseConfig(keys(key, { ...key, sha256: 'b'.repeat(64) })).API_KEYS).toHaveLength(2);
    expect(parseConfig({ ...jwt, JWT_SECRET: secret })).toMatchObject(jwt);
  });

  test.each<[RegExp, Record<string, string>]>([
    [/^API_KEYS: must be a JSON array$/, { API_KEYS: `web:${secret}` }],
    [/^API_KEYS: /, { API_KEYS: '{}' }],
    [/^API_KEYS: /, keys()],
    [/^API_KEYS: 1: sha256: must be 64 hexadecimal digits/, keys(key, { ...key, sha256: secret })],
    [/^API_KEYS: 0: scopes: 0: must be one of uploads:read, /, keys({ ...key, scopes: ['read'] })],
    [/^API_KEYS: 0: scopes: /, keys({ ...key, scopes: [] })],
    [/^API_KEYS: 0: name: /, keys({ ...key, name: '' })],
    [/^API_KEYS: 0: .*key/, keys({ ...key, key: secret })],
    [/^API_KEYS: has the same sha256 twice$/, keys(key, { ...key, name: 'other' })],
    [/^JWT_SECRET: must have at least 32 characters$/, { ...jwt, JWT_SECRET: secret.slice(0, 31) }],
    [/^JWT_JWKS_URL: either this or JWT_SECRET must be set/, jwt],
    [/^JWT_JWKS_URL=.*not both$/, { ...jwt, JWT_SECRET: secret, JWT_JWKS_URL: 'https://issuer.example/keys' }],
    [/^JWT_ISSUER: must be set.*; JWT_AUDIENCE: must be set/, { JWT_SECRET: secret }],
    [/^AUTH="none": contradicts/, { ...keys(key), AUTH: 'none' }],
  ])('wrong ones are refused without secrets: %s', (message, environment) => {
    expect(() => parseConfig(environment)).toThrow(message);
    expect(() => parseConfig(environment)).not.toThrow(secret.slice(0, 31));
  });
});
