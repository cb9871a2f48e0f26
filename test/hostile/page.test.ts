import { once } from 'node:events';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import type { Browser, Page } from 'playwright-core';
import { describeInBrowser, openDashboard, startBrowser } from '../support/browser.ts';
import { makeImage } from '../support/files.ts';
import { type Service, startService } from '../support/service.ts';
import { report } from './figures.ts';

/** Pages in the browser of somebody who runs the service on loopback without keys. */

const EVIL = 'evil.example';

describeInBrowser('a page that the service did not send', () => {
  let service: Service;
  let browser: Browser;
  let server: Server;
  let known: { id: string; page: string };
  let rows: Record<string, number>;
  beforeAll(async () => {
    service = await startService();
    server = createServer((_, response) => {
      response.setHeader('Content-Type', 'text/html').end('<!doctype html><title>evil</title><body>');
    }).listen(0, '127.0.0.1');
    await once(server, 'listening');
    browser = await startBrowser(`--host-resolver-rules=MAP ${EVIL} 127.0.0.1`);
    const { body } = await service.upload([['a.png', await makeImage()]]);
    const { pages } = await service.done(body.id);
    known = { id: body.id, page: service.url + pages[0].url };
  });
  beforeEach(async () => {
    rows = await countRows();
  });
  afterAll(async () => {
    await browser?.close();
    server?.close();
    await service?.stop();
  });

  async function countRows(): Promise<Record<string, number>> {
    const { rows } = await service.pool.query(
      'select (select count(*)::int from uploads) as uploads, (select count(*)::int from jobs) as jobs, (select count(*)::int from schedules) as schedules',
    );
    return rows[0];
  }

  async function open(url: string): Promise<Page> {
    const page = await (await browser.newContext()).newPage();
    page.setDefaultTimeout(20_000);
    await page.goto(url);
    return page;
  }
  /** A page of another origin. Its host is also one that resolves to loopback. */
  const openForeign = (host = '127.0.0.1') => open(`http://${host}:${(server.address() as AddressInfo).port}/`);

  async function expectNothingWritten(what: unknown): Promise<void> {
    const now = await countRows();
    const written = Object.keys(now).map((table) => `${(now[table] ?? 0) - (rows[table] ?? 0)} ${table}`);
    report(expect.getState().currentTestName ?? '', { reached: JSON.stringify(what), written: written.join(', ') });
    expect(now).toEqual(rows);
  }

  test('uploads nothing by fetch, XMLHttpRequest or a beacon', async () => {
    for (const host of ['127.0.0.1', EVIL]) {
      const page = await openForeign(host);
      const reached = await page.evaluate(sendFromAfar, service.url);
      await expectNothingWritten(reached);
      expect(reached).toEqual([]);
    }
  });

  test('uploads nothing by a form', async () => {
    const page = await openForeign();
    const answered = page.waitForResponse(`${service.url}/uploads`);
    await page.evaluate(submitForm, service.url);
    const status = (await answered).status();
    await expectNothingWritten({ status });
    expect(status).toBe(403);
  });

  test('pauses no job type', async () => {
    const page = await openForeign();
    await page.evaluate(postUnread, `${service.url}/job-types/convert/pause`);
    const { items } = await service.get('/job-types');
    const paused = items.flatMap(({ type, paused }: { type: string; paused: boolean }) => (paused ? [type] : []));
    await service.post('/job-types/convert/resume');
    await expectNothingWritten(paused);
    expect(paused).toEqual([]);
  });

  test('reads no document, no page and no event', async () => {
    const page = await openForeign();
    const reached = await page.evaluate(readFromAfar, { ...known, url: service.url });
    await expectNothingWritten(reached);
    expect(reached).toEqual([]);
  });

  test('reads and writes nothing when its host name comes to mean loopback', async () => {
    const page = await open(`http://${EVIL}:${new URL(service.url).port}/`);
    const reached = await page.evaluate(useOwnOrigin, known.id);
    await expectNothingWritten(reached);
    expect(reached).toEqual([]);
  });

  test('leaves the dashboard to work from its own origin', async () => {
    for (const host of ['127.0.0.1', 'localhost']) {
      const url = `http://${host}:${new URL(service.url).port}`;
      const { page, faults } = await openDashboard(browser, url);
      const reached = await page.evaluate(useOwnOrigin, known.id);
      expect([reached.sort(), faults]).toEqual([['events', 'job', 'list', 'original', 'upload'], []]);
    }
  });
});

/** In the page: what a foreign origin may send without asking. Gives the ways that were answered. */
async function sendFromAfar(url: string): Promise<string[]> {
  const form = () => {
    const data = new FormData();
    data.append('file', new Blob(['%PDF-1.7\n']), 'a.pdf');
    return data;
  };
  const job = JSON.stringify({ type: 'checksum', payload: {} });
  const ways: Record<string, () => Promise<unknown>> = {
    fetch: () => fetch(`${url}/uploads`, { method: 'POST', body: form() }),
    'fetch with credentials': () => fetch(`${url}/uploads`, { method: 'POST', body: form(), credentials: 'include' }),
    'job as JSON': () =>
      fetch(`${url}/jobs`, { method: 'POST', body: job, headers: { 'Content-Type': 'application/json' } }),
    XMLHttpRequest: () =>
      new Promise((resolve, reject) => {
        const request = new XMLHttpRequest();
        request.onload = resolve;
        request.onerror = reject;
        request.open('POST', `${url}/uploads`);
        request.send(form());
      }),
  };
  // Their answers cannot be read: the rows show what came of them.
  await fetch(`${url}/uploads`, { method: 'POST', body: form(), mode: 'no-cors' }).catch(() => undefined);
  await fetch(`${url}/jobs`, { method: 'POST', body: job, mode: 'no-cors' }).catch(() => undefined);
  navigator.sendBeacon(`${url}/uploads`, form());
  const tried = Object.entries(ways).map(([name, way]) =>
    way().then(
      () => [name],
      () => [],
    ),
  );
  return (await Promise.all(tried)).flat();
}

/** In the page: the oldest way of all. */
function submitForm(url: string): void {
  const form = document.createElement('form');
  Object.assign(form, { action: `${url}/uploads`, method: 'POST', enctype: 'multipart/form-data' });
  const input = document.createElement('input');
  Object.assign(input, { type: 'file', name: 'file' });
  const transfer = new DataTransfer();
  transfer.items.add(new File(['%PDF-1.7\n'], 'a.pdf'));
  input.files = transfer.files;
  form.append(input);
  document.body.append(form);
  form.submit();
}

/** In the page: a request whose answer cannot be read. */
async function postUnread(url: string): Promise<void> {
  await fetch(url, { method: 'POST', mode: 'no-cors' }).catch(() => undefined);
}

/** In the page: what can be read of another origin. Gives the ways that worked. */
async function readFromAfar({ url, id, page }: { url: string; id: string; page: string }): Promise<string[]> {
  const loaded = (name: 'img' | 'script' | 'iframe', source: string) =>
    new Promise<boolean>((resolve) => {
      const element = document.createElement(name);
      element.onload = () => resolve(name !== 'iframe' || (element as HTMLIFrameElement).contentDocument !== null);
      element.onerror = () => resolve(false);
      setTimeout(() => resolve(false), 3_000);
      element.src = source;
      document.body.append(element);
    });
  const streams = () =>
    new Promise<boolean>((resolve) => {
      const socket = new WebSocket(`${url.replace('http', 'ws')}/jobs/stream?after=0`);
      socket.onopen = () => resolve(true);
      socket.onerror = () => resolve(false);
    });
  const reads = (route: string) =>
    fetch(url + route).then(
      () => true,
      () => false,
    );
  const found = {
    list: await reads('/uploads'),
    document: await reads(`/uploads/${id}`),
    picture: await loaded('img', page),
    script: await loaded('script', `${url}/uploads/${id}`),
    frame: await loaded('iframe', `${url}/`),
    events: await streams(),
  };
  return Object.entries(found).flatMap(([name, worked]) => (worked ? [name] : []));
}

/** In the page: what a page may do with its own origin. Gives what worked. */
async function useOwnOrigin(id: string): Promise<string[]> {
  const works = (name: string, answer: Promise<Response>) =>
    answer.then(
      ({ ok }) => (ok ? [name] : []),
      () => [],
    );
  const form = new FormData();
  form.append('file', new Blob(['%PDF-1.7\n']), 'a.pdf');
  const body = JSON.stringify({ type: 'checksum', payload: { upload_id: id } });
  const headers = { 'Content-Type': 'application/json' };
  const events = new Promise<string[]>((resolve) => {
    const socket = new WebSocket(`${location.origin.replace('http', 'ws')}/jobs/stream`);
    socket.onopen = () => resolve(['events']);
    socket.onerror = () => resolve([]);
  });
  const found = [
    works('list', fetch('/uploads')),
    works('original', fetch(`/uploads/${id}/originals/1`)),
    works('upload', fetch('/uploads', { method: 'POST', body: form })),
    works('job', fetch('/jobs', { method: 'POST', body, headers })),
    events,
  ];
  return (await Promise.all(found)).flat();
}
