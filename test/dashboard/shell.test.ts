import { createHash } from 'node:crypto';
import { gzipSync } from 'node:zlib';
import type { Browser, Page } from 'playwright-core';
import { describeInBrowser, expectAccessible, openDashboard, startBrowser } from '../support/browser.ts';
import { makeImage, RED } from '../support/files.ts';
import { freePort } from '../support/programs.ts';
import { type Service, startService } from '../support/service.ts';

const VIEWS = ['#/', '#/uploads', '#/jobs', '#/dead-letters', '#/system'];
const MAX_BYTES = 200_000;

const connectionOf = (page: Page) => page.getByRole('banner').getByRole('status');

describeInBrowser('the dashboard', () => {
  let service: Service;
  let browser: Browser;
  beforeAll(async () => {
    service = await startService({ env: { PORT: String(await freePort()) } });
    browser = await startBrowser();
  });
  afterAll(async () => {
    await browser?.close();
    await service?.stop();
  });

  test('has less than 200 KB, gzipped, and may load and run its own files only', async () => {
    const answer = await fetch(`${service.url}/`);
    expect([answer.status, answer.headers.get('content-type')]).toEqual([200, 'text/html; charset=utf-8']);
    const policy = answer.headers.get('content-security-policy') ?? '';
    expect(policy).toContain("default-src 'none'");
    expect(policy).not.toMatch(/unsafe|\*|https?:/);

    const { page, faults } = await openDashboard(browser, service.url);
    await connectionOf(page).getByText('Live').waitFor();
    const loaded = await page.evaluate(() => performance.getEntriesByType('resource').map(({ name }) => name));
    const files = [`${service.url}/`, ...loaded.filter((name) => name.includes('/assets/'))];
    expect(files.length).toBeGreaterThan(2);
    const sizes = files.map(async (file) => gzipSync(await (await fetch(file)).bytes()).length);
    const bytes = (await Promise.all(sizes)).reduce((sum, size) => sum + size);
    expect(bytes).toBeLessThan(MAX_BYTES);
    await page.evaluate(() =>
      document.body.append(Object.assign(document.createElement('script'), { text: 'window.ran = 1' })),
    );
    expect(await page.evaluate(() => (window as unknown as { ran?: number }).ran)).toBeUndefined();
    expect(faults.filter((fault) => !fault.includes('Content Security Policy'))).toEqual([]);
  });

  for (const colorScheme of ['light', 'dark'] as const) {
    for (const width of [390, 1440]) {
      test(`is accessible and fits, ${colorScheme}, ${width} pixels wide`, async () => {
        const { page, faults } = await openDashboard(browser, service.url, {
          colorScheme,
          viewport: { width, height: 900 },
        });
        for (const view of VIEWS) {
          await page.goto(`${service.url}/${view}`);
          await page.getByRole('heading', { level: 1 }).waitFor();
          await expectAccessible(page);
          const tooWide = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
          expect([view, tooWide]).toEqual([view, 0]);
        }
        expect(faults).toEqual([]);
      });
    }
  }

  test('can be used by keyboard and keeps the chosen colours', async () => {
    const { page } = await openDashboard(browser, service.url);
    await page.keyboard.press('Tab');
    await page.keyboard.press('Enter');
    expect(await page.evaluate(() => document.activeElement?.id)).toBe('main');
    await page.getByLabel('Colours').selectOption('Dark');
    await page.reload();
    const ground = () => page.evaluate(() => getComputedStyle(document.documentElement).backgroundColor);
    const dark = await ground();
    await page.getByLabel('Colours').selectOption('Light');
    expect(await ground()).not.toBe(dark);
  });

  test('says that the connection is lost, keeps the shown rows, and catches up automatically', async () => {
    const { page } = await openDashboard(browser, service.url, { hash: '#/uploads' });
    await connectionOf(page).getByText('Live').waitFor();
    const png = await makeImage({ width: 9, height: 9, color: RED });
    await service.upload([['before.png', png]]);
    await page.getByText('before.png').waitFor();

    await service.end(service.api);
    await connectionOf(page).getByText('Connection lost').waitFor();
    expect(await page.getByText('before.png').isVisible()).toBe(true);

    await service.startApi();
    await connectionOf(page).getByText('Live').waitFor();
    await service.upload([['after.png', png]]);
    await page.getByText('after.png').waitFor();
  });
});

describeInBrowser('the dashboard of a service that requires keys', () => {
  const KEY = 'a/key+of(the)tests==';
  let service: Service;
  let browser: Browser;
  beforeAll(async () => {
    const sha256 = createHash('sha256').update(KEY).digest('hex');
    service = await startService({
      converters: 0,
      env: { API_KEYS: JSON.stringify([{ name: 'tests', sha256, scopes: ['admin'] }]) },
    });
    browser = await startBrowser();
  });
  afterAll(async () => {
    await browser?.close();
    await service?.stop();
  });

  test('asks for a key, rejects a wrong one, and shows everything with the right one', async () => {
    const { page, faults } = await openDashboard(browser, service.url, { hash: '#/uploads' });
    const dialog = page.getByRole('dialog', { name: 'This service requires a key' });
    await dialog.waitFor();
    await expectAccessible(page);
    await dialog.getByLabel('API key').fill('another');
    await dialog.getByRole('button', { name: 'Use it' }).click();
    await dialog.getByText('requires a valid key').waitFor();

    await dialog.getByLabel('API key').fill(KEY);
    await page.keyboard.press('Enter');
    await dialog.waitFor({ state: 'hidden' });
    await connectionOf(page).getByText('Live').waitFor();
    const png = await makeImage({ width: 9, height: 9, color: RED });
    await service.upload([['mine.png', png]], {}, { Authorization: `Bearer ${KEY}` });
    await page.getByText('mine.png').waitFor();

    // The key is kept for this tab and is in no address.
    await page.reload();
    await page.getByText('mine.png').waitFor();
    expect(page.url()).not.toContain(KEY);
    expect(faults.filter((fault) => !fault.includes('WebSocket'))).toEqual([]);
  });
});
