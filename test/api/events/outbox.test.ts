import { Outbox } from '../../../api/events/outbox.ts';

/** A connection that accepts written messages when `take` is called. */
function openClient() {
  const sent: Buffer[] = [];
  let callbacks: ((error?: Error) => void)[] = [];
  return {
    sent,
    client: {
      send(message: Buffer, _options: object, done: (error?: Error) => void) {
        sent.push(message);
        callbacks.push(done);
      },
    },
    take(error?: Error) {
      const given = callbacks;
      callbacks = [];
      for (const done of given) done(error);
    },
  };
}

const messages = Array.from({ length: 1_000 }, (_, index) => Buffer.from(`${index} `.padEnd(1_000)));

test('a stalled connection holds 16 KB, and sends all messages in order when it resumes', async () => {
  const { sent, client, take } = openClient();
  const outbox = new Outbox(client as ConstructorParameters<typeof Outbox>[0]);
  for (const message of messages) outbox.add(message);
  expect(sent).toHaveLength(1);
  take();
  expect(sent.length).toBeLessThan(20);
  expect(outbox.bytes).toBe((messages.length - sent.length) * 1_000);
  const emptied = outbox.emptied();
  while (sent.length < messages.length) take();
  take();
  await emptied;
  expect(Buffer.concat(sent).equals(Buffer.concat(messages))).toBe(true);
});

test('the messages of a closed connection are dropped', async () => {
  const { sent, client, take } = openClient();
  const outbox = new Outbox(client as ConstructorParameters<typeof Outbox>[0]);
  outbox.add(...messages);
  const emptied = outbox.emptied();
  take(new Error('closed'));
  await emptied;
  expect([outbox.bytes, sent.length < 20]).toEqual([0, true]);
});
