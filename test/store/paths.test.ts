import { archivePath, originalPath, pagePath, readPath, uploadFolder } from '../../store/paths.ts';

test('paths consist of ids and numbers, and are unique to the attempt', () => {
  expect(uploadFolder('id')).toBe('uploads/id');
  expect(originalPath('id', 2, 'image/jpeg')).toBe('uploads/id/originals/2.jpg');
  expect(pagePath('id', 1, 12, '3')).toBe('uploads/id/pages/1-0012.3.png');
  expect(pagePath('id', 1, 123_456, '1')).toBe('uploads/id/pages/1-123456.1.png');
});

test('a path names its upload, and the kind of a file that attempts write', () => {
  const id = '01a20a0b-5ccf-7021-8000-000000000000';
  expect(readPath(originalPath(id, 1, 'image/png'))).toEqual({ uploadId: id, made: undefined });
  expect(readPath(pagePath(id, 1, 1, '1'))).toEqual({ uploadId: id, made: 'pages' });
  expect(readPath(archivePath(id, 'key'))).toEqual({ uploadId: id, made: 'archives' });
  expect(readPath(uploadFolder(id))).toEqual({ uploadId: id, made: undefined });
  for (const other of ['incoming/1', 'uploads/a/pages/1', `else/${id}/pages/1`, `uploads/${id}x`])
    expect([other, readPath(other)]).toEqual([other, undefined]);
});
