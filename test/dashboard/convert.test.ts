import { createHash } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import type { Browser, Locator, Page } from 'playwright-core';
import { pdfThatNeverEnds } from '../scenarios/slow-files.ts';
import { describeInBrowser, expectAccessible, openDashboard, startBrowser } from '../support/browser.ts';
import { encryptedPdf, GREEN, makeImage, makePdf, pixelAt, RED } from '../support/files.ts';
import { insertUploads } from '../support/listed-uploads.ts';
import { freePort } from '../support/programs.ts';
import { expectNothingLeft, type Service, startService, until } from '../support/service.ts';

type Named = [name: string, bytes: Buffer];

const KEY = 'a-key-of-the-tests-0123456789abcdef';

describeInBrowser('the convert and upload views', () => {
  let service: Service;
  let browser: Browser;
  beforeAll(async () => {
    // The address stays the same when the API restarts.
    const env = { CAPACITY_CPU: '2', PORT: String(await freePort()) };
    [service, browser] = await Promise.all([startService({ env }), startBrowser()]);
  });
  afterEach(() => expectNothingLeft(service));
  afterAll(async () => {
    await browser?.close();
    await service?.stop();
  });

  test('files are picked, dropped and pasted; each becomes a separate upload', async () => {
    const { page, faults } = await openDashboard(browser, service.url);
    await expectAccessible(page);
    await page.getByLabel('Dpi').fill('72');
    await page.getByLabel('Pages').fill('1,3');
    const pdf = await makePdf([{ color: RED }, { color: GREEN }, { color: RED }]);
    await drop(page, [['three.pdf', pdf]]);
    await page.getByLabel('Dpi').fill('');
    await page.getByLabel('Pages').fill('');
    await pick(page, [
      ['a.png', await makeImage()],
      ['notes.pdf', Buffer.from('Not a PDF at all, whatever its name says.')],
    ]);
    await paste(page, ['pasted.png', await makeImage({ color: GREEN })]);

    for (const name of ['three.pdf', 'a.png', 'pasted.png']) await seeStatus(card(page, name), 'completed');
    expect(await thumbnails(card(page, 'three.pdf'))).toEqual([
      'Page 1 of three.pdf 200 × 300',
      'Page 3 of three.pdf 200 × 300',
    ]);
    expect(await thumbnails(card(page, 'a.png'))).toEqual(['Page 1 of a.png 40 × 30']);
    await seeColour(card(page, 'pasted.png').locator('canvas'), GREEN);
    const refused = card(page, 'notes.pdf');
    await refused.getByText('The content is not a PDF, PNG or JPEG').waitFor();
    await refused.getByText('unsupported_media_type', { exact: true }).waitFor();
    await expectAccessible(page);
    await refused.getByRole('button', { name: 'Dismiss' }).click();
    await refused.waitFor({ state: 'detached' });

    await page.getByRole('link', { name: 'System' }).click();
    await page.getByRole('heading', { level: 1, name: 'System' }).waitFor();
    await page.getByRole('link', { name: 'Convert', exact: true }).click();
    const id = String(await card(page, 'three.pdf').getByRole('link').first().textContent());
    await card(page, 'three.pdf').getByRole('link').first().click();
    await page.getByRole('heading', { level: 1, name: 'three.pdf' }).waitFor();
    expect((await service.get(`/uploads/${id}`)).originals).toMatchObject([{ filename: 'three.pdf' }]);
    expect((await service.get('/uploads')).items).toHaveLength(3);
    expect(faults).toEqual([]);
  });

  test('a page opens, zooms, turns by keyboard and downloads, as do the archive and the original', async () => {
    const pdf = await makePdf([{ color: RED }, { color: GREEN, width: 1_000, height: 2_000 }]);
    const { id } = (await service.upload([['sheets.pdf', pdf]])).body;
    const { originals, pages } = await service.done(id);
    const note = 'pdfium: the page is damaged';
    await service.pool.query('update pages set note = $1 where upload_id = $2 and page = 1', [note, id]);
    const { page, faults } = await openDashboard(browser, service.url, { hash: `#/uploads/${id}` });
    await page.getByText('2 of 2 pages').waitFor();
    await page.getByText(originals[0].sha256).waitFor();
    await page.getByText(originals[0].path).waitFor();
    await seeColour(page.locator('canvas').first(), RED);
    await expectAccessible(page);

    const thumbnail = page.getByRole('button', { name: 'Page 1 of sheets.pdf' });
    await thumbnail.press('Enter');
    const viewer = page.getByRole('dialog', { name: 'Page 1 of sheets.pdf' });
    await viewer.getByText('556 × 834 pixels').waitFor();
    await viewer.getByText(pages[0].path).waitFor();
    await viewer.getByText(`Drawn by${pages[0].engine}`).waitFor();
    await viewer.getByText(note).waitFor();
    await viewer.getByRole('img', { name: 'Page 1 of sheets.pdf' }).waitFor();
    await expectAccessible(page);

    await page.keyboard.press('ArrowRight');
    const next = page.getByRole('dialog', { name: 'Page 2 of sheets.pdf' });
    await next.getByText('fits below 3500').waitFor();
    const image = next.getByRole('img');
    await image.waitFor();
    const fitting = Number(await image.getAttribute('height'));
    expect(fitting).toBeLessThan(900);
    await page.keyboard.press('1');
    await next.getByText('100%', { exact: true }).first().waitFor();
    expect(Number(await image.getAttribute('height'))).toBe(pages[1].height);
    await page.keyboard.press('-');
    await next.getByText('80%', { exact: true }).waitFor();
    await page.keyboard.press('ArrowDown');
    await until(() => next.getByRole('region').evaluate((area) => area.scrollTop > 0));
    await page.keyboard.press('0');
    await until(async () => Number(await image.getAttribute('height')) === fitting);
    const box = await next.getByRole('region').boundingBox();
    await page.mouse.move((box?.x ?? 0) + 200, (box?.y ?? 0) + 200);
    await page.keyboard.down('Control');
    await page.mouse.wheel(0, -100);
    await page.keyboard.up('Control');
    await until(async () => Number(await image.getAttribute('height')) > fitting);

    const kept = await saved(page, () => next.getByRole('link', { name: 'Download page' }).click());
    expect(kept).toEqual({ name: 'sheets-0002.png', bytes: await service.bytes(pages[1].url) });
    await page.keyboard.press('Escape');
    await next.waitFor({ state: 'detached' });
    expect(await page.locator('button:focus').innerText()).toContain('Page 1 of sheets.pdf');

    const archive = await saved(page, () => page.getByRole('link', { name: 'Download all as zip' }).click());
    expect(archive).toEqual({ name: 'sheets.zip', bytes: await service.bytes(`/uploads/${id}/archive.zip`) });
    const original = await saved(page, () => page.getByRole('link', { name: 'Download original' }).click());
    expect(original).toEqual({ name: 'sheets.pdf', bytes: pdf });
    expect(faults).toEqual([]);
  });

  test('an upload of many pages shows the first 200, and more on demand', async () => {
    const [id = ''] = await insertUploads(service.pool, ['many.pdf']);
    await service.pool.query(
      `insert into pages (upload_id, original, page, status, error)
       select $1, 1, n, 'failed', '{"code": "corrupt_file", "message": "it cannot be drawn"}' from generate_series(1, 450) n`,
      [id],
    );
    const { page, faults } = await openDashboard(browser, service.url, { hash: `#/uploads/${id}` });
    const items = page.getByRole('list', { name: 'Pages' }).locator('> li');
    const more = page.getByRole('button', { name: 'Show more pages' });
    for (const count of [200, 400]) {
      await items.nth(count - 1).waitFor();
      expect(await items.count()).toBe(count);
      await more.click();
    }
    await items.nth(449).waitFor();
    await more.waitFor({ state: 'detached' });
    expect(await items.count()).toBe(450);
    expect(faults).toEqual([]);
    expect((await service.delete(`/uploads/${id}`)).status).toBe(204);
  });

  test('pages of a long upload appear while it runs; it is cancelled, retried and deleted', async () => {
    const { page, faults } = await openDashboard(browser, service.url);
    await drop(page, [['long.pdf', pdfThatNeverEnds(3, 3)]]);
    const dropped = card(page, 'long.pdf');
    await dropped.getByRole('button', { name: 'Page 2 of long.pdf' }).waitFor();
    await seeStatus(dropped, 'processing');
    await dropped.getByRole('progressbar', { name: 'Converting long.pdf' }).waitFor();
    await dropped.getByText('2 of 3 pages').waitFor();
    await expectAccessible(page);
    await dropped.getByRole('button', { name: 'Cancel' }).click();
    await seeStatus(dropped, 'cancelled');

    await dropped.getByRole('link').first().click();
    await page.getByRole('heading', { level: 1, name: 'long.pdf' }).waitFor();
    await page.getByRole('button', { name: 'Retry' }).click();
    await seeStatus(page.getByRole('main'), 'processing');
    expect(await page.getByRole('link', { name: 'Download all as zip' }).count()).toBe(0);
    await page.getByRole('button', { name: 'Delete' }).click();
    const dialog = page.getByRole('dialog', { name: 'Delete this upload?' });
    await expectAccessible(page);
    await dialog.getByRole('button', { name: 'Keep it' }).press('Enter');
    await seeStatus(page.getByRole('main'), 'processing');
    await page.getByRole('button', { name: 'Delete' }).click();
    await dialog.getByRole('button', { name: 'Delete it' }).click();
    await page.waitForURL(/#\/uploads$/);
    expect((await service.get('/uploads?search=long.pdf')).items).toEqual([]);
    expect(faults).toEqual([]);
  });

  test('an encrypted PDF is sent again with its password', async () => {
    const { page, faults } = await openDashboard(browser, service.url);
    await drop(page, [['secret.pdf', encryptedPdf('open sesame')]]);
    const secret = card(page, 'secret.pdf');
    await secret.getByText('encrypted_pdf', { exact: true }).waitFor();
    await secret.getByLabel('Password').fill('a guess');
    await secret.getByRole('button', { name: 'Send with this password' }).click();
    await secret.getByText('wrong_password', { exact: true }).waitFor();
    await expectAccessible(page);
    await secret.getByLabel('Password').fill('open sesame');
    await secret.getByLabel('Password').press('Enter');
    await seeStatus(secret, 'completed');
    await secret.getByRole('button', { name: 'Page 1 of secret.pdf' }).waitFor();
    expect(faults).toEqual([]);
  });

  test('a file dropped during an outage is sent afterwards', async () => {
    const { page, faults } = await openDashboard(browser, service.url);
    await page.getByText('Live', { exact: true }).waitFor();
    await service.end(service.api);
    await drop(page, [['patient.png', await makeImage()]]);
    const patient = card(page, 'patient.png');
    await patient.getByText('It is sent again in a moment').waitFor();
    await patient.getByText('unreachable', { exact: true }).waitFor();
    await expectAccessible(page);
    await service.startApi();
    await seeStatus(patient, 'completed');
    expect((await service.get('/uploads?search=patient.png')).items).toHaveLength(1);
    expect(faults.filter((fault) => !fault.includes('WebSocket'))).toEqual([]);
  });
});

describeInBrowser('the convert view of a service that requires keys', () => {
  test('a dropped file waits for the key, and its pages are fetched with the key', async () => {
    const sha256 = createHash('sha256').update(KEY).digest('hex');
    const API_KEYS = JSON.stringify([{ name: 'tests', sha256, scopes: ['uploads:read', 'uploads:write'] }]);
    const [service, browser] = await Promise.all([
      startService({ env: { API_KEYS, CAPACITY_CPU: '2' } }),
      startBrowser(),
    ]);
    try {
      const { page } = await openDashboard(browser, service.url);
      await drop(page, [['kept.pdf', await makePdf([{ color: RED }])]]);
      await page.getByLabel('API key or token').fill(KEY);
      await page.getByRole('button', { name: 'Use it' }).click();
      const kept = card(page, 'kept.pdf');
      await seeStatus(kept, 'completed');
      await seeColour(kept.locator('canvas'), RED);
      await kept.getByRole('link').first().click();
      const { name, bytes } = await saved(page, () =>
        page.getByRole('button', { name: 'Download all as zip' }).click(),
      );
      expect([name, bytes.subarray(0, 2).toString()]).toEqual(['kept.zip', 'PK']);
    } finally {
      await browser.close();
      await service.stop();
    }
  });
});

const card = (page: Page, name: string): Locator => page.getByRole('article', { name });

async function thumbnails(within: Locator): Promise<string[]> {
  const texts = await within.getByRole('button', { name: /^Page \d/ }).all();
  return Promise.all(texts.map(async (button) => (await button.innerText()).replace(/\s+/g, ' ').trim()));
}

async function seeStatus(within: Locator, status: string): Promise<void> {
  await within.getByText(status, { exact: true }).first().waitFor();
}

/** Waits until a thumbnail shows this colour. */
async function seeColour(thumbnail: Locator, color: number[]): Promise<void> {
  await until(async () => {
    const seen = await pixelAt(await thumbnail.screenshot(), 15, 20);
    return color.every((value, index) => Math.abs(value - (seen[index] ?? -99)) < 4);
  });
}

/** The file that a click downloads. */
async function saved(page: Page, click: () => Promise<void>): Promise<{ name: string; bytes: Buffer }> {
  const [download] = await Promise.all([page.waitForEvent('download'), click()]);
  return { name: download.suggestedFilename(), bytes: await readFile(await download.path()) };
}

async function pick(page: Page, files: Named[]): Promise<void> {
  const chooser = page.waitForEvent('filechooser');
  await page.getByRole('button', { name: 'Choose files' }).click();
  await (await chooser).setFiles(files.map(([name, buffer]) => ({ name, mimeType: '', buffer })));
}

/** A test cannot drop or paste in the browser, but it can dispatch the events. */
async function drop(page: Page, files: Named[]): Promise<void> {
  const dataTransfer = await transfer(page, files);
  for (const type of ['dragenter', 'dragover', 'drop']) await page.dispatchEvent('h1', type, { dataTransfer });
}

async function paste(page: Page, file: Named): Promise<void> {
  await (await transfer(page, [file])).evaluate((clipboardData) => {
    document.body.dispatchEvent(new ClipboardEvent('paste', { clipboardData, bubbles: true }));
  });
}

function transfer(page: Page, files: Named[]) {
  return page.evaluateHandle(
    (sent) => {
      const data = new DataTransfer();
      for (const [name, bytes] of sent) {
        data.items.add(new File([Uint8Array.from(atob(bytes), (char) => char.charCodeAt(0))], name));
      }
      return data;
    },
    files.map(([name, bytes]) => [name, bytes.toString('base64')] as const),
  );
}
