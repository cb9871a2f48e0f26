import { Quota } from '../../runtime/quota.ts';

const refused = (status: number, code: string) => expect.objectContaining({ status, code });

test('a holder has at most its share of a room, and gets more once it has given some back', () => {
  const room = new Quota({ name: 'streams', max: 1_000, maxPerRequester: 100 });
  const gives = Array.from({ length: 100 }, () => room.take('alice'));
  expect(() => room.take('alice')).toThrow(refused(429, 'too_many_requests'));
  room.take('bob');
  for (const give of gives) {
    give();
    give();
  }
  expect(room.held).toBe(1);
  room.take('alice', 100);
});

test('holders of much leave the last quarter of a room to those that hold little', () => {
  const room = new Quota({ name: 'streams', max: 160 });
  room.take('alice', 80);
  room.take('carol', 40);
  for (const name of ['alice', 'carol']) expect(room.tryTake(name)).toBeUndefined();
  for (let holder = 0; holder < 4; holder++) room.take(`small ${holder}`, 10);
  expect(() => room.take('alice')).toThrow(refused(429, 'too_many_requests'));
  expect(() => room.take('late')).toThrow(refused(503, 'unavailable'));
});

test('more than a share counts as a share, and nobody in particular may take all of the room', () => {
  const room = new Quota({ name: 'pages', max: 100 });
  const give = room.take('alice', 1_000);
  expect(room.held).toBe(50);
  give();
  for (let taken = 0; taken < 100; taken++) room.take(undefined);
  expect(() => room.take(undefined)).toThrow(refused(503, 'unavailable'));
});

test('a room of few leaves one to a holder that has none', () => {
  const room = new Quota({ name: 'queries', max: 4, maxPerRequester: 3 });
  for (let taken = 0; taken < 3; taken++) room.take('alice');
  expect(room.tryTake('alice')).toBeUndefined();
  expect(room.tryTake('bob')).toBeDefined();
});
