import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { parse } from 'yaml';
import { makeImage } from '../support/files.ts';
import { freePort, hasProgram, ROOT } from '../support/programs.ts';
import { type Json, startService, until } from '../support/service.ts';

const read = (file: string) => readFileSync(path.join(ROOT, 'deploy', file), 'utf8');
const whenPromtool = hasProgram('promtool', '--version') ? test : test.skip;

whenPromtool.each([
  ['check', 'config', 'prometheus.yml'],
  ['check', 'rules', 'alerts.yml'],
  ['test', 'rules', 'alerts.test.yml'],
])('promtool %s %s %s succeeds (skipped without promtool)', (...args) => {
  const { status, stdout, stderr } = spawnSync('promtool', args, {
    cwd: path.join(ROOT, 'deploy/prometheus'),
    encoding: 'utf8',
  });
  expect({ status, stdout, stderr }).toMatchObject({ status: 0 });
});

test('alerts and dashboard use only metrics and labels that the processes serve', async () => {
  const rules = parse(read('prometheus/alerts.yml')).groups.flatMap(({ rules }: Json) => rules);
  const panels = JSON.parse(read('grafana/sheetmill.json')).panels;
  const expressions: string[] = [...rules, ...panels.flatMap(({ targets = [] }: Json) => targets)].map(
    ({ expr }) => expr,
  );
  expect(expressions.length).toBeGreaterThan(25);

  const METRICS_PORT = String(await freePort());
  const service = await startService({ env: { METRICS_PORT } });
  try {
    const converterUrl = `http://127.0.0.1:${METRICS_PORT}`;
    const text = async (url: string) => (await fetch(url)).text();
    expect(await (await fetch(`${converterUrl}/health/live`)).json()).toEqual({ status: 'ok' });
    expect((await fetch(`${converterUrl}/uploads`)).status).toBe(404);
    const { body } = await service.upload([['a.png', await makeImage()]]);
    await service.done(body.id);
    // A job without this original fails.
    await service.submit({ type: 'checksum', payload: { upload_id: body.id, original: 9 } });
    const served = await until(async () => {
      const now = [await text(`${service.url}/metrics`), await text(`${converterUrl}/metrics`)].join('\n');
      return now.includes('outcome="failed"') && now;
    });
    for (const expression of expressions) {
      for (const [, name, labels = ''] of expression.matchAll(/\b((?:sheetmill|nodejs|process)_\w+)(?:\{(.*?)\})?/g)) {
        const family = (name as string).replace(/_(bucket|count|sum)$/, '');
        expect(served).toMatch(new RegExp(`^# TYPE (${name}|${family}) `, 'm'));
        const sample = new RegExp(`^${name}\\{(.*)\\} `, 'm').exec(served)?.[1];
        for (const [, label] of labels.matchAll(/(\w+)[=!]/g)) {
          // Prometheus adds the label `job`.
          if (label !== 'job' && sample !== undefined)
            expect([name, sample]).toEqual([name, expect.stringContaining(`${label}="`)]);
        }
      }
    }
    expect(served).toMatch(/^sheetmill_pages_total\{status="completed",engine="\w+"\} 1$/m);
    expect(served).toMatch(/^sheetmill_job_run_seconds_count\{.*outcome="completed"\} 1$/m);
    expect(served).toMatch(/^sheetmill_uploads_accepted_total 1$/m);
  } finally {
    await service.stop();
  }
});
