import { Quota } from '../../runtime/quota.ts';

const refused = (status: number, code: string) => expect.objectContaining({ status, code });

test('a requester uses at most its share, and takes more after a release', () => {
  const quota = new Quota({ name: 'streams', max: 1_000, maxPerRequester: 100 });
  const releases = Array.from({ length: 100 }, () => quota.take('alice'));
  expect(() => quota.take('alice')).toThrow(refused(429, 'too_many_requests'));
  quota.take('bob');
  for (const release of releases) {
    release();
    release();
  }
  expect(quota.used).toBe(1);
  quota.take('alice', 100);
});

test('the last quarter is reserved for requesters that use little', () => {
  const quota = new Quota({ name: 'streams', max: 160 });
  quota.take('alice', 80);
  quota.take('carol', 40);
  for (const name of ['alice', 'carol']) expect(quota.tryTake(name)).toBeUndefined();
  for (let index = 0; index < 4; index++) quota.take(`small ${index}`, 10);
  expect(() => quota.take('alice')).toThrow(refused(429, 'too_many_requests'));
  expect(() => quota.take('late')).toThrow(refused(503, 'unavailable'));
});

test('a part larger than the share counts as the share', () => {
  const quota = new Quota({ name: 'pages', max: 100 });
  quota.take('alice', 1_000);
  expect(quota.used).toBe(50);
});

test('the service itself may use all of a quota', () => {
  const quota = new Quota({ name: 'pages', max: 100 });
  for (let taken = 0; taken < 100; taken++) quota.take(undefined);
  expect(() => quota.take(undefined)).toThrow(refused(503, 'unavailable'));
});

test('a small quota reserves one for a requester without any', () => {
  const quota = new Quota({ name: 'queries', max: 4, maxPerRequester: 3 });
  for (let taken = 0; taken < 3; taken++) quota.take('alice');
  expect(quota.tryTake('alice')).toBeUndefined();
  expect(quota.tryTake('bob')).toBeDefined();
});
