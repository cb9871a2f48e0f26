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

/** A follower whose history is sent when `finishSending` is called; `sent` is all that its client was given. */
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

test('an event that the follower has seen elsewhere already is not given again', async () => {
  const { follower, sent } = open({}, { xact: '9', id: 2 });
  await follower.goLive();
  for (const [xact, id] of [
    ['8', 3],
    ['9', 2],
    ['9', 3],
    ['10', 1],
  ] as const) {
    follower.give(message(xact, id));
  }
  expect(sent).toEqual(['3', '1']);
});

test('what comes while history is sent follows it, in order, and so does what comes meanwhile', async () => {
  const { follower, sent, finishSending } = open();
  follower.give(message('1', 1));
  const live = follower.goLive();
  follower.give(message('1', 2));
  follower.giveProgress(message('1', 2));
  expect(sent).toEqual(['1']);
  finishSending();
  await Promise.resolve();
  await Promise.resolve();
  expect(sent).toEqual(['1', '2']);
  finishSending();
  await live;
  follower.give(message('1', 3));
  follower.giveProgress(message('1', 4));
  expect(sent).toEqual(['1', '2', '3', '4']);
});

test('a backlog of more than a megabyte ends the follower, once', () => {
  const { follower, overruns } = open();
  const part = Buffer.alloc(MAX_BACKLOG_BYTES / 4);
  const given = [1, 2, 3, 4, 5].map((id) => follower.give(message('1', id, { bytes: () => part })));
  expect(given).toEqual([true, true, true, true, false]);
  expect(overruns()).toBe(1);
});

test('each follower is given what its filter selects, and of the rest not even the JSON is made', async () => {
  const row = { owner: 'someone', jobId: 'a', uploadId: 'u' };
  const matching: EventFilter[] = [{}, { owner: 'someone' }, { jobId: 'a' }, { uploadId: 'u' }, row];
  const others: EventFilter[] = [{ owner: 'other' }, { ...row, jobId: 'b' }, { ...row, uploadId: 'v' }];
  for (const filter of matching) {
    const { follower, sent } = open(filter);
    await follower.goLive();
    follower.give(message('1', 1, row));
    expect(sent).toEqual(['1']);
  }
  const bytes = () => {
    throw new Error('made although nothing needs it');
  };
  for (const filter of others) {
    const { follower } = open(filter);
    await follower.goLive();
    follower.give(message('1', 1, { ...row, bytes }));
    follower.giveProgress(message('1', 1, { ...row, bytes }));
  }
});
