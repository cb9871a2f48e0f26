import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { createClient } from '../../cli/client.ts';
import { makeImage } from '../support/files.ts';
import { freePort, hasProgram, type Program, ROOT, run } from '../support/programs.ts';
import { type Service, startService, until } from '../support/service.ts';

const whenNginx = hasProgram('nginx', '-v') ? test : test.skip;

/** Starts nginx with deploy/nginx.conf; the addresses of the two APIs and its port are replaced. */
async function startNginx(folder: string, [one, other]: [string, string]): Promise<Program & { url: string }> {
  const port = await freePort();
  const server = readFileSync(path.join(ROOT, 'deploy/nginx.conf'), 'utf8')
    .replace('api:3000', new URL(one).host)
    .replace('api-2:3000', new URL(other).host)
    .replace('listen 80;', `listen 127.0.0.1:${port};`);
  const paths = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'].map(
    (name) => `${name}_temp_path ${folder}/${name};`,
  );
  const file = path.join(folder, 'nginx.conf');
  writeFileSync(
    file,
    `daemon off; worker_processes 1; pid ${folder}/pid; error_log stderr;
     events {} http { access_log off; ${paths.join(' ')}\n${server} }`,
  );
  return { ...run(['nginx', '-c', file, '-p', folder, '-e', 'stderr'], { env: {} }), url: `http://127.0.0.1:${port}` };
}

whenNginx(
  'nginx passes uploads, long polls and streams, and survives the loss of one of two APIs (skipped without nginx)',
  async () => {
    const folder = mkdtempSync(path.join(tmpdir(), 'sheetmill-nginx-'));
    let nginx: Awaited<ReturnType<typeof startNginx>> | undefined;
    let service: Service | undefined;
    try {
      service = await startService();
      const other = await service.startOtherApi();
      nginx = await startNginx(folder, [service.url, other.url]);
      const client = createClient({ url: nginx.url });
      await until(async () =>
        client.health.ready().then(
          () => true,
          () => false,
        ),
      );

      const upload = () =>
        makeImage().then((bytes) => client.uploads.create(new File([bytes as Uint8Array<ArrayBuffer>], 'a.png')));
      const { id } = await upload();
      expect(await client.uploads.status(id, { wait: 60 })).toMatchObject({ done: true, status: 'completed' });
      const statuses: unknown[] = [];
      for await (const { kind, status } of client.jobs.stream({ upload_id: id, after: 0 })) {
        if (kind === 'upload') statuses.push(status);
        if (status === 'completed' && kind === 'upload') break;
      }
      expect(statuses.at(-1)).toBe('completed');

      await service.end(service.api, 'SIGKILL');
      // Several rounds reach both APIs.
      for (let round = 0; round < 6; round++) {
        const response = await fetch(`${nginx.url}/uploads/${id}/status`);
        expect(response.status).toBe(200);
        const { body } = await fetch(`${nginx.url}/jobs`, { method: 'POST', ...checksumOf(id) }).then(answer);
        expect(body.status).toBe('ready');
      }
    } finally {
      await nginx?.end();
      await service?.stop();
      rmSync(folder, { recursive: true });
    }
  },
  120_000,
);

const checksumOf = (upload_id: string) => ({
  headers: { 'Content-Type': 'application/json' },
  body: JSON.stringify({ type: 'checksum', payload: { upload_id } }),
});

async function answer(response: Response) {
  return { status: response.status, body: (await response.json()) as { status: string } };
}
