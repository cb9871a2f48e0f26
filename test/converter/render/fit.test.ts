import { fitImage, fitScale, MAX_SIDE, sidePixels } from '../../../converter/render/fit.ts';

describe('fitScale', () => {
  test('a letter page at 200 dpi has 1700x2200 pixels and is not reduced', () => {
    expect(fitScale(612, 792, 200)).toEqual({ scale: 200 / 72, dpi: 200, width: 1700, height: 2200, reduced: null });
  });

  test('a page longer than 3499 pixels gets less than the requested dpi, with a reason', () => {
    expect(fitScale(14400, 7200, 200)).toEqual({
      scale: 3499 / 14400,
      dpi: 17.5,
      width: 3499,
      height: 1750,
      reduced: 'fits below 3500',
    });
  });

  test('a page of 3499 pixels is kept, one of 3500 is reduced', () => {
    expect(fitScale(3499, 100, 72)).toMatchObject({ width: 3499, reduced: null });
    expect(fitScale(3500, 100, 72)).toMatchObject({ width: 3499, reduced: 'fits below 3500' });
  });

  test('any size results in 1 to 3499 pixels and at most the requested dpi', () => {
    for (let n = 1; n < 4000; n++) {
      const fit = fitScale((n * 7.77) ** 1.2, n / 3, 36 + (n % 565));
      expect(Math.max(fit.width, fit.height)).toBeLessThanOrEqual(MAX_SIDE);
      expect(Math.min(fit.width, fit.height)).toBeGreaterThanOrEqual(1);
      expect(fit.dpi).toBeLessThanOrEqual(36 + (n % 565));
    }
  });
});

describe('fitImage', () => {
  test('an image that fits is left as it is', () => {
    expect(fitImage(3499, 20)).toEqual({ width: 3499, height: 20 });
    expect(fitImage(1, 1)).toEqual({ width: 1, height: 1 });
  });

  test('a larger image keeps its aspect and its last row', () => {
    expect(fitImage(7000, 3500)).toEqual({ width: 3499, height: 1750 });
    expect(fitImage(100_000, 2)).toEqual({ width: 3499, height: 1 });
  });
});

test('a rounding error adds no row of pixels', () => {
  expect(sidePixels(1700.0000000000002)).toBe(1700);
  expect(sidePixels(1700.2)).toBe(1701);
  expect(sidePixels(0.001)).toBe(1);
});
