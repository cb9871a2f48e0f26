import { once } from 'node:events';
import { connect } from 'node:net';
import { makeImage } from '../support/files.ts';
import { startService, until } from '../support/service.ts';
import { answerTo, CLOSING, filePart, openPost } from './uploads/multipart.ts';

/** True if the port accepts connections. */
async function isOpen(url: string): Promise<boolean> {
  const socket = connect(Number(new URL(url).port), '127.0.0.1');
  const opened = await once(socket, 'connect').then(
    () => true,
    () => false,
  );
  socket.destroy();
  return opened;
}

test('an API that stops refuses new connections, answers waiting requests, and completes running uploads', async () => {
  const service = await startService({ converters: 0 });
  try {
    const first = await service.upload([['a.png', await makeImage()]]);
    const waiting = fetch(`${service.url}/uploads/${first.body.id}/status`, { headers: { Prefer: 'wait=60' } });
    const upload = openPost(service.url);
    // More than the bytes that decide the type.
    const bytes = filePart('slow.png', Buffer.concat([await makeImage(), Buffer.alloc(4096)]));
    upload.write(bytes.subarray(0, -20));
    // Both requests are in progress once the store has the start of the file.
    await until(async () => (await service.storedFiles()).some((file) => file.startsWith('incoming/')));

    const { api, url } = service;
    const exited = once(api, 'exit');
    api.kill('SIGTERM');
    await until(async () => !(await isOpen(url)));
    expect(await (await waiting).json()).toMatchObject({ done: false });
    expect(api.exitCode).toBe(null);
    upload.write(bytes.subarray(-20));
    upload.end(CLOSING);
    expect(await answerTo(upload)).toMatchObject({ status: 200, body: { status: 'queued' } });
    const answered = performance.now();
    expect(await exited).toEqual([0, null]);
    // Long before the end of the grace period.
    expect(performance.now() - answered).toBeLessThan(10_000);
  } finally {
    await service.stop();
  }
});
