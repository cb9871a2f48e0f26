import type { Browser, Page } from 'playwright-core';
import { describeInBrowser, expectAccessible, openDashboard, startBrowser } from '../support/browser.ts';
import { makePdf, RED } from '../support/files.ts';
import { startReceiver } from '../support/receiver.ts';
import { expectNothingLeft, type Json, type Service, startService, until } from '../support/service.ts';

describeInBrowser('the job view', () => {
  let service: Service;
  let browser: Browser;
  let receiver: Awaited<ReturnType<typeof startReceiver>>;
  beforeAll(async () => {
    receiver = await startReceiver();
    [service, browser] = await Promise.all([
      startService({
        env: { TASKS: './test/dashboard/talkative-tasks.ts', CAPACITY_CPU: '2', CAPACITY_MEMORY_MB: '1024' },
      }),
      startBrowser(),
    ]);
  });
  afterEach(() => expectNothingLeft(service));
  afterAll(async () => {
    await browser.close();
    await Promise.all([service.stop(), receiver.stop()]);
  });

  const open = (id: string, options: Json = {}) =>
    openDashboard(browser, service.url, { hash: `#/jobs/${id}`, ...options });
  const heading = (page: Page, id: string) => page.getByRole('heading', { level: 1, name: `Job ${id}` });
  const ties = (page: Page) => page.getByRole('region', { name: 'Related jobs' });
  const tied = (page: Page, name: string | RegExp) => ties(page).getByRole('link', { name });
  const button = (page: Page, name: string) => page.getByRole('button', { name });

  test('draws related jobs as links and follows their changes', async () => {
    await service.submit([
      { job_id: 'gate', type: 'sleep', payload: { input: 3600 } },
      { job_id: 'left', type: 'fibonacci', payload: { input: 10 }, depends_on: ['gate'] },
      { job_id: 'right', type: 'fibonacci', payload: { input: 20 }, depends_on: ['gate'] },
      { job_id: 'last', type: 'reverse', payload: { input: 'ab' }, depends_on: ['left', 'right'] },
    ]);
    const { page, faults } = await open('last');
    for (const name of ['fibonacci left blocked', 'fibonacci right blocked', 'reverse last blocked this job']) {
      await tied(page, name).waitFor();
    }
    await expectAccessible(page);
    await tied(page, 'sleep gate running').click();
    await heading(page, 'gate').waitFor();
    expect(page.url()).toMatch(/#\/jobs\/gate$/);

    await button(page, 'Cancel').click();
    await tied(page, 'reverse last failed').waitFor();
    await button(page, 'Cancel').waitFor({ state: 'detached' });

    // The keyboard opens a dependant, which cannot run first.
    await tied(page, 'fibonacci left failed').focus();
    await page.keyboard.press('Enter');
    await heading(page, 'left').waitFor();
    await page.getByText('A job that it depends on failed.').waitFor();
    await button(page, 'Retry').click();
    const refusal = page.getByRole('alert').filter({ hasText: 'its prerequisite gate is cancelled: retry that' });
    await refusal.getByText('conflict', { exact: true }).waitFor();

    await tied(page, 'sleep gate cancelled').click();
    await button(page, 'Retry').click();
    await tied(page, 'reverse last blocked').waitFor();
    await tied(page, 'sleep gate running this job').waitFor();
    await button(page, 'Cancel').click();
    await tied(page, 'sleep gate cancelled this job').waitFor();
    expect(faults).toEqual([]);
  });

  test('draws the children of a conversion and lists them', async () => {
    const pdf = await makePdf(Array.from({ length: 30 }, () => ({ color: RED })));
    const { body } = await service.upload([['many.pdf', pdf]], { dpi: '36' });
    await service.done(body.id);
    const { items } = await service.get(`/jobs?upload_id=${body.id}`);
    const whole = items.find(({ type }: Json) => type === 'convert');
    const parts = items.length - 1;
    expect(parts).toBeGreaterThan(1);

    const { page, faults } = await open(whole.job_id, { viewport: { width: 390, height: 844 }, colorScheme: 'dark' });
    await tied(page, /^convert …\w{8} completed this job$/).waitFor();
    expect(await tied(page, /^convert_range …\w{8} completed$/).count()).toBe(parts);
    await ties(page).getByText('Show as a list').click();
    expect(await ties(page).getByRole('listitem').filter({ hasText: 'part of convert …' }).count()).toBe(parts);
    await page.getByRole('link', { name: body.id }).waitFor();
    await page.getByText(/\d of 256 MB reserved \(\d+%\)/).waitFor();
    await expectAccessible(page);
    expect(await page.evaluate(() => document.documentElement.scrollWidth)).toBe(390);

    await tied(page, /^convert_range/)
      .first()
      .click();
    await page.getByText('cancelled and retried as a whole').waitFor();
    expect(await button(page, 'Retry').count()).toBe(0);
    expect(faults).toEqual([]);
  });

  test('shows new log lines and keeps the scroll position of a reader', async () => {
    const { job_id } = await service.submit({ type: 'talk' });
    const { page, faults } = await open(job_id);
    const log = page.getByRole('log', { name: 'Log' });
    const lines = () => log.getByText(/^line \d+$/).count();
    const place = () =>
      log.evaluate(({ scrollTop, scrollHeight, clientHeight }) => ({
        top: scrollTop,
        left: scrollHeight - clientHeight - scrollTop,
      }));
    // More lines than fit.
    await until(async () => (await lines()) > 40);
    expect((await place()).left).toBeLessThan(2);

    await log.focus();
    await page.keyboard.press('Home');
    await button(page, 'Go to the end').waitFor();
    await until(async () => (await place()).top === 0);
    const before = await lines();
    await until(async () => (await lines()) > before + 25);
    expect((await place()).top).toBe(0);

    await button(page, 'Go to the end').click();
    await until(async () => (await place()).left < 2);
    const then = await lines();
    await until(async () => (await lines()) > then + 25);
    expect((await place()).left).toBeLessThan(2);
    expect(await button(page, 'Go to the end').count()).toBe(0);

    await button(page, 'Cancel').click();
    await log.getByText('cancelled', { exact: true }).waitFor();
    // Every line once, in order.
    const texts = await log.getByText(/^line \d+$/).allTextContents();
    expect(texts).toEqual(texts.map((_, index) => `line ${index + 1}`));
    await expectAccessible(page);
    expect(faults).toEqual([]);
  });

  test('retries a failed job and shows each attempt and the webhook', async () => {
    const { job_id } = await service.submit({
      type: 'fail',
      payload: { times: 1 },
      retry_config: { max_attempts: 1 },
      notify_url: receiver.url('/ended'),
    });
    await service.jobDone(job_id);
    const { page, faults } = await open(job_id);
    const attempts = page.getByRole('region', { name: 'Attempts' }).getByRole('listitem');
    await attempts
      .filter({ hasText: 'Attempt 1' })
      .getByText('attempt 1 of this job fails, as asked', { exact: false })
      .waitFor();
    const told = page.getByRole('region', { name: 'Notification' }).getByRole('listitem');
    await told.filter({ hasText: 'job.failed' }).getByText('delivered').waitFor();

    await button(page, 'Retry').click();
    await attempts.filter({ hasText: 'Attempt 2' }).getByText('completed').waitFor();
    await told.filter({ hasText: 'job.completed' }).getByText('answer 204').waitFor();
    await page.getByText('"attempts": 2').waitFor();
    expect(await button(page, 'Retry').count()).toBe(0);
    await expectAccessible(page);
    expect(faults).toEqual([]);
  });

  test('says that a job does not exist', async () => {
    const { page, faults } = await open('nobody');
    await page.getByRole('alert').getByText('not_found').waitFor();
    await expectAccessible(page);
    expect(faults).toEqual([]);
  });
});
