import { execFileSync } from 'node:child_process';
import { cpSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import pg from 'pg';
import { parse, parseAllDocuments } from 'yaml';
import { asksForKeys, CONVERTER_MB, parseConfig } from '../../runtime/config.ts';
import { cloneDatabase } from '../support/database.ts';
import { hasProgram, ROOT } from '../support/programs.ts';
import type { Json } from '../support/service.ts';

const OVERLAYS = ['local', 'production', 'production with KEDA'];
const whenKubectl = hasProgram('kubectl', 'version', '--client') ? describe : describe.skip;

const SECRET_FILES = ['secret.env', 'api-secret.env'];

let deploy: string;
beforeAll(() => {
  deploy = mkdtempSync(path.join(tmpdir(), 'sheetmill-deploy-'));
  cpSync(path.join(ROOT, 'deploy'), deploy, { recursive: true });
  const production = path.join(deploy, 'overlays/production');
  for (const file of SECRET_FILES) cpSync(path.join(deploy, `base/${file}.example`), path.join(production, file));
  const withKeda = path.join(deploy, 'overlays/production with KEDA');
  cpSync(production, withKeda, { recursive: true });
  const file = path.join(withKeda, 'kustomization.yaml');
  const text = readFileSync(file, 'utf8');
  writeFileSync(file, text.replace(/^# (components:\n)# ( {2}- .*)$/m, '$1$2'));
});
afterAll(() => rmSync(deploy, { recursive: true }));

function render(overlay: string): Json[] {
  const text = execFileSync('kubectl', ['kustomize', path.join(deploy, 'overlays', overlay)], { encoding: 'utf8' });
  const manifests: Json[] = parseAllDocuments(text).map((document) => document.toJS());
  for (const { data } of manifests.filter(({ kind }) => kind === 'Secret')) {
    // kubectl breaks long values into lines, which Kubernetes ignores.
    for (const name of Object.keys(data)) data[name] = data[name].replaceAll('\n', '');
  }
  return manifests;
}

const megabytes = (size: string) => Number.parseInt(size, 10) * (size.endsWith('Gi') ? 1024 : 1);

/** Every object and array in a document, however deep. */
function* partsOf(node: Json): Generator<Json> {
  if (typeof node !== 'object' || node === null) return;
  yield node;
  for (const part of Object.values(node)) yield* partsOf(part);
}

function selects({ matchLabels = {}, matchExpressions = [] }: Json, labels: Json): boolean {
  return (
    Object.entries(matchLabels).every(([name, value]) => labels[name] === value) &&
    matchExpressions.every(({ key, operator, values }: Json) => operator === 'In' && values.includes(labels[key]))
  );
}

whenKubectl.each(OVERLAYS)('the overlay %s (skipped without kubectl)', (overlay) => {
  let all: Json[];
  let pods: Json[];
  const of = (...kinds: string[]) => all.filter(({ kind }) => kinds.includes(kind));
  const named = (kind: string, name: string) => of(kind).find(({ metadata }) => metadata.name === name);
  const podOf = (name: string) => pods.find(({ metadata }) => metadata.labels['app.kubernetes.io/name'] === name);
  const containersOf = (pod: Json): Json[] => [...(pod.spec.initContainers ?? []), ...pod.spec.containers];
  const ours = (pod: Json) => containersOf(pod).filter(({ image }) => image.includes('sheetmill'));

  /** The environment variables of a container. */
  function environmentOf({ env = [], envFrom = [] }: Json): NodeJS.ProcessEnv {
    const sources = envFrom.flatMap(({ configMapRef, secretRef }: Json) => {
      if (configMapRef) return Object.entries(named('ConfigMap', configMapRef.name).data);
      const secret = Object.entries<string>(named('Secret', secretRef.name).data);
      return secret.map(([name, value]) => [name, Buffer.from(value, 'base64').toString()]);
    });
    return Object.fromEntries([...sources, ...env.map(({ name, value }: Json) => [name, value])]);
  }

  beforeAll(() => {
    all = render(overlay);
    pods = of('Deployment', 'StatefulSet', 'Job').map(({ spec }) => spec.template);
  });

  test('contains only valid manifests', async () => {
    expect(all.length).toBeGreaterThan(15);
    for (const manifest of all) {
      const models = manifest.apiVersion.startsWith('keda.sh') ? '@kubernetes-models/keda' : 'kubernetes-models';
      const { [manifest.kind]: Model } = await import(`${models}/${manifest.apiVersion}/${manifest.kind}`);
      new Model(manifest).validate();
    }
  });

  test('references only existing objects', () => {
    const missing: string[] = [];
    const look = (kind: string, name?: string) => name && (named(kind, name) || missing.push(`${kind} ${name}`));
    for (const part of all.flatMap((manifest) => [...partsOf(manifest)])) {
      look('ConfigMap', part.configMapRef?.name ?? part.configMapKeyRef?.name ?? part.configMap?.name);
      look('Secret', part.secretRef?.name ?? part.secretKeyRef?.name);
      look('ServiceAccount', part.serviceAccountName);
      look('PersistentVolumeClaim', part.persistentVolumeClaim?.claimName);
      look('Service', part.service?.name);
      look('TriggerAuthentication', part.authenticationRef?.name);
      look('Deployment', part.scaleTargetRef?.name);
      for (const { name } of part.secretTargetRef ?? []) look('Secret', name);
    }
    for (const { spec } of pods) {
      const volumes = [...(spec.volumes ?? []), ...of('StatefulSet').flatMap((set) => set.spec.volumeClaimTemplates)];
      const known = volumes.map((volume) => volume.name ?? volume.metadata.name);
      const mounts = containersOf({ spec }).flatMap(({ volumeMounts = [] }) => volumeMounts as Json[]);
      missing.push(...mounts.filter(({ name }) => !known.includes(name)).map(({ name }) => `volume ${name}`));
    }
    expect(missing).toEqual([]);
    const namespaces = all.map(({ kind, metadata }) => (kind === 'Namespace' ? metadata.name : metadata.namespace));
    expect(new Set(namespaces)).toEqual(new Set(['sheetmill']));
  });

  test('selects existing pods and their ports', () => {
    const selected = (selector: Json) => pods.filter(({ metadata }) => selects(selector, metadata.labels));
    const ports = (found: Json[]) => found.flatMap(containersOf).flatMap(({ ports = [] }) => ports as Json[]);
    for (const { spec } of of('Deployment', 'StatefulSet')) expect(selected(spec.selector)).toEqual([spec.template]);
    for (const { spec } of of('PodDisruptionBudget')) expect(selected(spec.selector)).toHaveLength(1);
    for (const { spec } of of('Service')) {
      const found = selected({ matchLabels: spec.selector });
      expect(found).toHaveLength(1);
      expect(ports(found).map(({ name }) => name)).toEqual(
        expect.arrayContaining(spec.ports.map(({ targetPort }: Json) => targetPort)),
      );
    }
    for (const { spec } of of('NetworkPolicy')) {
      const found = selected(spec.podSelector);
      expect(found.length).toBeGreaterThan(0);
      for (const { ports: open = [], from = [] } of spec.ingress ?? []) {
        for (const { port } of open) expect(ports(found).map(({ name }) => name)).toContain(port);
        for (const { podSelector } of from) if (podSelector) expect(selected(podSelector).length).toBeGreaterThan(0);
      }
    }
  });

  test('runs files of the image with valid settings, and gives the keys of clients to the API alone', () => {
    const parts = ['sheetmill-api', 'sheetmill-converter', 'sheetmill-migrate'].map(podOf).flatMap(ours);
    expect(parts).toHaveLength(5);
    for (const container of parts) {
      expect(container).not.toHaveProperty('command');
      expect(existsSync(path.join(ROOT, container.args[1]))).toBe(true);
      const environment = environmentOf(container);
      const config = parseConfig(environment);
      const isApi = container.name === 'api';
      for (const name of ['WEBHOOK_SECRET', 'API_KEYS'])
        expect([container.name, name, name in environment]).toEqual([container.name, name, isApi]);
      // In production these are set at deployment.
      if (isApi && overlay === 'local')
        expect([asksForKeys(config), config.WEBHOOK_SECRET]).toEqual([true, [expect.any(String)]]);
    }
  });

  test('the memory limit of the converter exceeds its capacity for jobs', () => {
    const [converter] = podOf('sheetmill-converter').spec.containers;
    const { CAPACITY_MEMORY_MB } = parseConfig(environmentOf(converter));
    const { requests, limits } = converter.resources;
    expect(megabytes(limits.memory) - CAPACITY_MEMORY_MB).toBeGreaterThanOrEqual(CONVERTER_MB + 64);
    expect(requests.memory).toBe(limits.memory);
    for (const container of pods.flatMap(containersOf)) expect(container.resources.limits.memory).toMatch(/^\d+[MG]i$/);
  });

  test('probes and Prometheus use the port on which the process listens', () => {
    for (const [name, port] of [
      ['sheetmill-api', 'PORT'],
      ['sheetmill-converter', 'METRICS_PORT'],
    ] as const) {
      const { metadata, spec } = podOf(name);
      const [container] = spec.containers;
      const listening = environmentOf(container)[port];
      expect(container.ports).toEqual([{ name: expect.any(String), containerPort: Number(listening) }]);
      expect(metadata.annotations['prometheus.io/port']).toBe(listening);
      for (const probe of ['startupProbe', 'livenessProbe', 'readinessProbe']) {
        expect(container[probe].httpGet.port).toBe(container.ports[0].name);
      }
    }
  });

  test('each process has more time to stop than its shutdown takes', () => {
    for (const name of ['sheetmill-api', 'sheetmill-converter']) {
      const { terminationGracePeriodSeconds, containers } = podOf(name).spec;
      const { SHUTDOWN_GRACE_SECONDS } = parseConfig(environmentOf(containers[0]));
      const preStop = containers[0].lifecycle?.preStop.sleep.seconds ?? 0;
      expect(terminationGracePeriodSeconds).toBeGreaterThanOrEqual(preStop + SHUTDOWN_GRACE_SECONDS + 10);
    }
  });

  test('every pod meets the restricted security standard, and the service cannot write to its root file system', () => {
    for (const pod of pods) {
      expect(pod.spec).toMatchObject({
        automountServiceAccountToken: false,
        securityContext: { runAsNonRoot: true, seccompProfile: { type: 'RuntimeDefault' } },
      });
      for (const { securityContext } of containersOf(pod)) {
        expect(securityContext).toMatchObject({ allowPrivilegeEscalation: false, capabilities: { drop: ['ALL'] } });
      }
      if (pod.metadata.labels['app.kubernetes.io/part-of'] !== 'sheetmill') continue;
      for (const { securityContext } of containersOf(pod)) expect(securityContext.readOnlyRootFilesystem).toBe(true);
    }
  });
});

test('the query of KEDA counts ready and running jobs', async () => {
  const file = path.join(ROOT, 'deploy/components/keda/scaled-object.yaml');
  const scaled: Json = parseAllDocuments(readFileSync(file, 'utf8'))[1]?.toJS();
  const database = await cloneDatabase();
  const client = new pg.Client({ connectionString: database.url });
  await client.connect();
  try {
    await client.query(`insert into jobs (id, type, priority, arrived_at, payload, cpu_units, memory_mb, status, queue_id, ready_at,
        max_attempts, initial_delay_seconds, backoff_multiplier, timeout_seconds)
      select 'job ' || n, 'noop', 'normal', now(), '{}', 1, 256, 'ready', gen_random_uuid(), now(), 3, 1, 2, 300
      from generate_series(1, 3) n`);
    const { rows } = await client.query(scaled.spec.triggers[0].metadata.query);
    expect(rows).toEqual([{ count: '3' }]);
  } finally {
    await client.end();
    await database.drop();
  }
});

test('git ignores the secrets of an overlay', () => {
  const ignored = readFileSync(path.join(ROOT, '.gitignore'), 'utf8').split('\n');
  for (const file of SECRET_FILES)
    expect(ignored.some((line) => path.matchesGlob(`deploy/overlays/production/${file}`, line))).toBe(true);
});

test('the Grafana dashboard uses the provisioned data source', () => {
  const read = (name: string) => readFileSync(path.join(ROOT, 'deploy/grafana', name), 'utf8');
  const dashboard = JSON.parse(read('sheetmill.json'));
  const { datasources } = parse(read('datasource.yml'));
  const used = [...partsOf(dashboard)].filter(({ type }) => type === 'prometheus').map(({ uid }) => uid);
  expect(new Set(used)).toEqual(new Set([datasources[0].uid]));
  expect(new Set(dashboard.panels.map(({ id }: Json) => id)).size).toBe(dashboard.panels.length);
});
