import { existsSync } from 'node:fs';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { convertImage } from '../../../converter/render/convert-image.ts';
import { findUnsupportedFeature } from '../../../converter/render/find-unsupported-feature.ts';
import { inspectImage } from '../../../converter/render/inspect-image.ts';
import { makeImage, pngChunk } from '../../support/files.ts';

const CGBI = path.resolve('../shared/inputs/png-cgbi.png');
const withInput = existsSync(CGBI) ? test : test.skip;
let folder: string;

beforeAll(async () => {
  folder = await mkdtemp(path.join(tmpdir(), 'feature-'));
});
afterAll(() => rm(folder, { recursive: true }));

async function save(data: Buffer): Promise<string> {
  const file = path.join(folder, 'image');
  await writeFile(file, data);
  return file;
}

/** A JPEG whose frame header says something else. */
async function jpegWithFrame(change: (frame: Buffer) => void): Promise<string> {
  const jpeg = await makeImage({ format: 'jpeg' });
  change(jpeg.subarray(jpeg.indexOf(Buffer.from([0xff, 0xc0]))));
  return save(jpeg);
}

test.each([
  ['12-bit JPEG', (frame: Buffer) => frame.writeUInt8(12, 4)],
  ['lossless JPEG', (frame: Buffer) => frame.writeUInt8(0xc3, 1)],
  ['lossless JPEG', (frame: Buffer) => frame.writeUInt8(0xcb, 1)],
  ['hierarchical JPEG', (frame: Buffer) => frame.writeUInt8(0xc5, 1)],
  ['hierarchical JPEG', (frame: Buffer) => frame.writeUInt8(0xcd, 1)],
  ['JPEG-LS', (frame: Buffer) => frame.writeUInt8(0xf7, 1)],
  ['JPEG without a height in its header', (frame: Buffer) => frame.writeUInt16BE(0, 5)],
])('%s is an unsupported feature, not a corrupt file', async (feature, change) => {
  const file = await jpegWithFrame(change);
  const error = { code: 'unsupported_feature', message: `${feature} is not supported`, retryable: false };
  await expect(convertImage(file)).rejects.toMatchObject(error);
});

test('the frame header is found after large segments', async () => {
  const file = await jpegWithFrame((frame) => frame.writeUInt8(12, 4));
  const jpeg = await readFile(file);
  const large = Buffer.concat([Buffer.from([0xff, 0xe2, 0xff, 0xff]), Buffer.alloc(0xfffd, 0xff)]);
  const long = Buffer.concat([jpeg.subarray(0, 2), ...Array.from({ length: 20 }, () => large), jpeg.subarray(2)]);
  await expect(convertImage(await save(long))).rejects.toMatchObject({ message: '12-bit JPEG is not supported' });
});

test('an Apple CgBI PNG is an unsupported feature', async () => {
  const png = await makeImage();
  const changed = [png.subarray(0, 8), pngChunk('CgBI', Buffer.from([0x50, 0, 0x20, 2])), png.subarray(8)];
  const file = await save(Buffer.concat(changed));
  expect(await findUnsupportedFeature(file)).toBe('Apple CgBI PNG');
});

withInput('an iPhone PNG is an unsupported feature (needs the corpus)', async () => {
  await expect(inspectImage(CGBI)).rejects.toMatchObject({
    code: 'unsupported_feature',
    message: 'Apple CgBI PNG is not supported',
  });
});

test.each([
  ['nothing', Buffer.alloc(0)],
  ['a JPEG signature alone', Buffer.from([0xff, 0xd8])],
  ['a JPEG that ends in its frame header', Buffer.from([0xff, 0xd8, 0xff, 0xc0, 0, 11, 8])],
  ['a segment without length', Buffer.from([0xff, 0xd8, 0xff, 0xe0])],
])('%s needs no feature', async (_, data) => {
  expect(await findUnsupportedFeature(await save(data))).toBeNull();
});
