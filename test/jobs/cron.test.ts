import fc from 'fast-check';
import { nextRun } from '../../jobs/cron.ts';

const BERLIN = 'Europe/Berlin';
const next = (cron: string, after: string, timezone = 'UTC') => nextRun(cron, timezone, new Date(after)).toISOString();

/** The next runs in order. */
function runs(count: number, cron: string, after: string, timezone = 'UTC'): string[] {
  const times: string[] = [];
  for (let from = after; times.length < count; from = times.at(-1) ?? after) times.push(next(cron, from, timezone));
  return times.map((time) => time.replace(':00.000Z', 'Z'));
}

function messageOf(cron: string, timezone = 'UTC'): string {
  try {
    return `runs at ${nextRun(cron, timezone, new Date('2026-01-01T00:00:00Z')).toISOString()}`;
  } catch (error) {
    expect(error).toMatchObject({ name: 'AppError', code: 'invalid_request', status: 400 });
    return (error as Error).message;
  }
}

describe('an expression', () => {
  test.each([
    ['* * * * *', '2026-11-29T09:00:00Z', '2026-11-29T09:01Z'],
    ['*/15 * * * *', '2026-11-29T09:00:00Z', '2026-11-29T09:15Z'],
    ['5/20 * * * *', '2026-11-29T09:26:00Z', '2026-11-29T09:45Z'],
    ['0,30 8-17/3 * * *', '2026-11-29T09:00:00Z', '2026-11-29T11:00Z'],
    ['0 3 * * mon-FRI', '2026-11-28T09:00:00Z', '2026-11-30T03:00Z'],
    ['0 3 * * 7', '2026-11-28T09:00:00Z', '2026-11-29T03:00Z'],
    ['0 3 * * 5-7', '2026-11-28T09:00:00Z', '2026-11-29T03:00Z'],
    ['  0  3  1  jan,Jul  *  ', '2026-11-28T09:00:00Z', '2027-01-01T03:00Z'],
    ['0 0 13 * 5', '2026-11-28T09:00:00Z', '2026-12-04T00:00Z'],
    ['0 0 31 2 1', '2026-01-01T00:00:00Z', '2026-02-02T00:00Z'],
    ['@hourly', '2026-11-28T09:30:00Z', '2026-11-28T10:00Z'],
    ['@daily', '2026-11-28T09:30:00Z', '2026-11-29T00:00Z'],
    ['@weekly', '2026-11-28T09:30:00Z', '2026-11-29T00:00Z'],
    ['@monthly', '2026-11-28T09:30:00Z', '2026-12-01T00:00Z'],
    ['@Yearly', '2026-11-28T09:30:00Z', '2027-01-01T00:00Z'],
  ])('%s runs after %s at %s', (cron, after, expected) => {
    expect(runs(1, cron, after)).toEqual([expected]);
  });

  test('has its next run after the given time, never at it', () => {
    expect(next('0 9 * * *', '2026-11-29T08:59:59.999Z')).toBe('2026-11-29T09:00:00.000Z');
    expect(next('0 9 * * *', '2026-11-29T09:00:00.000Z')).toBe('2026-11-30T09:00:00.000Z');
  });

  test.each([
    '',
    '5',
    '0 3 * *',
    '*/10 * * * * *',
    'FREQ=MINUTELY',
    'every minute',
    '@reboot',
    '@minutely',
    '@',
    'constructor',
  ])('without five fields is refused: %j', (cron) => {
    expect(messageOf(cron)).toMatch(
      /^cron: must be five fields \(minute, hour, .*\) or one of @hourly, .*@yearly \(got /,
    );
  });

  test.each([
    ['60 * * * *', 'minute', '0 to 59'],
    ['-1 * * * *', 'minute', '0 to 59'],
    ['1.5 * * * *', 'minute', '0 to 59'],
    ['? * * * *', 'minute', '0 to 59'],
    ['H * * * *', 'minute', '0 to 59'],
    ['*/0 * * * *', 'minute', '0 to 59'],
    ['*/99 * * * *', 'minute', '0 to 59'],
    ['1,,2 * * * *', 'minute', '0 to 59'],
    ['1- * * * *', 'minute', '0 to 59'],
    ['5-3 * * * *', 'minute', '0 to 59'],
    ['99999999999999999999 * * * *', 'minute', '0 to 59'],
    ['* 24 * * *', 'hour', '0 to 23'],
    ['* * 0 * *', 'day of month', '1 to 31'],
    ['* * L * *', 'day of month', '1 to 31'],
    ['* * 15W * *', 'day of month', '1 to 31'],
    ['* * * 13 *', 'month', '1 to 12 or jan to dec'],
    ['* * * mon *', 'month', '1 to 12 or jan to dec'],
    ['* * * * 8', 'day of week', '0 to 7 or sun to sat'],
    ['* * * * mon#1', 'day of week', '0 to 7 or sun to sat'],
  ])('%s is refused for its %s', (cron, field, valid) => {
    expect(messageOf(cron)).toContain(`cron: ${field}: must be *, a number from ${valid}, `);
  });

  test.each(['0 0 30 2 *', '0 0 31 2 *', '0 0 31 4,6,9,11 *', '0 0 30-31 feb 0-6'])('%s never fires', (cron) => {
    expect(messageOf(cron)).toMatch(/^cron: never fires: none of its months has a day 3\d/);
  });

  test('may fire every four or eight years', () => {
    expect(runs(3, '0 0 29 2 *', '2026-11-29T00:00:00Z')).toEqual([
      '2028-02-29T00:00Z',
      '2032-02-29T00:00Z',
      '2036-02-29T00:00Z',
    ]);
    expect(runs(1, '0 0 29 2 *', '2096-03-01T00:00:00Z')).toEqual(['2104-02-29T00:00Z']);
  });

  test('with a day that some months lack runs in the others', () => {
    expect(runs(4, '0 0 31 * *', '2027-01-01T00:00:00Z')).toEqual([
      '2027-01-31T00:00Z',
      '2027-03-31T00:00Z',
      '2027-05-31T00:00Z',
      '2027-07-31T00:00Z',
    ]);
  });
});

test.each(['Mars/Olympus', '+01:00', 'local', 'UTC+1', ''])('the time zone %j is refused', (timezone) => {
  expect(messageOf('* * * * *', timezone)).toMatch(/^timezone: must be a name of the IANA .*Europe\/Berlin \(got /);
});

describe('in Berlin', () => {
  test('a run in the skipped hour takes place once, right after it', () => {
    expect(runs(3, '30 2 * * *', '2026-03-28T00:00:00Z', BERLIN)).toEqual([
      '2026-03-28T01:30Z',
      '2026-03-29T01:30Z',
      '2026-03-30T00:30Z',
    ]);
    expect(runs(2, '30 2,3 * * *', '2026-03-29T00:00:00Z', BERLIN)).toEqual(['2026-03-29T01:30Z', '2026-03-30T00:30Z']);
  });

  test('a run in the repeated hour takes place once', () => {
    expect(runs(3, '30 2 * * *', '2026-10-24T00:00:00Z', BERLIN)).toEqual([
      '2026-10-24T00:30Z',
      '2026-10-25T00:30Z',
      '2026-10-26T01:30Z',
    ]);
  });

  test('an expression for all hours runs in every minute of the repeated hour', () => {
    expect(runs(4, '*/30 * * * *', '2026-10-25T00:00:00Z', BERLIN)).toEqual([
      '2026-10-25T00:30Z',
      '2026-10-25T01:00Z',
      '2026-10-25T01:30Z',
      '2026-10-25T02:00Z',
    ]);
  });
});

const MINUTE_MS = 60_000;

/** A local time, as the milliseconds of the same time in UTC. */
function localTime(formatter: Intl.DateTimeFormat, moment: number): number {
  const parts = new Map(formatter.formatToParts(moment).map(({ type, value }) => [type, Number(value)]));
  const numbers = [
    parts.get('year'),
    (parts.get('month') ?? 1) - 1,
    parts.get('day'),
    parts.get('hour'),
    parts.get('minute'),
  ];
  const [year = 0, month = 0, day, hour, minute] = numbers;
  return Date.UTC(year, month, day, hour, minute);
}

/**
 * All runs of `minutes` past `hours` from one moment until another, found by looking at every minute: the first of the
 * minutes with a local time, or, where it is skipped, the one that would have had it without the clock change.
 */
function everyRun(minutes: number[], hours: number[], timezone: string, from: number, until: number): number[] {
  const formatter = new Intl.DateTimeFormat('en-US', {
    timeZone: timezone,
    hourCycle: 'h23',
    ...{ year: 'numeric', month: 'numeric', day: 'numeric', hour: 'numeric', minute: 'numeric' },
  });
  const found = new Set<number>();
  const matches = (local: number) => {
    const time = new Date(local);
    return minutes.includes(time.getUTCMinutes()) && hours.includes(time.getUTCHours());
  };
  let latest = Number.NEGATIVE_INFINITY;
  for (let moment = from - 4 * 3_600_000; moment < until; moment += MINUTE_MS) {
    const local = localTime(formatter, moment);
    const isNew = local > latest;
    if (matches(local) && (isNew || hours.length === 24)) found.add(moment);
    if (isNew && hours.length < 24 && Number.isFinite(latest)) {
      for (let skipped = latest + MINUTE_MS; skipped < local; skipped += MINUTE_MS) {
        if (matches(skipped)) found.add(moment + (skipped - latest - MINUTE_MS));
      }
    }
    latest = Math.max(latest, local);
  }
  return [...found].filter((moment) => moment > from && moment < until).sort((a, b) => a - b);
}

test('around clock changes, each run equals the one that a search of every minute finds', () => {
  const changes = [
    [BERLIN, '2026-03-29T01:00:00Z'],
    [BERLIN, '2026-10-25T01:00:00Z'],
    ['America/New_York', '2026-03-08T07:00:00Z'],
    ['America/New_York', '2026-11-01T06:00:00Z'],
    ['UTC', '2026-03-01T00:00:00Z'],
  ] as const;
  const values = (max: number) => fc.uniqueArray(fc.integer({ min: 0, max }), { minLength: 1, maxLength: 4 });
  const someHours = fc.oneof(values(23), values(4), fc.constant(Array.from({ length: 24 }, (_, hour) => hour)));
  fc.assert(
    fc.property(
      fc.constantFrom(...changes),
      values(59),
      someHours,
      fc.integer({ min: -600, max: 300 }),
      ([timezone, change], minutes, hours, offset) => {
        const from = new Date(change).getTime() + offset * MINUTE_MS;
        const until = from + 30 * 3_600_000;
        const cron = `${minutes.join(',')} ${hours.join(',')} * * *`;
        const expected = everyRun(minutes, hours, timezone, from, until);
        const found: number[] = [];
        for (let run = from; run < until; found.push(run)) run = nextRun(cron, timezone, new Date(run)).getTime();
        expect(found.slice(0, -1).map((run) => new Date(run))).toEqual(expected.map((run) => new Date(run)));
      },
    ),
    { numRuns: 80, seed: 1 },
  );
});

test('on any day, the next run is later, at a minute that matches', () => {
  const moments = fc.date({ min: new Date('2000-01-01'), max: new Date('2099-12-31'), noInvalidDate: true });
  const field = (min: number, max: number) => fc.oneof(fc.constant('*'), fc.integer({ min, max }).map(String));
  fc.assert(
    fc.property(moments, field(0, 59), field(0, 23), field(1, 28), field(1, 12), (after, minute, hour, day, month) => {
      const run = nextRun(`${minute} ${hour} ${day} ${month} *`, 'UTC', after);
      expect(run.getTime()).toBeGreaterThan(after.getTime());
      const parts = [run.getUTCMinutes(), run.getUTCHours(), run.getUTCDate(), run.getUTCMonth() + 1];
      expect([minute, hour, day, month].map((wanted, index) => (wanted === '*' ? '*' : String(parts[index])))).toEqual([
        minute,
        hour,
        day,
        month,
      ]);
      expect([run.getUTCSeconds(), run.getUTCMilliseconds()]).toEqual([0, 0]);
    }),
    { numRuns: 300, seed: 1 },
  );
});
