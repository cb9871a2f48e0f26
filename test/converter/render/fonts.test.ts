import { existsSync } from 'node:fs';
import { FONT_FAMILIES, familyByName } from '../../../converter/render/fonts.ts';

test.each([
  ['ArialMT', 'Arimo'],
  ['Times New Roman', 'Tinos'],
  ['CourierNewPSMT', 'Cousine'],
  ['Calibri-Bold', 'Carlito'],
  ['Cambria', 'Caladea'],
  ['CambriaMath', 'Noto Sans Math'],
  ['MS PGothic', 'Noto Sans JP'],
  ['KozMinPr6N-Regular', 'Noto Sans JP'],
  ['STSong-Light', 'Noto Sans SC'],
  ['\xcb\xce\xcc\xe5', 'Noto Sans SC'],
  ['PMingLiU', 'Noto Sans TC'],
  ['HYSMyeongJo-Medium', 'Noto Sans KR'],
  ['toString', undefined],
])('the font %s is replaced by %s', (name, family) => {
  expect(familyByName(name)).toBe(family);
});

test('every font file is installed', () => {
  const files = FONT_FAMILIES.flatMap(({ regular, bold, italic, boldItalic }) => [regular, bold, italic, boldItalic]);
  expect(files.filter((file) => file !== null && !existsSync(file))).toEqual([]);
});
