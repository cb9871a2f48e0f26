import fc from 'fast-check';
import { PRIORITIES } from '../../db/schema.ts';
import { fits, freeCapacityOf, type Reservation } from '../../jobs/free-capacity.ts';
import { findHeld, planClaim, type Waiting } from '../../jobs/plan-claim.ts';
import { levelOf } from '../../jobs/priority.ts';

const NOW = 1_800_000_000_000;
const NO_TURNS = { clock: 0, turns: new Map<string, number>() };

const shape = fc.record({
  cpuUnits: fc.integer({ min: 0, max: 4 }),
  memoryMb: fc.constantFrom(256, 512, 768, 1024, 2048),
});
const job = fc.record({
  priority: fc.constantFrom(...PRIORITIES),
  owner: fc.constantFrom('', 'A', 'B', 'C'),
  type: fc.constantFrom('one', 'two'),
  shape,
  timeoutSeconds: fc.constantFrom(1, 60, 300, 43_200),
  waitedSeconds: fc.integer({ min: -60, max: 90_000 }),
});
const waiting = fc
  .array(job, { maxLength: 40 })
  .map((jobs) => jobs.map((one, index) => ({ ...one, id: `job${index}` })));
const converter = fc.record({
  capacity: fc.record({ cpuUnits: fc.integer({ min: 1, max: 8 }), memoryMb: fc.integer({ min: 512, max: 8192 }) }),
  running: fc.array(fc.record({ shape, endsAt: fc.integer({ min: NOW, max: NOW + 3_600_000 }) }), { maxLength: 6 }),
  now: fc.constant(NOW),
});

const level = ({ priority, waitedSeconds }: Waiting) => levelOf(priority, waitedSeconds);
const reservationOf = ({ shape, timeoutSeconds }: Waiting): Reservation => ({
  shape,
  endsAt: NOW + timeoutSeconds * 1_000,
});

test('a claim never starts more than fits', () => {
  fc.assert(
    fc.property(waiting, converter, (jobs, by) => {
      const started = planClaim(jobs, NO_TURNS, by, findHeld(jobs, by));
      for (const [index, one] of started.entries()) {
        const before = [...by.running, ...started.slice(0, index).map(reservationOf)];
        expect(fits(one.shape, freeCapacityOf(by.capacity, before))).toBe(true);
      }
    }),
  );
});

test('no job starts before one of a higher level that fits, for any owners', () => {
  fc.assert(
    fc.property(waiting, converter, fc.array(fc.nat(50), { minLength: 4, maxLength: 4 }), (jobs, by, [a, b, c, d]) => {
      const turns = new Map(Object.entries({ '': a ?? 0, A: b ?? 0, B: c ?? 0, C: d ?? 0 }));
      const started = planClaim(jobs, { clock: 0, turns }, by, undefined);
      const levels = started.map(level);
      expect(levels).toEqual(levels.toSorted((x, y) => y - x));
      if (started.length === 32) return;
      const room = freeCapacityOf(by.capacity, [...by.running, ...started.map(reservationOf)]);
      for (const left of jobs) if (!started.includes(left)) expect(fits(left.shape, room)).toBe(false);
    }),
  );
});

test('no job delays the one for which a converter drains, unless it is more urgent', () => {
  fc.assert(
    fc.property(waiting, converter, (jobs, by) => {
      const held = findHeld(jobs, by);
      if (held === undefined) return;
      const started = planClaim(jobs, NO_TURNS, by, held).filter((one) => level(one) <= held.level);
      for (const one of started.map(reservationOf)) {
        const then = [...by.running, one].filter(({ endsAt }) => endsAt > held.startsAt);
        expect(fits(held.shape, freeCapacityOf(by.capacity, then))).toBe(true);
      }
    }),
  );
});

test('no more jobs of a type start than it has slots, and other jobs do', () => {
  fc.assert(
    fc.property(waiting, converter, fc.nat(5), (jobs, by, slots) => {
      const started = planClaim(jobs, NO_TURNS, by, undefined, new Map([['one', slots]]));
      const ofOne = started.filter(({ type }) => type === 'one').length;
      expect(ofOne).toBeLessThanOrEqual(slots);
      if (started.length === 32) return;
      const room = freeCapacityOf(by.capacity, [...by.running, ...started.map(reservationOf)]);
      for (const left of jobs) {
        if (started.includes(left) || (left.type === 'one' && ofOne === slots)) continue;
        expect(fits(left.shape, room)).toBe(false);
      }
    }),
  );
});

/** Starts one job at a time; `onStart` may add or remove jobs. Returns the owners in the order of their starts. */
function serve(starts: number, jobs: Waiting[], onStart: (started: Waiting, at: number) => void): string[] {
  const turns = new Map<string, number>();
  const owners: string[] = [];
  const single = { capacity: { cpuUnits: 1, memoryMb: 256 }, running: [], now: NOW };
  for (let at = 0; at < starts; at++) {
    const clock = Math.max(0, ...turns.values()) - 1;
    const [started] = planClaim(jobs, { clock: Math.max(0, clock), turns }, single, undefined);
    if (started === undefined) throw new Error('nothing was planned');
    jobs.splice(jobs.indexOf(started), 1);
    turns.set(started.owner, Math.max(turns.get(started.owner) ?? 0, clock) + 1);
    owners.push(started.owner);
    onStart(started, at);
  }
  return owners;
}

test('four busy owners get between 22 and 28 of every 100 starts each, for any submits and cancels', () => {
  const owners = ['A', 'B', 'C', 'D'];
  const behaviour = fc.record({
    /** The jobs that each owner submits after a start: at least as many as it starts. */
    submits: fc.array(fc.integer({ min: 1, max: 5 }), { minLength: 4, maxLength: 4 }),
    /** The number of starts after which each owner cancels all but its oldest job. */
    cancels: fc.array(fc.integer({ min: 3, max: 50 }), { minLength: 4, maxLength: 4 }),
    waited: fc.array(fc.integer({ min: -100, max: 3_000 }), { minLength: 4, maxLength: 4 }),
  });
  fc.assert(
    fc.property(behaviour, ({ submits, cancels, waited }) => {
      let made = 0;
      const jobs: Waiting[] = [];
      const submit = (owner: string) =>
        jobs.push({
          id: `job${made++}`,
          priority: 'normal',
          owner,
          type: 'one',
          shape: { cpuUnits: 1, memoryMb: 256 },
          timeoutSeconds: 300,
          waitedSeconds: (waited[owners.indexOf(owner)] ?? 0) - made / 1_000,
        });
      for (const owner of owners) for (let count = 0; count < 10; count++) submit(owner);
      const served = serve(300, jobs, (started, at) => {
        for (const [index, owner] of owners.entries()) {
          if (at % (cancels[index] ?? 1) === 0) {
            const own = jobs.filter((one) => one.owner === owner).slice(1);
            for (const one of own) jobs.splice(jobs.indexOf(one), 1);
          }
          const count = owner === started.owner ? (submits[index] ?? 1) : 0;
          for (let sent = 0; sent < count; sent++) submit(owner);
        }
      });
      for (let from = 0; from + 100 <= served.length; from += 10) {
        for (const owner of owners) {
          const count = served.slice(from, from + 100).filter((one) => one === owner).length;
          expect(count).toBeGreaterThanOrEqual(22);
          expect(count).toBeLessThanOrEqual(28);
        }
      }
    }),
    { numRuns: 30 },
  );
});
