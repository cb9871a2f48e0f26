import { levelOf } from '../../jobs/priority.ts';

const HOUR = 3_600;

test('a higher priority is a higher level', () => {
  const levels = (['low', 'normal', 'high', 'critical'] as const).map((priority) => levelOf(priority, 0));
  expect(levels).toEqual([0, 1, 2, 3]);
});

test('a job rises one level for each hour that it waits, up to high', () => {
  expect([HOUR - 1, HOUR, 2 * HOUR, 3 * HOUR].map((waited) => levelOf('low', waited))).toEqual([0, 1, 2, 2]);
  expect(levelOf('high', 23 * HOUR)).toBe(levelOf('high', 0));
});

test('after a day every job counts as critical', () => {
  for (const priority of ['low', 'normal', 'high', 'critical'] as const) {
    expect(levelOf(priority, 24 * HOUR)).toBe(levelOf('critical', 0));
  }
});

test('a child that arrives in the future keeps the level of its priority', () => {
  expect(levelOf('normal', -500)).toBe(levelOf('normal', 0));
});
