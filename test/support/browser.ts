import axe from 'axe-core';
import { type Browser, type BrowserContext, chromium, type Page } from 'playwright-core';
import { findProgram } from './programs.ts';

const executablePath = findProgram('chromium');

const withBrowser = executablePath ? describe : describe.skip;

/** `describe` that is skipped without Chromium, with the reason in its title. */
export function describeInBrowser(name: string, tests: () => void): void {
  withBrowser(executablePath ? name : `${name} (needs chromium)`, tests);
}

/** A page with its faults: script errors, policy violations and requests to other hosts. */
export interface Watched {
  page: Page;
  faults: string[];
}

/** Starts a separate browser with these additional arguments. The caller closes it. */
export function startBrowser(...args: string[]): Promise<Browser> {
  return chromium.launch({
    executablePath: executablePath ?? '',
    // Root has no sandbox; what it loads is our own page alone.
    args: ['--no-sandbox', '--disable-dev-shm-usage', ...args],
  });
}

/** Opens the dashboard in a new tab at a hash such as `#/uploads`. Closing the browser closes the tab. */
export async function openDashboard(
  browser: Browser,
  url: string,
  { hash = '', ...options }: { hash?: string } & Parameters<Browser['newContext']>[0] = {},
): Promise<Watched> {
  const context: BrowserContext = await browser.newContext({ viewport: { width: 1440, height: 900 }, ...options });
  context.setDefaultTimeout(20_000);
  const page = await context.newPage();
  const faults: string[] = [];
  page.on('pageerror', (error) => faults.push(String(error)));
  page.on('console', (message) => {
    // The page shows requests that the service refuses: they are no fault of the page.
    if (message.type() === 'error' && !message.text().startsWith('Failed to load resource'))
      faults.push(message.text());
  });
  page.on('request', (request) => {
    if (!/^(data|blob):/.test(request.url()) && !request.url().startsWith(url)) faults.push(`asks ${request.url()}`);
  });
  await page.goto(`${url}/${hash}`);
  return { page, faults };
}

/** Expects that axe finds no accessibility violation. */
export async function expectAccessible(page: Page): Promise<void> {
  await page.evaluate(axe.source);
  const { violations } = await page.evaluate(() => (globalThis as unknown as { axe: typeof axe }).axe.run());
  expect(
    violations.map(({ id, nodes }) => [id, nodes.map(({ target, failureSummary }) => [target, failureSummary])]),
  ).toEqual([]);
}
