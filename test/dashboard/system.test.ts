import type { Browser, Locator } from 'playwright-core';
import { describeInBrowser, expectAccessible, openDashboard, startBrowser } from '../support/browser.ts';
import { expectNothingLeft, type Json, type Service, startService, until } from '../support/service.ts';

describeInBrowser('the system page', () => {
  let service: Service;
  let browser: Browser;
  beforeAll(async () => {
    [service, browser] = await Promise.all([
      startService({
        env: { TASKS: './test/scenarios/memory-filling-tasks.ts', CAPACITY_CPU: '1', CAPACITY_MEMORY_MB: '512' },
      }),
      startBrowser(),
    ]);
  });
  afterEach(() => expectNothingLeft(service));
  afterAll(async () => {
    await browser.close();
    await service.stop();
  });

  const open = (options: Json = {}) => openDashboard(browser, service.url, { hash: '#/system', ...options });
  const endless = { type: 'balloon', payload: { megabytes: 100 } };

  /** True if a chart has more than a few pixels of this colour. */
  const shows = (chart: Locator, colour: [number, number, number]) =>
    chart.evaluate((canvas, [red, green, blue]) => {
      const { width, height } = canvas as HTMLCanvasElement;
      const context = (canvas as HTMLCanvasElement).getContext('2d') as CanvasRenderingContext2D;
      const { data } = context.getImageData(0, 0, width, height);
      let count = 0;
      for (let at = 0; at < data.length; at += 4)
        if (data[at] === red && data[at + 1] === green && data[at + 2] === blue) count++;
      return count > 500;
    }, colour);

  test('shows reservations, queues, throughput and abnormal ends', async () => {
    const { page, faults } = await open();
    const queue = page.getByRole('region', { name: 'Queue' });
    const deaths = page.getByRole('region', { name: 'Recent abnormal ends' });
    await page.getByRole('heading', { level: 3, name: /-\d+$/ }).waitFor();
    await queue.getByText('No job waits.').waitFor();
    await deaths.getByText('None in the last day.').waitFor();

    const jobs = await service.submit([endless, endless, endless]);
    const chart = page.getByRole('img', { name: /^Memory of .*: 256 of 512 MB reserved now, from 0 to 256 since/ });
    await chart.waitFor();
    await page.getByRole('row', { name: 'CPU 1 0 1' }).waitFor();
    await queue.getByRole('row', { name: /^1 CPU, 256 MB 2 / }).waitFor();
    await service.submit(endless).then((job) => jobs.push(job));
    await queue.getByRole('row', { name: /^1 CPU, 256 MB 3 / }).waitFor();
    await expectAccessible(page);

    await until(() => shows(chart, [28, 95, 176]));
    await page.getByLabel('Colours').selectOption('Dark');
    await until(() => shows(chart, [132, 184, 245]));
    await expectAccessible(page);

    for (const { job_id } of jobs) await service.patch(`/jobs/${job_id}/cancel`);
    await queue.getByText('No job waits.').waitFor();
    const { job_id } = await service.submit({ type: 'leak_native', retry_config: { max_attempts: 1 } });
    const death = deaths.getByRole('listitem');
    await death.getByText('It needs more memory than the largest converter has.', { exact: false }).waitFor();
    await death.getByText(/\d of 256 MB reserved \(\d+%\)/).waitFor();
    await page.getByRole('img', { name: /: 0 completed and 1 failed in all$/ }).waitFor();
    await expectAccessible(page);
    await death.getByRole('link', { name: /^leak_native/ }).click();
    await page.getByRole('heading', { level: 1, name: `Job ${job_id}` }).waitFor();
    expect(faults).toEqual([]);
  });

  test('lists schedules and deletes one after a confirmation', async () => {
    const job = { type: 'balloon', payload: { megabytes: 1 } };
    for (const name of ['nightly', 'weekly']) {
      await service.put(`/schedules/${name}`, { cron: '0 3 * * *', timezone: 'Europe/Berlin', job });
    }
    const { page, faults } = await open({ viewport: { width: 390, height: 844 } });
    const schedules = page.getByRole('region', { name: 'Schedules' });
    await schedules.getByRole('row', { name: /^nightly 0 3 \* \* \* Europe\/Berlin balloon never in \d+/ }).waitFor();
    const ask = (name: string) => schedules.getByRole('button', { name: `Delete ${name}` }).click();
    const dialog = page.getByRole('dialog', { name: 'Delete the schedule nightly?' });

    await ask('nightly');
    await expectAccessible(page);
    await dialog.getByRole('button', { name: 'Keep it' }).click();
    await ask('nightly');
    await page.keyboard.press('Escape');
    expect((await service.get('/schedules')).items).toHaveLength(2);
    await ask('nightly');
    await dialog.getByRole('button', { name: 'Delete it' }).click();
    await schedules.getByRole('row', { name: /^nightly/ }).waitFor({ state: 'detached' });
    expect((await service.get('/schedules')).items).toMatchObject([{ name: 'weekly' }]);

    await ask('weekly');
    await page.getByRole('button', { name: 'Delete it' }).click();
    await schedules.getByText('None yet').waitFor();
    expect(await page.evaluate(() => document.documentElement.scrollWidth)).toBe(390);
    expect(faults).toEqual([]);
  });

  test('marks a late heartbeat', async () => {
    const { page, faults } = await open();
    await page.getByText(/^Heartbeat /).waitFor();
    const [converter] = service.converters as [Service['converters'][number]];
    await service.end(converter, 'SIGKILL');
    await service.forget(converter);
    await page.getByRole('alert').getByText('Its heartbeat is late: the last one was 1 h 0 min ago').waitFor();
    expect(faults).toEqual([]);
  });
});
