import { convertPayload } from '../../../conversion/tasks/convert.ts';
import { convertRange } from '../../../conversion/tasks/convert-range.ts';
import { makeImage, makePdf, RED } from '../../support/files.ts';
import { expectNothingLeft, type Json, type Service, startService } from '../../support/service.ts';

let service: Service;
beforeAll(async () => {
  service = await startService();
});
afterAll(async () => {
  await expectNothingLeft(service);
  await service.stop();
});

async function convert(files: [string, Uint8Array][], fields: Record<string, string>): Promise<Json> {
  const { status, body } = await service.upload(files, fields);
  expect(status).toBe(200);
  return service.done(body.id);
}

const pdfOf = (pages: number) => makePdf(Array.from({ length: pages }, () => ({ color: RED })));
const enginesOf = ({ pages }: Json) => [...new Set(pages.map(({ engine }: Json) => engine))];

test.each(['pdfium', 'pdf-to-img'])(
  '%s draws the PDF pages of an upload that requests it, and no images',
  async (engine) => {
    const done = await convert(
      [
        ['a.pdf', await pdfOf(1)],
        ['b.png', await makeImage()],
      ],
      { engine, dpi: '72' },
    );
    expect(done.pages).toMatchObject([
      { status: 'completed', engine, note: null },
      { status: 'completed', engine: 'sharp', note: null },
    ]);
    const { rows } = await service.pool.query('select engine from uploads where id = $1', [done.id]);
    expect(rows).toEqual([{ engine }]);
  },
);

test('the requested engine draws every range of a split PDF', async () => {
  const done = await convert([['a.pdf', await pdfOf(30)]], { engine: 'pdfium', dpi: '36' });
  expect([done.pages.length, enginesOf(done)]).toEqual([30, ['pdfium']]);
  const { items } = await service.get(`/jobs?upload_id=${done.id}`);
  const ranges = items.filter(({ type }: Json) => type === 'convert_range');
  expect(ranges.length).toBeGreaterThan(1);
  expect(items.map(({ payload }: Json) => payload.engine)).toEqual(items.map(() => 'pdfium'));
});

test('an upload without an engine stores none, and the converter chooses', async () => {
  const done = await convert([['a.pdf', await pdfOf(1)]], { dpi: '72' });
  const { rows } = await service.pool.query(
    `select engine, payload->'engine' as "inPayload" from uploads join jobs on upload_id = uploads.id where uploads.id = $1`,
    [done.id],
  );
  expect([done.status, rows]).toEqual(['completed', [{ engine: null, inPayload: null }]]);
});

test('the payload of a job of an older version, without an engine, is valid', () => {
  const old = { upload_id: 'a', original: 1, path: 'b', media_type: 'application/pdf', dpi: 200 };
  expect(convertPayload.parse({ ...old, page_selection: null }).engine).toBeNull();
  expect(convertRange.payload.parse({ ...old, pages: [[1, 2]] })).toMatchObject({ engine: null });
});

test('the list of pages contains the note of a page', async () => {
  const { id } = await convert([['a.pdf', await pdfOf(1)]], { dpi: '72' });
  await service.pool.query(`update pages set note = 'pdfium: the page is damaged' where upload_id = $1`, [id]);
  expect((await service.get(`/uploads/${id}/pages`)).items).toMatchObject([{ note: 'pdfium: the page is damaged' }]);
});
