import { createTurns } from '../../store/semaphore.ts';

test('turns are given in order, and never more than so many at a time', async () => {
  const takeTurn = createTurns(2, 10_000);
  const order: number[] = [];
  let taken = 0;
  let most = 0;
  await Promise.all(
    Array.from({ length: 10 }, async (_, index) => {
      const giveBack = await takeTurn();
      order.push(index);
      most = Math.max(most, ++taken);
      await new Promise(setImmediate);
      taken--;
      giveBack();
    }),
  );
  expect(order).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
  expect(most).toBe(2);
});

test('who waits too long is refused, and takes no turn from anybody', async () => {
  const takeTurn = createTurns(1, 20);
  const giveBack = await takeTurn();
  await expect(takeTurn()).rejects.toMatchObject({ code: 'unavailable', status: 503 });
  giveBack();
  (await takeTurn())();
});
