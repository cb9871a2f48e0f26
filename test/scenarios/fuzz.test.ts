import { readdirSync } from 'node:fs';
import { Agent, request } from 'node:http';
import fc from 'fast-check';
import { makeImage, makePdf, RED } from '../support/files.ts';
import { type Json, type Service, startService, until } from '../support/service.ts';
import { valueFor } from './fuzz/values.ts';

/**
 * Requests made from the OpenAPI document, valid and broken, from a seed: never a 5xx, errors always as problem+json, and
 * no file or connection left behind.
 */
const REQUESTS = Number(process.env.FUZZ_REQUESTS ?? 5_000);
const SEED = Number(process.env.FUZZ_SEED ?? 20_261_124);
const AT_ONCE = 20;
const ANSWER_MS = 30_000;
/** Files and sockets that an idle API may open or close meanwhile: connections of its pools. */
const SPARE_FILES = 12;

interface Call {
  method: string;
  path: string;
  headers: Record<string, string>;
  body: Buffer | undefined;
  /** Sends only this part of the body, and disconnects. */
  cutAt: number | undefined;
}

interface Heard {
  status: number;
  type: string;
  text: string;
}

let service: Service;
let document: Json;
let files: Buffer[];
beforeAll(async () => {
  // The service logs each refusal; this test does not read the log.
  service = await startService({ env: { CAPACITY_CPU: '2', LOG_LEVEL: 'fatal' } });
  document = await service.get('/openapi.json');
  files = [await makeImage(), await makePdf([{ color: RED }]), Buffer.from('%PDF-1.7\nnothing'), Buffer.alloc(0)];
});
afterAll(() => service.stop());

test(
  `${REQUESTS} requests, valid and broken, are all answered as the contract says, and leave nothing behind`,
  async () => {
    const upload = (await service.upload([['a.png', files[0] as Buffer]])).body.id;
    await service.done(upload);
    const job = (await service.submit({ type: 'checksum', payload: { upload_id: upload } })).job_id;
    await service.jobDone(job);
    const filesOpen = () => readdirSync(`/proc/${service.api.pid}/fd`).length;
    const before = filesOpen();
    const agent = new Agent({ keepAlive: true, maxSockets: AT_ONCE });
    const seen = new Map<number, number>();
    let unanswered = 0;

    await fc.assert(
      fc.asyncProperty(fc.array(callOf({ upload, job }), { minLength: AT_ONCE, maxLength: AT_ONCE }), async (calls) => {
        const heard = await Promise.all(calls.map(async (call) => ({ call, answer: await send(agent, call) })));
        for (const { call, answer } of heard) {
          if (answer === undefined) {
            if (!isCut(call)) unanswered++;
            continue;
          }
          seen.set(answer.status, (seen.get(answer.status) ?? 0) + 1);
          const told = `${call.method} ${call.path} ${JSON.stringify(call.headers)}: ${answer.status} ${answer.text}`;
          // Only when more waits than it takes: that is said on purpose.
          if (answer.status >= 500 && answer.status !== 503) throw new Error(told.slice(0, 2_000));
          // The answer to HEAD has no body to look at.
          if (answer.status >= 400 && call.method !== 'HEAD') expectProblem(answer, told);
        }
      }),
      { numRuns: Math.ceil(REQUESTS / AT_ONCE), seed: SEED, endOnFailure: true },
    );

    // A refusal may close the connection before the whole body has arrived; every other request gets an answer.
    expect(unanswered).toBeLessThan(REQUESTS / 100);
    // It found its way behind the edge, and was refused at it.
    expect(seen.get(200) ?? 0).toBeGreaterThan(REQUESTS / 50);
    expect(seen.get(400) ?? 0).toBeGreaterThan(REQUESTS / 50);
    expect(seen.get(503) ?? 0).toBe(0);
    agent.destroy();
    await until(async () => filesOpen() <= before + SPARE_FILES, 30_000);
    await until(async () => (await service.storedFiles()).every((file) => !file.startsWith('incoming/')), 30_000);
    expect((await service.send('GET', '/health/ready')).status).toBe(200);
  },
  15 * 60_000,
);

function expectProblem({ status, type, text }: Heard, told: string): void {
  const problem = /^application\/problem\+json/.test(type) ? JSON.parse(text) : {};
  if (problem.status !== status || typeof problem.code !== 'string' || typeof problem.request_id !== 'string') {
    // Node itself answers what is no HTTP, before there is a request.
    if (text === '' && (status === 400 || status === 431)) return;
    throw new Error(`no problem+json: ${told.slice(0, 2_000)}`);
  }
}

/** Any call of the document, and some that are none. */
function callOf(known: { upload: string; job: string }): fc.Arbitrary<Call> {
  const operations = Object.entries(document.paths as Json).flatMap(([path, item]) =>
    Object.entries(item as Json)
      .filter(([method]) => ['get', 'post', 'put', 'patch', 'delete'].includes(method))
      // A stream stays open.
      .filter(() => path !== '/jobs/stream')
      .map(([method, operation]) => ({ method: method.toUpperCase(), path, operation: operation as Json })),
  );
  const junk = fc.oneof(
    fc.string(),
    fc.string({ unit: 'binary' }),
    fc.constantFrom('', '0', '-1', '1e9', 'null', '..', '%2e%2e%2f', '%00', '\u0000', '%', 'a'.repeat(5_000)),
  );
  const documented = fc.constantFrom(...operations).chain(({ method, path, operation }) => {
    const parameters: Json[] = (operation.parameters ?? []).map(resolve);
    const inPath = (name: string) => {
      const id = path.startsWith('/jobs') ? known.job : path.startsWith('/uploads') ? known.upload : 'nightly';
      const right = name === 'id' ? id : name === 'name' ? 'nightly' : '1';
      return fc.oneof({ weight: 4, arbitrary: fc.constant(right) }, { weight: 1, arbitrary: fc.uuid() }, junk);
    };
    const pathNames = [...path.matchAll(/\{(\w+)\}/g)].map(([, name]) => name as string);
    const query = parameters.filter((parameter) => parameter.in === 'query');
    return fc.record({
      method: fc.constant(method),
      path: fc
        .tuple(
          fc.tuple(...pathNames.map(inPath)),
          fc.tuple(...query.map(({ schema }) => fc.option(fc.oneof(valueFor(schema, resolve).map(String), junk)))),
          seldom(fc.tuple(junk, junk)),
        )
        .map(([values, asked, extra]) => {
          const filled = pathNames.reduce(
            (text, name, index) => text.replace(`{${name}}`, () => pathPart(values[index] as string)),
            path,
          );
          const pairs = query.flatMap(({ name }, index) => (asked[index] == null ? [] : [[name, asked[index]]]));
          const search = new URLSearchParams([...pairs, ...(extra ? [extra] : [])] as [string, string][]).toString();
          return search === '' ? filled : `${filled}?${search}`;
        }),
      headers: headers(),
      content: contentOf(operation.requestBody),
      cutAt: seldom(fc.nat(400)),
    });
  });
  const invented = fc.record({
    method: fc.constantFrom('GET', 'POST', 'PUT', 'DELETE', 'OPTIONS', 'HEAD', 'TRACE'),
    path: fc.array(junk, { maxLength: 4 }).map((parts) => `/${parts.map(pathPart).join('/')}`),
    headers: headers(),
    content: contentOf(undefined),
    cutAt: fc.constant(null),
  });
  return fc
    .oneof({ weight: 12, arbitrary: documented }, { weight: 1, arbitrary: invented })
    .map(({ method, path, headers, content, cutAt }) => ({
      method,
      path,
      headers: { ...headers, ...(content && { 'content-type': content.type }) },
      body: content?.bytes,
      cutAt: cutAt ?? undefined,
    }));
}

/** One time in twenty, and null otherwise. */
function seldom<T>(arbitrary: fc.Arbitrary<T>): fc.Arbitrary<T | null> {
  return fc.oneof({ weight: 19, arbitrary: fc.constant(null) }, { weight: 1, arbitrary });
}

/** A value as a client writes it, or an invalid one. */
function pathPart(text: string): string {
  return text.includes('%') ? text.replaceAll(/[^\x21-\x7e]|[?#]/g, '_') : encodeURIComponent(text.toWellFormed());
}

function headers(): fc.Arbitrary<Record<string, string>> {
  const printable = fc.stringMatching(/^[\x20-\x7e]{0,300}$/);
  return fc.record(
    {
      'idempotency-key': fc.oneof(fc.constantFrom('a', 'b', 'c', ''), printable),
      // No longer than a moment: what waits is waited for.
      prefer: fc.constantFrom('wait=0', 'wait=1', 'wait=', 'wait=-1', 'wait=abc', 'respond-async', ';;;'),
      range: fc.oneof(fc.constantFrom('bytes=0-1', 'bytes=5-', 'bytes=-3', 'bytes=9-1', 'lines=1-2'), printable),
      'if-none-match': fc.oneof(fc.constantFrom('*', '"a"', 'W/"b"'), printable),
      authorization: fc.oneof(fc.constantFrom('Bearer', 'Bearer a.b.c', 'Basic YTpi'), printable),
      accept: printable,
    },
    { requiredKeys: [] },
  );
}

type Content = { type: string; bytes: Buffer } | null;

function contentOf(requestBody: Json): fc.Arbitrary<Content> {
  const broken = fc.record({
    type: fc.constantFrom(
      'application/json',
      'multipart/form-data',
      'multipart/form-data; boundary=x',
      'text/plain',
      'application/json; charset=latin1',
      '',
    ),
    bytes: fc.oneof(
      fc.uint8Array({ maxLength: 300 }).map((bytes) => Buffer.from(bytes)),
      fc.json().map((text) => Buffer.from(text)),
      fc.constantFrom('[', '{"a":', '['.repeat(20_000), '{"__proto__":{"a":1}}', '--x\r\n').map(Buffer.from),
    ),
  });
  if (requestBody === undefined) return fc.option(broken, { freq: 8 });
  const { content } = resolve(requestBody);
  const right =
    content['multipart/form-data'] !== undefined
      ? multipart(resolve(content['multipart/form-data'].schema))
      : valueFor(content['application/json'].schema, resolve).map((value) => ({
          type: 'application/json',
          bytes: Buffer.from(JSON.stringify(value) ?? 'null'),
        }));
  return fc.oneof({ weight: 4, arbitrary: right }, { weight: 1, arbitrary: broken });
}

/** Parts in any order: fields as the document has them or not, files that are such or not, and sometimes no end. */
function multipart(schema: Json): fc.Arbitrary<Content> {
  const fields = Object.entries(schema.properties as Json).filter(([name]) => name !== 'file') as [string, Json][];
  const field = fc
    .constantFrom(...fields)
    .chain(([name, property]) => fc.tuple(fc.constant(name), fc.oneof(valueFor(property, resolve), fc.string())));
  const part = fc.oneof(
    { weight: 2, arbitrary: field.map(([name, value]) => [`name="${name}"`, Buffer.from(String(value))] as const) },
    {
      weight: 3,
      arbitrary: fc
        .tuple(fc.constantFrom(...files), fc.constantFrom('a.png', '../a.pdf', '', 'ä"b.jpg', '\\', 'a'.repeat(2_000)))
        .map(([bytes, filename]) => [`name="file"; filename="${filename}"`, bytes] as const),
    },
    { weight: 1, arbitrary: fc.constant([`name="other"; filename="a"`, Buffer.from('x')] as const) },
  );
  return fc.tuple(fc.array(part, { maxLength: 5 }), fc.boolean()).map(([parts, ends]) => ({
    type: 'multipart/form-data; boundary=x',
    bytes: Buffer.concat([
      ...parts.flatMap(([disposition, bytes]) => [
        Buffer.from(`--x\r\nContent-Disposition: form-data; ${disposition}\r\n\r\n`),
        bytes,
        Buffer.from('\r\n'),
      ]),
      Buffer.from(ends ? '--x--\r\n' : ''),
    ]),
  }));
}

function resolve(schema: Json): Json {
  if (schema?.$ref === undefined) return schema;
  return resolve(
    schema.$ref
      .slice(2)
      .split('/')
      .reduce((at: Json, name: string) => at[name], document),
  );
}

function isCut({ body, cutAt }: Call): boolean {
  return body !== undefined && cutAt !== undefined && cutAt < body.length;
}

/** Undefined for a call that was cut off, or that Node would not send. */
function send(agent: Agent, call: Call): Promise<Heard | undefined> {
  const { method, path, headers, body, cutAt } = call;
  return new Promise((done, fail) => {
    const { hostname, port } = new URL(service.url);
    const length = body === undefined ? {} : { 'content-length': String(body.length) };
    const sent = request({ agent, hostname, port, method, path, headers: { ...headers, ...length } }, (response) => {
      const chunks: Buffer[] = [];
      response.on('data', (chunk) => chunks.push(chunk));
      response.on('end', () => {
        const { statusCode = 0, headers } = response;
        done({ status: statusCode, type: headers['content-type'] ?? '', text: Buffer.concat(chunks).toString() });
      });
      response.on('error', () => done(undefined));
    });
    sent.setTimeout(ANSWER_MS, () => fail(new Error(`no answer within ${ANSWER_MS} ms: ${method} ${path}`)));
    // The answer to an incomplete body may close the connection.
    sent.on('error', () => done(undefined));
    if (isCut(call)) sent.write((body as Buffer).subarray(0, cutAt), () => sent.destroy());
    else sent.end(body);
  });
}
