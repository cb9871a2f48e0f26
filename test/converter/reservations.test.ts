import { Reservations } from '../../converter/reservations.ts';

const CAPACITY = { cpuUnits: 4, memoryMb: 1_024 };

test('a reserved shape is not free until its release', () => {
  const reservations = new Reservations(CAPACITY);
  expect(reservations.free()).toMatchObject(CAPACITY);
  const release = reservations.reserve({ cpuUnits: 3, memoryMb: 256 }, 60);
  expect(reservations.free()).toMatchObject({ cpuUnits: 1, memoryMb: 768 });
  release();
  expect(reservations.free()).toMatchObject(CAPACITY);
});

test('reservations can use the whole capacity', () => {
  const reservations = new Reservations(CAPACITY);
  for (let count = 0; count < 4; count++) reservations.reserve({ cpuUnits: 1, memoryMb: 256 }, 60);
  expect(reservations.free()).toMatchObject({ cpuUnits: 0, memoryMb: 0 });
});

test.each([
  ['CPU units', { cpuUnits: 5, memoryMb: 1 }],
  ['memory', { cpuUnits: 1, memoryMb: 1_025 }],
])('%s above the capacity cannot be reserved', (_, shape) => {
  const reservations = new Reservations(CAPACITY);
  expect(() => reservations.reserve(shape, 60)).toThrow(/over capacity/);
});

test('a refused reservation reserves nothing', () => {
  const reservations = new Reservations(CAPACITY);
  expect(() => reservations.reserve({ cpuUnits: 5, memoryMb: 256 }, 60)).toThrow();
  expect(reservations.free()).toMatchObject(CAPACITY);
});

test('at most one background job runs for each CPU unit, and reserves no CPU', () => {
  const reservations = new Reservations({ cpuUnits: 2, memoryMb: 4096 });
  const release = reservations.reserve({ cpuUnits: 0, memoryMb: 768 }, 60);
  reservations.reserve({ cpuUnits: 0, memoryMb: 768 }, 60);
  // Small enough not to count as a background job.
  reservations.reserve({ cpuUnits: 0, memoryMb: 256 }, 60);
  expect(reservations.free()).toEqual({ cpuUnits: 2, memoryMb: 2304, backgroundMb: 0 });
  release();
  expect(reservations.free()).toEqual({ cpuUnits: 2, memoryMb: 3072, backgroundMb: 2816 });
});

test('the first background job may use all memory, and further ones leave an ordinary job to each CPU unit', () => {
  const reservations = new Reservations({ cpuUnits: 2, memoryMb: 2048 });
  expect(reservations.free().backgroundMb).toBe(2048);
  const release = reservations.reserve({ cpuUnits: 0, memoryMb: 768 }, 60);
  expect(reservations.free().backgroundMb).toBe(2048 - 2 * 256 - 768);
  release();
  reservations.reserve({ cpuUnits: 0, memoryMb: 1536 }, 60);
  expect(reservations.free()).toEqual({ cpuUnits: 2, memoryMb: 512, backgroundMb: 0 });
});
