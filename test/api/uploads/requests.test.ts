import { parse } from '../../../api/http/validate.ts';
import { readPageCursor, uploadFields, withoutEmptyFields, writePageCursor } from '../../../api/uploads/requests.ts';

const read = (fields: Record<string, unknown>) => parse(uploadFields, withoutEmptyFields(fields));

test.each([
  ['dpi', 'must be a whole number from 36 to 600 (got 35)', '35'],
  ['dpi', 'must be a whole number from 36 to 600 (got 601)', '601'],
  ['dpi', 'must be a whole number from 36 to 600 (got high)', 'high'],
  ['dpi', 'must be a whole number from 36 to 600 (got 72.5)', '72.5'],
  ['dpi', 'must be a whole number from 36 to 600 (got 1e999)', '1e999'],
  ['pages', 'pages count from 1; write for example 1-3,7', '0'],
  ['pages', '3-1 is descending; write for example 1-3,7', '3-1'],
  ['pages', '"x" is neither a page nor a range; write for example 1-3,7', '1,x'],
  ['pages', '"" is neither a page nor a range; write for example 1-3,7', '1,,2'],
  ['pages', 'longer than 1000 characters; write for example 1-3,7', '1'.repeat(1_001)],
  ['engine', 'must be one of pdfium, pdf-to-img (got mupdf)', 'mupdf'],
  ['priority', 'must be one of critical, high, normal, low (got HIGH)', 'HIGH'],
  ['password', 'must not contain NUL', 'a\0b'],
  ['password', 'must have at most 127 characters', 'x'.repeat(128)],
  ['notify_url', 'must be an http or https URL (got ftp://example.com)', 'ftp://example.com'],
  ['notify_url', 'must have no user name or password', 'https://a:b@example.com'],
  ['expires_at', 'must be in the future', '2020-01-01T00:00:00Z'],
  ['expires_at', 'must be within 100 years from now', '9999-01-01T00:00:00Z'],
])('a wrong field is refused with %s: %s', (name, detail, value) => {
  expect(() => read({ [name]: value })).toThrow(`${name}: ${detail}`);
});

test.each(['tomorrow', '2099-01-01', '2099-13-01T00:00:00Z'])('expires_at=%j is refused', (expires_at) => {
  expect(() => read({ expires_at })).toThrow(/^expires_at: /);
});

test('a field that is sent twice is refused', () => {
  expect(() => read({ dpi: ['100', '200'] })).toThrow(/^dpi: /);
});

test.each(['DPI', 'page', 'owner', '__proto__', 'constructor', 'id', 'resolution'])(
  'the unknown field %s is refused, even if empty, with the valid fields',
  (name) => {
    const valid = 'file, dpi, pages, password, priority, expires_at, notify_url, engine';
    const fields = Object.fromEntries([[name, '']]);
    expect(() => read(fields)).toThrow(`unknown field "${name}"; valid fields: ${valid}`);
  },
);

test('empty optional fields have their defaults', () => {
  const names = ['dpi', 'pages', 'password', 'priority', 'notify_url', 'expires_at', 'engine'];
  expect(read(Object.fromEntries(names.map((name) => [name, ''])))).toEqual({ dpi: 200, priority: 'normal' });
});

test('expires_at with a UTC offset is the same time in UTC', () => {
  expect(read({ expires_at: '2099-01-01T12:00:00+02:00' }).expires_at).toEqual(new Date('2099-01-01T10:00:00Z'));
});

test('a page cursor is decoded to the encoded value', () => {
  const place = { original: 2, page: 17 };
  expect(readPageCursor(writePageCursor(place) ?? undefined)).toEqual(place);
  expect([writePageCursor(null), readPageCursor(undefined)]).toEqual([null, undefined]);
});
