import { estimateImage } from '../../../converter/render/estimate-image.ts';
import type { ImageHeader } from '../../../converter/render/inspect-image.ts';
import { memoryClass } from '../../../jobs/shape.ts';

describe('the memory class of an image', () => {
  const header: ImageHeader = {
    format: 'jpeg',
    width: 20_000,
    height: 14_000,
    channels: 3,
    deep: false,
    progressive: false,
    orientation: 1,
    hasAlpha: false,
    cmyk: false,
    isGrey: false,
    subsampled: true,
    bytes: 5_000_000,
  };
  const classOf = (more: Partial<ImageHeader>) => memoryClass(estimateImage({ ...header, ...more }));

  test.each([
    ['a small photograph', { width: 1600, height: 1200 }, 256],
    ['a huge JPEG, which is shrunk while it is decoded', {}, 256],
    ['a turned photograph', { orientation: 6 }, 384],
    ['a progressive JPEG, whose coefficients are all kept', { progressive: true }, 1536],
    ['a huge PNG, which is decoded line by line', { format: 'png' }, 384],
    ['an interlaced PNG, which is decoded as a whole', { format: 'png', progressive: true }, 1536],
    ['an interlaced PNG of 16 bits with alpha', { format: 'png', progressive: true, deep: true, channels: 4 }, 3072],
    ['an image beyond all classes', { format: 'png', progressive: true, width: 200_000, height: 200_000 }, 16_384],
  ] as [string, Partial<ImageHeader>, number][])('is estimated from the header: %s', (_, more, expected) => {
    expect(classOf(more)).toBe(expected);
  });
});
