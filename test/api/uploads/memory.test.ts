import { once } from 'node:events';
import { residentMb } from '../../scenarios/processes.ts';
import { makeImage } from '../../support/files.ts';
import { type Service, startService } from '../../support/service.ts';
import { answerTo, CLOSING, filePart, openPost } from './multipart.ts';

const MEGABYTES = 300;
const MAX_GROWTH_MB = 64;

let service: Service;
beforeAll(async () => {
  service = await startService({ converters: 0 });
});
afterAll(() => service.stop());

test('an upload of 300 MB is streamed to disk without buffering it in memory', async () => {
  const png = await makeImage();
  // The first requests load modules, which must not count.
  for (let round = 0; round < 5; round++) await service.upload([['warm.png', png]]);
  const pid = service.api.pid as number;
  const before = residentMb(pid);
  let maxMb = before;

  const post = openPost(service.url, { 'Transfer-Encoding': 'chunked' });
  const answer = answerTo(post);
  post.write(filePart('large.png', png).subarray(0, -2));
  const zeros = Buffer.alloc(2 ** 20);
  for (let sent = 0; sent < MEGABYTES; sent++) {
    if (!post.write(zeros)) await once(post, 'drain');
    maxMb = Math.max(maxMb, residentMb(pid));
  }
  post.end(Buffer.concat([Buffer.from('\r\n'), CLOSING]));
  const { status, body } = await answer;
  maxMb = Math.max(maxMb, residentMb(pid));

  expect(status).toBe(200);
  expect(body.originals[0].bytes).toBe(png.length + MEGABYTES * 2 ** 20);
  expect(maxMb - before).toBeLessThan(MAX_GROWTH_MB);
});
