import { encodePng } from '../../../../../converter/render/encode-png.ts';
import { openWithPdfium } from '../../../../../converter/render/engines/pdfium/document.ts';
import { startPdfium } from '../../../../../converter/render/engines/pdfium/instance.ts';
import { type OpenFile, openFile } from '../../../../../converter/render/engines/pdfium/open-file.ts';
import { onePagePdf, withFile } from '../../../../support/pdf.ts';

const SECRET = 'the number of the account is 4711';
const MARK = 0xab;

/** A page with text in a font that is not embedded, so that our own fonts are read, and in colour. */
function pdfOf(text: string, color: string): Buffer {
  const font = '/Font << /F1 << /Type /Font /Subtype /Type1 /BaseFont /Helvetica >> >>';
  return onePagePdf({
    content: `${color} rg 0 0 200 300 re f 0 g BT /F1 11 Tf 10 100 Td (${text}) Tj ET`,
    resources: font,
  });
}

/** The PNG of the first page, packed with the memory of the page before it. */
async function convert(file: string): Promise<Buffer> {
  const document = await openWithPdfium(file, null);
  const png = Buffer.concat(await encodePng(await document.render(1, 2)));
  await document.close();
  return png;
}

const holds = ({ pdfium }: OpenFile) => Buffer.from(pdfium.memory()).includes(SECRET);

test('a document finds no data of the one before it, and draws the same as alone', async () => {
  await withFile(pdfOf('an invoice', '1 0.9 0.8'), (innocent) =>
    withFile(pdfOf(SECRET, '0.2 0.3 0.4'), async (secret) => {
      const alone = await convert(innocent);
      const first = await openFile(secret, null);
      await convert(secret);
      const second = await openFile(innocent, null);
      expect([holds(first), holds(second)]).toEqual([true, false]);
      expect((await convert(innocent)).equals(alone)).toBe(true);
    }),
  );
});

test('an instance that a document controls does not change other instances', async () => {
  await withFile(pdfOf('an invoice', '1 0.9 0.8'), async (innocent) => {
    const alone = await convert(innocent);
    const taken = await startPdfium();
    taken.memory().fill(MARK);
    const fresh = await startPdfium();
    expect(fresh.memory().every((byte) => byte === MARK)).toBe(false);
    expect(fresh.memory().buffer).not.toBe(taken.memory().buffer);
    expect((await convert(innocent)).equals(alone)).toBe(true);
  });
});
