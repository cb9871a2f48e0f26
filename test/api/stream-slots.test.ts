import { StreamSlots } from '../../api/stream-slots.ts';

test('an owner has a hundred streams at most, all together a thousand, and a stream that ends makes room', () => {
  const slots = new StreamSlots();
  const free = Array.from({ length: 100 }, () => slots.take('one'));
  expect(() => slots.take('one')).toThrow(expect.objectContaining({ code: 'too_many_requests', status: 429 }));
  for (let owner = 1; owner < 9; owner++) for (let count = 0; count < 100; count++) slots.take(`owner ${owner}`);
  for (let count = 0; count < 100; count++) slots.take(null);
  expect(() => slots.take('late')).toThrow(expect.objectContaining({ code: 'unavailable', status: 503 }));
  free[0]?.();
  slots.take('late');
});
