import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { post } from '../../../api/webhooks/post.ts';
import { createGuard, guardedLookup, refuseForbidden } from '../../../api/webhooks/ssrf-guard.ts';
import { AppError } from '../../../runtime/errors.ts';

const guardOf = (hosts?: string[], HOST = '0.0.0.0') => createGuard({ HOST, WEBHOOK_ALLOWED_HOSTS: hosts });

/** The message that refuses a URL; undefined when it is accepted. */
function refusalOf(url: string, guard = guardOf()): string | undefined {
  try {
    refuseForbidden(guard, url);
  } catch (error) {
    if (!(error instanceof AppError)) throw error;
    expect(error).toMatchObject({ code: 'forbidden_url', status: 422 });
    return error.message;
  }
}

describe.each(['127.0.0.1', '0.0.0.0'])('an API on %s', (HOST) => {
  test.each([
    '169.254.169.254',
    '169.254.0.1',
    '[::ffff:169.254.169.254]',
    '[::ffff:a9fe:a9fe]',
    '[64:ff9b::a9fe:a9fe]',
    '2852039166', // 169.254.169.254 as one number
    '0xa9.0xfe.1.1',
    '0.0.0.0',
    '0',
    '[::]',
    '[fe80::1]',
    '[febf::1]',
    '[fd00:ec2::254]',
    '100.100.100.200',
    '224.0.0.1',
    '[ff02::1]',
    '255.255.255.255',
  ])('refuses %s as a receiver', (host) => {
    expect(refusalOf(`http://${host}/hook`, guardOf(undefined, HOST))).toMatch(
      /^notify_url: .* is not allowed: it is a metadata/,
    );
    expect(refusalOf(`https://${host}:8443/`, guardOf(['0.0.0.0/0', '::/0'], HOST))).toMatch(/is a metadata/);
  });

  test.each(['10.1.2.3', '192.168.1.1', '93.184.216.34', '[2606:2800:220:1::1]', '[fd12::1]', 'example.com'])(
    'accepts %s as a receiver',
    (host) => {
      expect(refusalOf(`http://${host}/hook`, guardOf(undefined, HOST))).toBeUndefined();
    },
  );
});

test('a loopback address is a receiver only if the API listens on loopback or the address is listed', () => {
  for (const host of ['127.0.0.1', '127.8.8.8', '2130706433', '[::1]', '[::ffff:127.0.0.1]', '[::ffff:7f00:1]']) {
    const url = `http://${host}/`;
    expect(refusalOf(url)).toMatch(/is a loopback address/);
    for (const HOST of ['127.0.0.1', '::1', 'localhost'])
      expect(refusalOf(url, guardOf(undefined, HOST))).toBeUndefined();
    expect(refusalOf(url, guardOf(['127.0.0.0/8', '::1']))).toBeUndefined();
  }
});

test('a list of allowed hosts refuses all other hosts', () => {
  const guard = guardOf(['hooks.example.com', '*.Internal.Example', '10.0.0.0/8', 'fd12::/16', '192.168.1.7']);
  for (const host of ['10.9.9.9', '[fd12::1]', '192.168.1.7', '[::ffff:10.9.9.9]'])
    expect(refusalOf(`http://${host}/`, guard)).toBeUndefined();
  for (const host of ['11.0.0.1', '[fd13::1]', '192.168.1.8', '127.0.0.1'])
    expect(refusalOf(`http://${host}/`, guard)).toMatch(/is not an allowed receiver/);
  for (const name of ['hooks.example.com', 'a.internal.example', 'a.b.internal.example'])
    expect(guard(name, '93.184.216.34')).toBeUndefined();
  for (const name of ['example.com', 'x.hooks.example.com', 'internal.example', 'notinternal.example'])
    expect([name, guard(name, '93.184.216.34')]).toEqual([name, expect.stringMatching(/is not an allowed receiver/)]);
  // A name may resolve to a listed range, so it is refused early only if the list has no ranges.
  expect(guard('unlisted.example', '10.1.1.1')).toBeUndefined();
  expect(refusalOf('http://unlisted.example/', guard)).toBeUndefined();
  expect(refusalOf('http://unlisted.example/', guardOf(['hooks.example.com']))).toMatch(/is not an allowed receiver/);
  expect(refusalOf('http://HOOKS.example.com./', guardOf(['hooks.example.com']))).toBeUndefined();
});

test('a listed name that resolves to a loopback or metadata address is refused', () => {
  const guard = guardOf(['*.example.com']);
  expect(guard('rebound.example.com', '127.0.0.1')).toMatch(/is a loopback address/);
  expect(guard('rebound.example.com', '169.254.169.254')).toMatch(/is a metadata/);
  expect(guard('rebound.example.com', 'fe80::1%eth0')).toMatch(/is a metadata/);
});

test('a socket connects only to addresses that the guard has checked', async () => {
  const resolve = (guard = guardOf()) =>
    new Promise((done) => guardedLookup(guard)('localhost', { all: true }, (error, found) => done(error ?? found)));
  expect(await resolve()).toMatchObject({ message: expect.stringMatching(/is a loopback address/) });
  expect(await resolve(guardOf(['localhost']))).toContainEqual({ address: '127.0.0.1', family: 4 });

  let asked = 0;
  const server = createServer((_request, response) => {
    asked++;
    response.end();
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  const send = (host: string, guard = guardOf()) =>
    post(new URL(`http://${host}:${port}/`), { headers: {}, body: '{}', guard, signal: AbortSignal.timeout(5_000) });
  for (const host of ['localhost', '127.0.0.1', '[::ffff:127.0.0.1]'])
    await expect(send(host)).rejects.toThrow(/is a loopback address/);
  expect(asked).toBe(0);
  expect(await send('127.0.0.1', guardOf(undefined, '127.0.0.1'))).toBe(200);
  expect(await send('localhost', guardOf(['localhost']))).toBe(200);
  expect(asked).toBe(2);
  await new Promise((resolve) => server.close(resolve));
});
