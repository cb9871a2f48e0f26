import { findImages } from '../../../converter/render/find-embedded-images.ts';
import { writePdf } from '../../support/files.ts';
import { withFile } from '../../support/pdf.ts';

const stream = (dictionary: string, data = 'x') =>
  `<< ${dictionary} /Length ${data.length} >>\nstream\n${data}\nendstream`;
const image = (width: number, height: number, more = '/ColorSpace /DeviceRGB /BitsPerComponent 8') =>
  stream(`/Type /XObject /Subtype /Image /Width ${width} /Height ${height} ${more}`);

const findIn = (pdf: Buffer) => withFile(pdf, findImages);

describe('the images of a PDF', () => {
  test('are found by their dictionaries, with the kind of their pixels', async () => {
    const found = await findIn(
      writePdf(
        [
          image(300, 200),
          image(10, 20, '/ColorSpace /DeviceGray /BitsPerComponent 1'),
          image(11, 20, '/ImageMask true'),
          image(12, 20, '/Filter /JPXDecode'),
          image(13, 20, '/ColorSpace /DeviceCMYK /BitsPerComponent 8'),
          '<</Height 5/Width 4/Subtype/Image/Filter[/CCITTFaxDecode]>>\nstream\nx\nendstream',
          stream('/Type /XObject /Subtype /Form /Width 9 /Height 9'),
          image(7, 7, '/Width 12 0 R').replace('/Width 7 ', ''),
        ],
        '',
      ),
    );
    expect(found).toEqual([
      { width: 300, height: 200, kind: 'other' },
      { width: 10, height: 20, kind: 'bilevel' },
      { width: 11, height: 20, kind: 'bilevel' },
      { width: 12, height: 20, kind: 'jpx' },
      { width: 13, height: 20, kind: 'wide' },
      { width: 4, height: 5, kind: 'bilevel' },
    ]);
  });

  test('are each found once, at any place in a large file', async () => {
    const filler = Buffer.alloc(1_048_573, ' ');
    const parts = Array.from({ length: 9 }, (_, index) => [
      filler,
      Buffer.from(`1 0 obj\n${image(index + 1, 1)}\nendobj\n`),
    ]);
    const found = await findIn(Buffer.concat(parts.flat()));
    expect(found.map(({ width }) => width)).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 9]);
  });
});
