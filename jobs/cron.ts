import { CronExpressionParser } from 'cron-parser';
import { AppError } from '../runtime/errors.ts';

const ALIASES = new Map([
  ['@hourly', '0 * * * *'],
  ['@daily', '0 0 * * *'],
  ['@weekly', '0 0 * * 0'],
  ['@monthly', '0 0 1 * *'],
  ['@yearly', '0 0 1 1 *'],
]);

interface Field {
  name: string;
  min: number;
  max: number;
  /** Names of the numbers from `min` on. */
  names?: string[];
}

const SUNDAY = 0;
/** Cron also accepts Sunday as the end of a week. */
const LAST_SUNDAY = 7;

const DAY_OF_MONTH = { name: 'day of month', min: 1, max: 31 };
const DAY_OF_WEEK = { name: 'day of week', min: 0, max: 6, names: ['sun', 'mon', 'tue', 'wed', 'thu', 'fri', 'sat'] };
const FIELDS: Field[] = [
  { name: 'minute', min: 0, max: 59 },
  { name: 'hour', min: 0, max: 23 },
  DAY_OF_MONTH,
  {
    name: 'month',
    min: 1,
    max: 12,
    names: ['jan', 'feb', 'mar', 'apr', 'may', 'jun', 'jul', 'aug', 'sep', 'oct', 'nov', 'dec'],
  },
  DAY_OF_WEEK,
];
const MAX_DAYS_OF_MONTH = [31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];

const DAY_MS = 86_400_000;
/** The maximum clock change. */
const CLOCK_CHANGE_MS = 3 * 3_600_000;

/**
 * The first run of a cron expression after a moment. If both the day of month and the day of week are restricted, either may
 * match. A local time that a clock change skips runs once, right after the change. Throws `invalid_request` (400) for an
 * invalid expression or time zone, and for an expression that never fires.
 */
export function nextRun(cron: string, timezone: string, after: Date): Date {
  const fields = readFields(cron);
  const zone = zoneOf(timezone);
  const before = new Date(after.getTime() - CLOCK_CHANGE_MS);
  // The library sees a clock change only when it steps over it, so that it must start before a recent one.
  const start = offsetAt(zone, before) === offsetAt(zone, after) ? after : before;
  const tz = zone.resolvedOptions().timeZone;
  // The library steps from day to day in the time zone, which takes milliseconds for years without a 29 February.
  for (let day = nextDay(fields, start.getTime() - DAY_MS); ; day = nextDay(fields, day + DAY_MS)) {
    const currentDate = new Date(Math.max(start.getTime(), day - DAY_MS));
    const endDate = new Date(Math.max(start.getTime(), day) + 2 * DAY_MS);
    const runs = CronExpressionParser.parse(expressionOf(fields), { currentDate, endDate, tz });
    while (runs.hasNext()) {
      const run = runs.next().toDate();
      if (run > after) return run;
    }
  }
}

/** Parses an expression into the numbers that each field allows. */
function readFields(cron: string): Set<number>[] {
  const written = (ALIASES.get(cron.trim().toLowerCase()) ?? cron).trim().split(/\s+/);
  if (written.length !== FIELDS.length) {
    const valid = `five fields (${FIELDS.map(({ name }) => name).join(', ')}) or one of ${[...ALIASES.keys()].join(', ')}`;
    throw invalid(`cron: must be ${valid} (got ${JSON.stringify(cron)})`);
  }
  const fields = FIELDS.map((field, index) => valuesOf(field, written[index] ?? ''));
  refuseNever(cron, fields);
  return fields;
}

/** Formats an expression as five fields of `*` or numbers. */
function expressionOf(fields: Set<number>[]): string {
  return fields.map((values, index) => (isUnrestricted(FIELDS[index], values) ? '*' : [...values].join(','))).join(' ');
}

/** The first day from a moment on, at midnight UTC, whose date matches; `refuseNever` guarantees one. */
function nextDay([, , days, months, daysOfWeek]: Set<number>[], moment: number): number {
  const isEither = !isUnrestricted(DAY_OF_MONTH, days) && !isUnrestricted(DAY_OF_WEEK, daysOfWeek);
  for (let at = Math.floor(moment / DAY_MS) * DAY_MS; ; at += DAY_MS) {
    const day = new Date(at);
    const matches = [days?.has(day.getUTCDate()), daysOfWeek?.has(day.getUTCDay())];
    const isDay = isEither ? matches.includes(true) : !matches.includes(false);
    if (isDay && months?.has(day.getUTCMonth() + 1)) return at;
  }
}

/** Parses a field: `*`, a number, a range, either with a step, or a list of these. */
function valuesOf(field: Field, text: string): Set<number> {
  const values = text.split(',').flatMap((part) => {
    const range = rangeOf(field, part);
    if (range === undefined) throw invalid(`cron: ${field.name}: ${validOf(field)} (got ${JSON.stringify(text)})`);
    const { from, to, step } = range;
    return Array.from({ length: Math.floor((to - from) / step) + 1 }, (_, index) => from + index * step);
  });
  return new Set(values.map((value) => (field === DAY_OF_WEEK && value === LAST_SUNDAY ? SUNDAY : value)));
}

function rangeOf(field: Field, part: string): { from: number; to: number; step: number } | undefined {
  const {
    all,
    first = '',
    last,
    every,
  } = /^(?:(?<all>\*)|(?<first>\w+)(?:-(?<last>\w+))?)(?:\/(?<every>\d+))?$/.exec(part)?.groups ?? {};
  const step = every === undefined ? 1 : Number(every);
  const from = all ? field.min : numberOf(field, first);
  const to = all || (every !== undefined && last === undefined) ? field.max : numberOf(field, last ?? first);
  const isValid = from <= to && step >= 1 && step <= field.max;
  return isValid ? { from, to, step } : undefined;
}

/** The number that a word means in a field; NaN for an invalid word. */
function numberOf(field: Field, word: string): number {
  const named = field.names?.indexOf(word.toLowerCase()) ?? -1;
  if (named >= 0) return field.min + named;
  const value = /^\d{1,2}$/.test(word) ? Number(word) : Number.NaN;
  return value >= field.min && value <= largestOf(field) ? value : Number.NaN;
}

function largestOf(field: Field): number {
  return field === DAY_OF_WEEK ? LAST_SUNDAY : field.max;
}

function validOf(field: Field): string {
  const { min, names } = field;
  const numbers = `${min} to ${largestOf(field)}${names === undefined ? '' : ` or ${names[0]} to ${names.at(-1)}`}`;
  return `must be *, a number from ${numbers}, a range such as 1-5, a step such as */2, or a list of these`;
}

function isUnrestricted(field: Field | undefined, values: Set<number> | undefined): boolean {
  return field !== undefined && values?.size === field.max - field.min + 1;
}

/** Throws if no month has the restricted days. Only without a restricted day of week can that be. */
function refuseNever(cron: string, [, , days, months, daysOfWeek]: Set<number>[]): void {
  if (days === undefined || months === undefined || daysOfWeek === undefined) return;
  if (!isUnrestricted(DAY_OF_WEEK, daysOfWeek)) return;
  const longest = Math.max(...[...months].map((month) => MAX_DAYS_OF_MONTH[month - 1] ?? 0));
  const first = Math.min(...days);
  if (first <= longest) return;
  throw invalid(`cron: never fires: none of its months has a day ${first} (got ${JSON.stringify(cron)})`);
}

/** A formatter for a time zone, under its canonical name. */
function zoneOf(timezone: string): Intl.DateTimeFormat {
  try {
    // Offsets such as +01:00 are not names, and have no clock changes.
    if (/^[A-Za-z]/.test(timezone)) {
      return new Intl.DateTimeFormat('en-US', { timeZone: timezone, timeZoneName: 'longOffset' });
    }
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
  }
  const valid = 'must be a name of the IANA time zone database, such as Europe/Berlin';
  throw invalid(`timezone: ${valid} (got ${JSON.stringify(timezone)})`);
}

function offsetAt(zone: Intl.DateTimeFormat, moment: Date): string | undefined {
  return zone.formatToParts(moment).find(({ type }) => type === 'timeZoneName')?.value;
}

function invalid(message: string): AppError {
  return new AppError('invalid_request', message, { status: 400 });
}
