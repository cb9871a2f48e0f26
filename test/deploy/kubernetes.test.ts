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
    // It breaks long values into lines, which Kubernetes reads over.
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

whenKubectl.each(OVERLAYS)('the overlay %s, as kubectl renders it (skipped without kubectl)', (overlay) => {
  let all: Json[];
  let pods: Json[];
  const of = (...kinds: string[]) => all.filter(({ kind }) => kinds.includes(kind));
  const named = (kind: string, name: string) => of(kind).find(({ metadata }) => metadata.name === name);
  const podOf = (name: string) => pods.find(({ metadata }) => metadata.labels['app.kubernetes.io/name'] === name);
  const containersOf = (pod: Json): Json[] => [...(pod.spec.initContainers ?? []), ...pod.spec.containers];
  const ours = (pod: Json) => containersOf(pod).filter(({ image }) => image.includes('sheetmill'));

  /** What a container finds in its environment. */
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

  test('holds valid manifests alone', async () => {
    expect(all.length).toBeGreaterThan(15);
    for (const manifest of all) {
      const models = manifest.apiVersion.startsWith('keda.sh') ? '@kubernetes-models/keda' : 'kubernetes-models';
      const { [manifest.kind]: Model } = await import(`${models}/${manifest.apiVersion}/${manifest.kind}`);
      new Model(manifest).validate();
    }
  });

  test('names nothing that is not there', () => {
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

  test('selects pods that there are, at ports that they have', () => {
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

  test('starts what the image has, by its entry point, with settings that it takes', () => {
    const parts = ['sheetmill-api', 'sheetmill-converter', 'sheetmill-migrate'].map(podOf).flatMap(ours);
    expect(parts.map(({ args }) => args.join(' ')).sort()).toEqual([
      'node api/main.ts',
      'node converter/main.ts',
      'node cli/main.ts migrate',
      'node cli/main.ts migrate --wait',
      'node cli/main.ts migrate --wait',
    ]);
    for (const container of parts) {
      expect(container).not.toHaveProperty('command');
      expect(existsSync(path.join(ROOT, container.args[1]))).toBe(true);
      const environment = environmentOf(container);
      const config = parseConfig(environment);
      const isApi = container.name === 'api';
      // Each API pod would make its own secret, and nothing else may know it.
      for (const name of ['WEBHOOK_SECRET', 'API_KEYS'])
        expect([container.name, name, name in environment]).toEqual([container.name, name, isApi]);
      // In production it is for whoever deploys it to say.
      if (isApi && overlay === 'local')
        expect([asksForKeys(config), config.WEBHOOK_SECRET]).toEqual([true, [expect.any(String)]]);
    }
  });

  test('gives converters the memory that they may reserve, and room beside it', () => {
    const [converter] = podOf('sheetmill-converter').spec.containers;
    const { CAPACITY_MEMORY_MB } = parseConfig(environmentOf(converter));
    const { requests, limits } = converter.resources;
    expect(megabytes(limits.memory) - CAPACITY_MEMORY_MB).toBeGreaterThanOrEqual(CONVERTER_MB + 64);
    expect(requests.memory).toBe(limits.memory);
    for (const container of pods.flatMap(containersOf)) expect(container.resources.limits.memory).toMatch(/^\d+[MG]i$/);
  });

  test('serves health and metrics where they are looked for', () => {
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

  test('gives each process the time that it takes to stop', () => {
    for (const name of ['sheetmill-api', 'sheetmill-converter']) {
      const { terminationGracePeriodSeconds, containers } = podOf(name).spec;
      const { SHUTDOWN_GRACE_SECONDS } = parseConfig(environmentOf(containers[0]));
      const preStop = containers[0].lifecycle?.preStop.sleep.seconds ?? 0;
      expect(terminationGracePeriodSeconds).toBeGreaterThanOrEqual(preStop + SHUTDOWN_GRACE_SECONDS + 10);
    }
  });

  test('runs everything without rights and without a token, and what is ours on files that cannot be written', () => {
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

  test('scales converters from one to five', () => {
    const target = { name: 'sheetmill-converter' };
    // A number there would set back what the autoscaler says.
    expect(named('Deployment', target.name).spec).not.toHaveProperty('replicas');
    if (overlay.includes('KEDA')) {
      expect(of('HorizontalPodAutoscaler')).toEqual([]);
      const [{ spec }] = of('ScaledObject');
      expect(spec).toMatchObject({ scaleTargetRef: target, minReplicaCount: 1, maxReplicaCount: 5 });
      return;
    }
    const [{ spec }, ...more] = of('HorizontalPodAutoscaler');
    expect(more).toEqual([]);
    expect(spec).toMatchObject({ scaleTargetRef: { kind: 'Deployment', ...target }, minReplicas: 1, maxReplicas: 5 });
    const cpu = { name: 'cpu', target: { type: 'Utilization', averageUtilization: 50 } };
    expect(spec.metrics).toEqual([{ type: 'Resource', resource: cpu }]);
    // A share of what was asked for: nothing was, nothing scales.
    for (const { resources } of podOf(target.name).spec.containers) expect(resources.requests.cpu).toBeDefined();
  });
});

test('KEDA counts the jobs that are ready or run', async () => {
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

test('the secrets of an overlay stay out of git', () => {
  const ignored = readFileSync(path.join(ROOT, '.gitignore'), 'utf8').split('\n');
  for (const file of SECRET_FILES)
    expect(ignored.some((line) => path.matchesGlob(`deploy/overlays/production/${file}`, line))).toBe(true);
});

test('the dashboard, its data source and who brings them agree', () => {
  const read = (name: string) => readFileSync(path.join(ROOT, 'deploy/grafana', name), 'utf8');
  const dashboard = JSON.parse(read('sheetmill.json'));
  const { datasources } = parse(read('datasource.yml'));
  const used = [...partsOf(dashboard)].filter(({ type }) => type === 'prometheus').map(({ uid }) => uid);
  expect(new Set(used)).toEqual(new Set([datasources[0].uid]));
  expect(new Set(dashboard.panels.map(({ id }: Json) => id)).size).toBe(dashboard.panels.length);
});
