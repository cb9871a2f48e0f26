import { Follower, MAX_BACKLOG_BYTES, type Message } from '../../../api/events/follower.ts';
import type { EventFilter } from '../../../db/events.ts';

const message = (xact: string, id: number, rest: Partial<Message> = {}): Message => ({
  place: { xact, id },
  owner: null,
  jobId: null,
  uploadId: null,
  bytes: () => Buffer.from(`${id}`),
  ...rest,
});

/** Opens a follower whose history is sent when `finishSending` is called; `sent` has all messages to its client. */
function open(filter: EventFilter = {}, after = { xact: '0', id: 0 }) {
  const sent: string[] = [];
  let overruns = 0;
  let sending = Promise.withResolvers<void>();
  const follower = new Follower(filter, after, {
    sendHistory(messages) {
      sent.push(...messages.map(String));
      return sending.promise;
    },
    send: (bytes) => void sent.push(String(bytes)),
    onOverrun: () => void overruns++,
  });
  return {
    follower,
    sent,
    overruns: () => overruns,
    finishSending() {
      sending.resolve();
      sending = Promise.withResolvers();
    },
  };
}

test('an event before the place of the follower is not sent', async () => {
  const { follower, sent } = open({}, { xact: '9', id: 2 });
  await follower.goLive();
  for (const [xact, id] of [
    ['8', 3],
    ['9', 2],
    ['9', 3],
    ['10', 1],
  ] as const) {
    follower.push(message(xact, id));
  }
  expect(sent).toEqual(['3', '1']);
});

test('events during history are sent after it, in order', async () => {
  const { follower, sent, finishSending } = open();
  follower.push(message('1', 1));
  const live = follower.goLive();
  follower.push(message('1', 2));
  follower.pushProgress(message('1', 2));
  expect(sent).toEqual(['1']);
  finishSending();
  await Promise.resolve();
  await Promise.resolve();
  expect(sent).toEqual(['1', '2']);
  finishSending();
  await live;
  follower.push(message('1', 3));
  follower.pushProgress(message('1', 4));
  expect(sent).toEqual(['1', '2', '3', '4']);
});

test('a backlog over a megabyte ends the follower once', () => {
  const { follower, overruns } = open();
  const part = Buffer.alloc(MAX_BACKLOG_BYTES / 4);
  const given = [1, 2, 3, 4, 5].map((id) => follower.push(message('1', id, { bytes: () => part })));
  expect(given).toEqual([true, true, true, true, false]);
  expect(overruns()).toBe(1);
});

test('a follower receives only events of its filter, and no JSON is created for others', async () => {
  const row = { owner: 'someone', jobId: 'a', uploadId: 'u' };
  const matching: EventFilter[] = [{}, { owner: 'someone' }, { jobId: 'a' }, { uploadId: 'u' }, row];
  const others: EventFilter[] = [{ owner: 'other' }, { ...row, jobId: 'b' }, { ...row, uploadId: 'v' }];
  for (const filter of matching) {
    const { follower, sent } = open(filter);
    await follower.goLive();
    follower.push(message('1', 1, row));
    expect(sent).toEqual(['1']);
  }
  const bytes = () => {
    throw new Error('no follower needs the JSON');
  };
  for (const filter of others) {
    const { follower } = open(filter);
    await follower.goLive();
    follower.push(message('1', 1, { ...row, bytes }));
    follower.pushProgress(message('1', 1, { ...row, bytes }));
  }
});
