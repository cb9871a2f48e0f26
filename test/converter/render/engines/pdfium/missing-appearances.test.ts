import {
  type Area,
  colorAt,
  drawPdf,
  inkOf,
  isSame,
  onePagePdf,
  pixelsOf,
  streamObject,
} from '../../../../support/pdf.ts';

// Annotations and form fields for which the document has no appearance stream.

/** A page of 200x300 points with these annotations and nothing else, some of them fields of a form. */
function annotated(annotations: string[], { form = '', page = '' } = {}): Buffer {
  const references = annotations.map((_, index) => `${5 + index} 0 R`).join(' ');
  return onePagePdf({
    page: `/Annots [${references}] ${page}`,
    catalog: form && `/AcroForm << /Fields [${references}] ${form} >>`,
    objects: annotations.map((annotation) => `<< /Type /Annot ${annotation} >>`),
  });
}

const HELVETICA = '<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>';
const DINGBATS = '<< /Type /Font /Subtype /Type1 /BaseFont /ZapfDingbats >>';
const FONTS = `/DA (/Helv 12 Tf 0 g) /DR << /Font << /Helv ${HELVETICA} /ZaDb ${DINGBATS} >> >>`;

function utf16(text: string): string {
  return `<feff${Buffer.from(text, 'utf16le').swap16().toString('hex')}>`;
}

function widget(entries: string, rect = '10 200 190 230'): string {
  return `/Subtype /Widget /T (field) /F 4 /Rect [${rect}] ${entries}`;
}

/** The area of the rectangle `10 200 190 230` of a page of 200x300 points. */
const FIELD: Area = { left: 10, top: 70, right: 190, bottom: 100 };
const ALL: Area = { left: 0, top: 0, right: 200, bottom: 300 };

/** The pixels of a page with one form field. */
async function fieldPixels(entries: string, form = ''): Promise<Uint32Array> {
  return pixelsOf(await drawPdf(annotated([widget(entries)], { form: `${FONTS} ${form}` })), FIELD);
}

function inkIn(pixels: Uint32Array): number {
  return pixels.filter((pixel) => pixel !== 0xffffffff).length;
}

describe('text fields', () => {
  const text = '/FT /Tx /DA (/Helv 12 Tf 0 g)';

  test.each([
    ['in Latin letters', '(Some value)', '(Other text)'],
    ['in Czech letters', utf16('Příliš žluťoučký'), utf16('Příliš žluťoučky')],
    ['in Cyrillic letters', utf16('Привет'), utf16('Превет')],
    ['in Greek letters', utf16('Ελληνικά'), utf16('Ελληνικα')],
    ['in Hebrew letters', utf16('שלום'), utf16('שלוי')],
    ['in Arabic letters', utf16('مرحبا'), utf16('مرحبب')],
    ['in Japanese letters', utf16('日本語かな'), utf16('日本語カナ')],
    ['in Chinese letters', utf16('简体中文'), utf16('简体中国')],
    ['in Korean letters', utf16('한국어'), utf16('한국인')],
  ])('show their values %s', async (_, value, other) => {
    const [shown, shownOther] = [await fieldPixels(`${text} /V ${value}`), await fieldPixels(`${text} /V ${other}`)];
    expect(inkIn(shown)).toBeGreaterThan(100);
    expect(isSame(shown, shownOther)).toBe(false);
    expect(isSame(await fieldPixels(`${text} /V ${value}`, '/NeedAppearances true'), shown)).toBe(true);
  });

  test('show different letters of one script, without empty boxes', async () => {
    const pixels = new Set<string>();
    for (const letter of 'žščЖяΩθ語简한') {
      pixels.add((await fieldPixels(`${text} /V ${utf16(letter)}`)).join());
    }
    expect(pixels.size).toBe(10);
  });

  test.each([
    ['a default style of the form alone', '/FT /Tx /V (Some value)'],
    ['a font that the form lacks', '/FT /Tx /V (Some value) /DA (/Absent 12 Tf 0 g)'],
    ['a size that depends on the field', '/FT /Tx /V (Some value) /DA (/Helv 0 Tf 0 g)'],
  ])('show their values with %s', async (_, entries) => {
    expect(inkIn(await fieldPixels(entries))).toBeGreaterThan(100);
  });

  test('show one letter in each cell of a comb', async () => {
    const page = await drawPdf(annotated([widget(`${text} /Ff 16777216 /MaxLen 6 /V (ABC)`)], { form: FONTS }));
    const cells = [0, 1, 2, 3].map((cell) =>
      inkOf(page, { ...FIELD, left: 10 + cell * 30, right: 10 + (cell + 1) * 30 }),
    );
    expect(cells.map((ink) => ink > 0)).toEqual([true, true, true, false]);
  });

  test('show several lines if they are multiline fields', async () => {
    const entries = widget(`${text} /Ff 4096 /V (first\\nsecond)`, '10 170 190 230');
    const page = await drawPdf(annotated([entries], { form: FONTS }));
    expect(inkOf(page, { ...FIELD, bottom: 84 })).toBeGreaterThan(20);
    expect(inkOf(page, { ...FIELD, top: 88, bottom: 99 })).toBeGreaterThan(20);
  });

  test('show nothing if they are hidden', async () => {
    const page = await drawPdf(annotated([widget(`${text} /V (Some value)`).replace('/F 4', '/F 2')], { form: FONTS }));
    expect(inkOf(page)).toBe(0);
  });
});

describe('appearances of fields', () => {
  const stream = streamObject('/Subtype /Form /BBox [0 0 180 30]', '0 1 0 rg 0 0 180 30 re f');
  const field = `<< /Type /Annot ${widget('/FT /Tx /V (Some value) /DA (/Helv 12 Tf 0 g) /AP << /N 5 0 R >>')} >>`;
  const pdf = (form: string) =>
    onePagePdf({
      page: '/Annots [6 0 R]',
      catalog: `/AcroForm << /Fields [6 0 R] ${FONTS} ${form} >>`,
      objects: [stream, field],
    });

  test('are drawn', async () => {
    expect(colorAt(await drawPdf(pdf('')), 150, 85)).toEqual([0, 255, 0]);
  });

  test('are replaced by the value when the form needs new ones', async () => {
    const page = await drawPdf(pdf('/NeedAppearances true'));
    expect(colorAt(page, 150, 85)).toEqual([255, 255, 255]);
    expect(inkOf(page, FIELD)).toBeGreaterThan(100);
  });
});

describe('choices', () => {
  test('show the chosen option', async () => {
    const choice = '/FT /Ch /Ff 131072 /DA (/Helv 12 Tf 0 g) /Opt [(one) (two)]';
    const [one, two] = [await fieldPixels(`${choice} /V (one)`), await fieldPixels(`${choice} /V (two)`)];
    expect(inkIn(one)).toBeGreaterThan(20);
    expect(isSame(one, two)).toBe(false);
  });

  test('show the text of the option, not its export value', async () => {
    const choice = '/FT /Ch /Ff 131072 /DA (/Helv 12 Tf 0 g) /V (k)';
    const expected = await fieldPixels(`${choice.replace('(k)', '(shown)')} /Opt [(shown)]`);
    expect(isSame(await fieldPixels(`${choice} /Opt [[(k) (shown)]]`), expected)).toBe(true);
  });

  test('show all options of a list, and highlight the chosen one', async () => {
    const list = '/FT /Ch /DA (/Helv 10 Tf 0 g) /Opt [(one) (two)]';
    const [one, two] = [await fieldPixels(`${list} /V (one)`), await fieldPixels(`${list} /V (two)`)];
    expect([inkIn(one) > 500, inkIn(two) > 500]).toEqual([true, true]);
    expect(isSame(one, two)).toBe(false);
  });
});

describe.each([
  ['check boxes', '/FT /Btn'],
  ['radio buttons', '/FT /Btn /Ff 32768'],
])('%s', (_, button) => {
  const look = `${button} /MK << /BC [0 0 0] >> /DA (/ZaDb 0 Tf 0 g)`;
  const rect = '10 200 30 220';
  const inside: Area = { left: 16, top: 86, right: 24, bottom: 94 };
  const inkInside = async (entries: string) =>
    inkOf(await drawPdf(annotated([widget(`${look} ${entries}`, rect)], { form: FONTS })), inside);

  test('are ticked for any name of that state', async () => {
    for (const state of ['Yes', 'On', '1', 'Ja'])
      expect(await inkInside(`/V /${state} /AS /${state}`)).toBeGreaterThan(10);
    expect(await inkInside('/V /On')).toBeGreaterThan(10);
  });

  test('stay empty when they are off', async () => {
    expect(await inkInside('/V /Off /AS /Off')).toBe(0);
    expect(await inkInside('/AS /Off')).toBe(0);
    expect(await inkInside('')).toBe(0);
  });
});

describe('annotations', () => {
  test.each([
    ['Square', '/Subtype /Square /C [1 0 0]'],
    ['Circle', '/Subtype /Circle /C [1 0 0]'],
    ['Line', '/Subtype /Line /L [20 210 180 220] /C [1 0 0]'],
    ['Ink', '/Subtype /Ink /InkList [[20 210 90 220 180 210]] /C [1 0 0]'],
    ['Polygon', '/Subtype /Polygon /Vertices [20 210 90 220 180 210] /C [1 0 0]'],
    ['PolyLine', '/Subtype /PolyLine /Vertices [20 210 90 220 180 210] /C [1 0 0]'],
    ['Highlight', '/Subtype /Highlight /QuadPoints [20 225 180 225 20 205 180 205] /C [1 1 0]'],
    ['Underline', '/Subtype /Underline /QuadPoints [20 225 180 225 20 205 180 205] /C [1 0 0]'],
    ['Squiggly', '/Subtype /Squiggly /QuadPoints [20 225 180 225 20 205 180 205] /C [1 0 0]'],
    ['StrikeOut', '/Subtype /StrikeOut /QuadPoints [20 225 180 225 20 205 180 205] /C [1 0 0]'],
    ['Text', '/Subtype /Text /Contents (note) /C [1 1 0]'],
    ['FreeText', '/Subtype /FreeText /Contents (text) /DA (/Helv 12 Tf 1 0 0 rg)'],
    ['Stamp', '/Subtype /Stamp /Name /Approved'],
    ['FileAttachment', '/Subtype /FileAttachment /FS << /Type /Filespec /F (a.txt) >>'],
  ])('%s is drawn, unless it is hidden', async (_, entries) => {
    const page = await drawPdf(annotated([`/Rect [10 200 190 230] /F 4 ${entries}`]));
    expect(inkOf(page, FIELD)).toBeGreaterThan(20);
    for (const flags of [2, 32, 36]) {
      expect(inkOf(await drawPdf(annotated([`/Rect [10 200 190 230] /F ${flags} ${entries}`])))).toBe(0);
    }
  });
});

describe('free text', () => {
  const free = (contents: string, more = '/DA (/Helv 12 Tf 0 g)') =>
    `/Subtype /FreeText /Rect [10 200 190 230] /F 4 /Contents ${contents} ${more}`;
  const inner: Area = { left: 12, top: 72, right: 188, bottom: 98 };
  const shown = async (...annotations: string[]) => pixelsOf(await drawPdf(annotated(annotations)), inner);

  test.each([
    ['Czech', 'Příliš', 'Přílis'],
    ['Cyrillic', 'Привет', 'Превет'],
    ['Greek', 'Ελληνικά', 'Ελληνικα'],
    ['Japanese', '日本語かな', '日本語カナ'],
    ['Chinese', '简体中文', '简体中国'],
    ['Korean', '한국어', '한국인'],
  ])('in %s letters is shown', async (_, text, other) => {
    const pixels = await shown(free(utf16(text)));
    expect(inkIn(pixels)).toBeGreaterThan(50);
    expect(isSame(pixels, await shown(free(utf16(other))))).toBe(false);
  });

  test('without a style is shown too, next to a text beyond Windows-1252', async () => {
    const plain = free('(plain)', '');
    const cyrillic = free(utf16('Привет')).replace('200 190 230', '100 190 130');
    expect(inkIn(await shown(plain))).toBeGreaterThan(50);
    expect(isSame(await shown(plain, cyrillic), await shown(plain))).toBe(true);
    expect(isSame(await shown(cyrillic, plain), await shown(plain))).toBe(true);
  });

  test('keeps its border and background', async () => {
    const page = await drawPdf(annotated([free(utf16('Привет'), '/C [1 1 0] /DA (/Helv 12 Tf 1 0 0 rg)')]));
    expect([colorAt(page, 180, 85), colorAt(page, 100, 70)]).toEqual([
      [255, 255, 0],
      [255, 0, 0],
    ]);
  });
});

describe('stamps', () => {
  const stamp = (entries: string) => `/Subtype /Stamp /Rect [10 200 190 230] /F 4 ${entries}`;
  const shown = async (entries: string) => pixelsOf(await drawPdf(annotated([stamp(entries)])), ALL);
  const NAMES = [
    ...['Approved', 'Experimental', 'NotApproved', 'AsIs', 'Expired', 'NotForPublicRelease', 'Confidential', 'Final'],
    ...['Sold', 'Departmental', 'ForComment', 'TopSecret', 'Draft', 'ForPublicRelease', 'OurOwn'],
  ];

  test('show their names, standard and custom ones', async () => {
    const pixels = new Set<string>();
    for (const name of NAMES) pixels.add((await shown(`/Name /${name}`)).join());
    expect(pixels.size).toBe(NAMES.length);
  });

  test('without a name are drafts', async () => {
    expect(isSame(await shown(''), await shown('/Name /Draft'))).toBe(true);
  });

  test('have their colour and opacity, and stay inside of their rectangles', async () => {
    const page = await drawPdf(annotated([stamp('/Name /Sold /C [0 0 1]')]), { scale: 4 });
    const colors = new Set(pixelsOf(page));
    expect([colors.has(0xffff0000), colors.has(0xff0000ff)]).toEqual([true, false]);
    expect(inkOf(page)).toBe(inkOf(page, { left: 40, top: 280, right: 760, bottom: 400 }));
    const pale = await drawPdf(annotated([stamp('/Name /Sold /C [0 0 1] /CA 0.5')]), { scale: 4 });
    expect(new Set(pixelsOf(pale)).has(0xffff0000)).toBe(false);
  });

  test('turn with the page', async () => {
    const upright = await drawPdf(annotated([stamp('/Name /Sold')]));
    const turned = await drawPdf(annotated([stamp('/Name /Sold')], { page: '/Rotate 90' }));
    expect([turned.width, turned.height]).toEqual([300, 200]);
    const area: Area = { left: 200, top: 10, right: 230, bottom: 190 };
    expect(inkOf(turned, area)).toBe(inkOf(turned));
    expect(Math.abs(inkOf(turned) / inkOf(upright) - 1)).toBeLessThan(0.1);
  });

  test('with an appearance show only that', async () => {
    const pdf = onePagePdf({
      page: '/Annots [6 0 R]',
      objects: [
        streamObject('/Subtype /Form /BBox [0 0 180 30]', '0 1 0 rg 0 0 180 30 re f'),
        `<< /Type /Annot ${stamp('/Name /Sold /AP << /N 5 0 R >>')} >>`,
      ],
    });
    expect(new Set(pixelsOf(await drawPdf(pdf), FIELD))).toEqual(new Set([0xff00ff00]));
  });
});
