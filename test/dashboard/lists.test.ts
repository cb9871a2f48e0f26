import type { Browser, Locator, Page } from 'playwright-core';
import { describeInBrowser, expectAccessible, openDashboard, startBrowser } from '../support/browser.ts';
import { makeImage, RED } from '../support/files.ts';
import { insertUploads } from '../support/listed-uploads.ts';
import { type Json, type Service, startService, until } from '../support/service.ts';

const MANY = 100_000;
/** The test scrolls to this row: 25 pages of the API. */
const FAR = 5_000;
/** The number of rows in the first answer. */
const BURST = 2_000;
/** Maximum of rendered rows for a list of any length. */
const MAX_ROWS = 60;

/** A job that fails at once and succeeds when it is retried. */
const FAILS = { type: 'fail', payload: { times: 1 }, retry_config: { max_attempts: 1 } };

describeInBrowser('the lists of the dashboard', () => {
  let service: Service;
  let browser: Browser;
  beforeAll(async () => {
    service = await startService({
      env: { TASKS: './examples/tasks/index.ts', CAPACITY_CPU: '16', CAPACITY_MEMORY_MB: '8192' },
    });
    await insertUploads(
      service.pool,
      Array.from({ length: MANY }, (_, index) => `report ${index + 1}.pdf`),
    );
    await service.pool.query('vacuum analyze uploads, originals');
    browser = await startBrowser();
  });
  afterAll(async () => {
    await browser?.close();
    await service?.stop();
  });

  const open = (hash: string) => openDashboard(browser, service.url, { hash });
  const regionOf = (page: Page, name: string) => page.getByRole('region', { name });
  const rowOf = (page: Page, text: string | RegExp) => page.getByRole('row').filter({ hasText: text });
  const query = (page: Page) => Object.fromEntries(new URL(page.url().replace('#', '')).searchParams);

  /** Scrolls down until so many rows are loaded; returns the maximum of rendered rows. */
  function scrollTo(region: Locator, rows: number): Promise<number> {
    return region.evaluate(async (element, wanted) => {
      const [body] = [...element.querySelectorAll('[role="rowgroup"]')].slice(-1) as [HTMLElement];
      const height = body.querySelector<HTMLElement>('[role="row"]')?.offsetHeight ?? 0;
      let most = 0;
      while (body.clientHeight < height * wanted) {
        element.scrollTop = element.scrollHeight;
        await new Promise(requestAnimationFrame);
        most = Math.max(most, body.childElementCount);
      }
      return most;
    }, rows);
  }

  /** The first visible file and its distance from the top. */
  const firstInSight = (region: Locator) =>
    region.evaluate((element) => {
      const top = element.getBoundingClientRect().top + 40;
      const links = [...element.querySelectorAll('a')];
      const first = links.find((link) => link.getBoundingClientRect().top >= top);
      return [first?.textContent, Math.round((first?.getBoundingClientRect().top ?? 0) - top)];
    });

  test('a list of 100,000 uploads renders few rows and keeps the visible ones in place', async () => {
    const { page, faults } = await open('#/uploads');
    const region = regionOf(page, 'Uploads');
    await page.getByRole('link', { name: `report ${MANY}.pdf` }).waitFor();
    await page.getByText('200 loaded so far').waitFor();
    expect(await scrollTo(region, FAR)).toBeLessThan(MAX_ROWS);
    await page.getByText(/[5-9],[02468]00 loaded so far/).waitFor();
    // Away from the end, so that no more rows are loaded.
    await region.evaluate((element) => element.scrollTo(0, element.scrollHeight / 2));
    await rowOf(page, /report 97[345]\d\d/)
      .first()
      .waitFor();
    const before = await firstInSight(region);

    const [, , newest = ''] = await insertUploads(service.pool, ['new 1.pdf', 'new 2.pdf', 'new 3.pdf']);
    await page.getByText(/03 loaded so far/).waitFor();
    expect(await firstInSight(region)).toEqual(before);

    // A row that is in sight far down changes as well, and a deleted row disappears.
    const number = Number(String(before[0]).replace(/\D/g, '')) - 3;
    const [changed, deleted] = [rowOf(page, `report ${number}.pdf`), rowOf(page, `report ${number - 1}.pdf`)];
    const idOf = async (row: Locator) => (await row.getByRole('link').getAttribute('href'))?.split('/').at(-1);
    await deleted.waitFor();
    const deletedId = await idOf(deleted);
    await service.pool.query(`update uploads set status = 'failed', pages_done = 0 where id = $1`, [
      await idOf(changed),
    ]);
    await changed.getByText('failed').waitFor();
    expect((await service.send('DELETE', `/uploads/${deletedId}`)).status).toBe(204);
    await deleted.waitFor({ state: 'detached' });

    await region.evaluate((element) => element.scrollTo(0, 0));
    await rowOf(page, 'new 3.pdf').waitFor();
    expect(await rowOf(page, 'new 3.pdf').getAttribute('aria-rowindex')).toBe('2');
    expect(await rowOf(page, newest).count()).toBe(1);
    await expectAccessible(page);

    // Too many new rows to insert above the visible ones: the user decides.
    await region.evaluate((element) => element.scrollTo(0, element.scrollHeight / 2));
    await rowOf(page, /report 97[345]\d\d/)
      .first()
      .waitFor();
    const seen = await firstInSight(region);
    let requests = 0;
    page.on('request', (request) => {
      if (new URL(request.url()).pathname.startsWith('/uploads')) requests++;
    });
    await insertUploads(
      service.pool,
      Array.from({ length: BURST }, (_, index) => `burst ${index + 1}.pdf`),
    );
    const newer = page.getByRole('button', { name: 'Show the newest' });
    await newer.waitFor();
    expect(await firstInSight(region)).toEqual(seen);
    expect(requests).toBeLessThan(10);
    await newer.click();
    await rowOf(page, `burst ${BURST}.pdf`).waitFor();
    expect(await rowOf(page, `burst ${BURST}.pdf`).getAttribute('aria-rowindex')).toBe('2');
    expect(faults).toEqual([]);
  });

  test('uploads are filtered and searched by the address, and link to their pages', async () => {
    const { page, faults } = await open('#/uploads');
    const box = page.getByLabel('Id or file name');
    await box.fill('re');
    await page.getByText('At least three letters or digits in a row').waitFor();
    await box.fill('REPORT 4321.');
    await page.getByText('1 in all').waitFor();
    const link = page.getByRole('link', { name: 'report 4321.pdf' });
    expect(query(page)).toEqual({ search: 'REPORT 4321.' });
    await page.getByLabel('Status').selectOption('cancelled');
    await page.getByText('Nothing matches.').waitFor();
    await expectAccessible(page);

    const other = await open(page.url().slice(service.url.length + 1));
    await other.page.getByText('Nothing matches.').waitFor();
    expect(await other.page.getByLabel('Id or file name').inputValue()).toBe('REPORT 4321.');
    await other.page.getByLabel('Status').selectOption('completed');
    await other.page.getByText('1 in all').waitFor();

    await page.getByLabel('Status').selectOption('Any');
    await link.click();
    const [id] = (await service.get('/uploads?search=report%204321.')).items.map((upload: Json) => upload.id);
    await page.waitForURL(`**/#/uploads/${id}`);
    expect([...faults, ...other.faults]).toEqual([]);
  });

  test('a new upload appears, and its row shows its end', async () => {
    const { page } = await open('#/uploads');
    await page
      .getByRole('link', { name: /^(report|burst)/ })
      .first()
      .waitFor();
    const png = await makeImage({ width: 9, height: 9, color: RED });
    const { body } = await service.upload([
      ['new one.png', png],
      ['and more.png', png],
    ]);
    const row = rowOf(page, 'new one.png, and more.png');
    await row.getByText('completed').waitFor();
    await row.getByText('2 pages').waitFor();
    await service.delete(`/uploads/${body.id}`);
    await row.waitFor({ state: 'detached' });
  });

  test('the keyboard reaches filters, list and rows, and the focus survives scrolling', async () => {
    const { page } = await open('#/uploads');
    const region = regionOf(page, 'Uploads');
    await page.getByText('200 loaded so far').waitFor();
    await page.getByLabel('Id or file name').focus();
    await page.keyboard.press('Tab');
    expect(await region.evaluate((element) => element === document.activeElement)).toBe(true);
    await page.keyboard.press('Tab');
    const focus = () => page.evaluate(() => document.activeElement?.textContent);
    const name = await focus();
    expect(name).toMatch(/^(burst|report) \d+\.pdf$/);
    // The row is then invisible, but still rendered.
    for (let presses = 0; presses < 4; presses++) await page.keyboard.press('PageDown');
    await until(() => region.evaluate((element) => element.scrollTop > 1_000));
    expect(await focus()).toBe(name);
    await page.keyboard.press('Enter');
    await page.waitForURL(/#\/uploads\/[0-9a-f-]{36}$/);
  });

  test('jobs are filtered by each property and change as they run', async () => {
    const { body: upload } = await service.upload([['a.png', await makeImage({ width: 9, height: 9, color: RED })]]);
    await service.done(upload.id);
    await service.submit([
      { job_id: 'a-low-one', type: 'email', priority: 'low' },
      { job_id: 'another', type: 'email' },
    ]);
    await service.jobDone('another');
    const { page, faults } = await open('#/jobs');
    await rowOf(page, 'a-low-one').waitFor();
    await expectAccessible(page);

    await page.getByLabel('Type').selectOption('email');
    await rowOf(page, 'convert').waitFor({ state: 'detached' });
    await page.getByLabel('Priority').selectOption('low');
    await rowOf(page, 'another').waitFor({ state: 'detached' });
    await page.getByLabel('Status').selectOption('completed');
    await rowOf(page, 'a-low-one').getByText('completed').waitFor();
    expect(query(page)).toEqual({ status: 'completed', type: 'email', priority: 'low' });
    await page.getByLabel('Created after').fill('2099-01-01T00:00');
    await page.getByText('Nothing matches.').waitFor();

    await page.goto(`${service.url}/#/jobs?upload_id=${upload.id}`);
    await rowOf(page, 'convert').getByRole('link', { name: upload.id }).waitFor();
    await page.getByLabel('Upload').fill('nonsense');
    await page.keyboard.press('Enter');
    await page.getByRole('alert').getByText('invalid_request').waitFor();

    await page.goto(`${service.url}/#/jobs?status=running`);
    await page.getByText('Nothing matches.').waitFor();
    const { job_id } = await service.submit({ type: 'sleep', payload: { input: 3600 } });
    await rowOf(page, job_id).getByText('1 CPU, 256 MB').waitFor();
    await service.patch(`/jobs/${job_id}/cancel`);
    await rowOf(page, job_id).waitFor({ state: 'detached' });
    expect(faults).toEqual([]);
  });

  test('dead letters are retried one by one and by filter', async () => {
    const ids = ['dead-1', 'dead-2', 'dead-3'];
    await service.submit(ids.map((job_id) => ({ ...FAILS, job_id })));
    await Promise.all(ids.map((id) => service.jobDone(id)));
    const { page, faults } = await open('#/dead-letters');
    await rowOf(page, 'dead-1').getByText('attempt 1 of this job fails, as asked').waitFor();
    await expectAccessible(page);

    await page.getByRole('button', { name: 'Retry dead-1' }).press('Enter');
    await page.getByText('dead-1 runs again.').waitFor();
    await rowOf(page, 'dead-1').waitFor({ state: 'detached' });
    expect((await service.jobDone('dead-1')).status).toBe('completed');
    expect(await regionOf(page, 'Dead letters').evaluate((element) => element === document.activeElement)).toBe(true);

    await page.getByLabel('Type').selectOption('fail');
    await rowOf(page, 'dead-3').waitFor();
    await page.getByRole('button', { name: 'Retry all that match' }).click();
    const dialog = page.getByRole('dialog', { name: 'Retry all that match?' });
    await dialog.getByText('2 jobs of type fail').waitFor();
    await expectAccessible(page);
    await dialog.getByRole('button', { name: 'Not now' }).click();
    expect(await rowOf(page, 'dead-3').isVisible()).toBe(true);
    await page.getByRole('button', { name: 'Retry all that match' }).click();
    await dialog.getByRole('button', { name: 'Retry all' }).click();
    await page.getByText('Retried 2 jobs.').waitFor();
    await page.getByText('Nothing matches.').waitFor();
    for (const id of ids) expect((await service.jobDone(id)).status).toBe('completed');
    expect(faults).toEqual([]);
  });
});
