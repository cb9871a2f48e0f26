import { once } from 'node:events';
import { createServer } from 'node:http';
import express from 'express';
import { documentationRoutes } from '../../../api/operations/documentation.ts';

const server = createServer(express().use(documentationRoutes()));
let url: string;
beforeAll(async () => {
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  url = `http://127.0.0.1:${typeof address === 'object' ? address?.port : address}`;
});
afterAll(() => new Promise((resolve) => server.close(resolve)));

const TYPES = new Map([
  ['js', 'text/javascript'],
  ['css', 'text/css'],
  ['png', 'image/png'],
]);

test('the page at /docs links only to files that this service serves', async () => {
  const page = await (await fetch(`${url}/docs`)).text();
  const links = [...page.matchAll(/(?:src|href)="([^"]*)"/g)].map(([, link = '']) => link);
  expect(links).toContain('/docs/swagger-ui-bundle.js');
  for (const link of links) {
    expect(link).toMatch(/^\/[^/]/);
    const file = await fetch(url + link);
    const type = TYPES.get(link.split('.').at(-1) ?? '');
    expect([link, file.status, file.headers.get('content-type')?.split(';')[0]]).toEqual([link, 200, type]);
    await file.arrayBuffer();
  }
});

test('the page at /docs may load only from this service, and has no inline script', async () => {
  const response = await fetch(`${url}/docs`);
  const policy = response.headers.get('content-security-policy') ?? '';
  expect(policy).toMatch(/^default-src 'none'/);
  expect(policy).not.toMatch(/https?:|unsafe|\*/);
  expect(await response.text()).not.toMatch(/https?:\/\/|<style|style=|<script(?! src=)| on\w+=/);
  const initializer = await (await fetch(`${url}/docs/initializer.js`)).text();
  expect(initializer).toContain("url: '/openapi.json'");
  expect(initializer).toContain('validatorUrl: null');
});
