import { createHash } from 'node:crypto';
import { drizzle } from 'drizzle-orm/node-postgres';
import * as schema from '../../../db/schema.ts';
import { listUploads } from '../../../db/uploads.ts';
import { makeImage, RED } from '../../support/files.ts';
import { insertUploads } from '../../support/listed-uploads.ts';
import { type Json, type Service, startService } from '../../support/service.ts';
import { expectProblem } from '../http/problems.ts';

const MANY = 100_000;
/** Blocks of 8 KB; the tables and their indexes have thousands. */
const FEW_BLOCKS = 1_000;

let service: Service;
beforeAll(async () => {
  const key = (name: string, scopes: string[]) => ({
    name,
    sha256: createHash('sha256').update(name).digest('hex'),
    scopes,
  });
  const keys = [
    key('alice', ['uploads:read', 'uploads:write']),
    key('bob', ['uploads:read']),
    key('root', ['admin']),
    key('many', ['uploads:read']),
  ];
  service = await startService({ converters: 0, env: { API_KEYS: JSON.stringify(keys) } });
});
afterAll(() => service.stop());

const search = (text: string, name = 'alice', more = '') =>
  service.send('GET', `/uploads?search=${encodeURIComponent(text)}${more}`, undefined, {
    Authorization: `Bearer ${name}`,
  });

async function found(...query: Parameters<typeof search>): Promise<string[][]> {
  const { status, text, body } = await search(...query);
  if (status !== 200) throw new Error(text);
  return body.items.map(({ filenames }: Json) => filenames);
}

test('an upload is found by a part of the name of any of its files, in any case', async () => {
  const png = await makeImage({ width: 4, height: 4, color: RED });
  const files: [string, Uint8Array][] = [
    ['Second Quarter.png', png],
    ['cover.png', png],
  ];
  await service.upload(files, {}, { Authorization: 'Bearer alice' });
  const names = files.map(([name]) => name);
  expect(await found('OND quart')).toEqual([names]);
  expect(await found('over.P')).toEqual([names]);
  expect(await found('Quarterly')).toEqual([]);
  const all = await service.send('GET', '/uploads', undefined, { Authorization: 'Bearer alice' });
  expect(all.body.items.map(({ filenames }: Json) => filenames)).toEqual([names]);
});

test('characters with a meaning in a pattern match themselves', async () => {
  const names = ['100% done', '100 done', 'a_bcd_e', 'axbcdxe', 'back\\slash', 'back/slash', "it's mine"];
  await insertUploads(service.pool, names, 'alice');
  expect(await found('100%')).toEqual([['100% done']]);
  expect(await found('100_')).toEqual([]);
  expect(await found('_bcd_')).toEqual([['a_bcd_e']]);
  expect(await found('ck\\sla')).toEqual([['back\\slash']]);
  expect(await found("'s mine")).toEqual([["it's mine"]]);
});

test('an upload is found by its id or the start of it, with or without dashes', async () => {
  const [id = '', other = ''] = await insertUploads(service.pool, ['by-id', 'by-another-id'], 'alice');
  expect(id.slice(0, -1)).toBe(other.slice(0, -1));
  expect(await found(id)).toEqual([['by-id']]);
  expect(await found(id.toUpperCase().replaceAll('-', ''))).toEqual([['by-id']]);
  for (const start of [id.slice(0, -1), id.slice(0, -1).replaceAll('-', '')]) {
    expect(await found(start)).toEqual(expect.arrayContaining([['by-id'], ['by-another-id']]));
  }
  expect(await found(id.slice(1))).toEqual([]);
  expect(await found(`${id}0`)).toEqual([]);
});

test('the pages of a search give each upload once, newest first', async () => {
  const names = Array.from({ length: 23 }, (_, index) => `0199 paged ${index}`);
  await insertUploads(service.pool, names, 'bob');
  for (const text of ['PAGED', '0199']) {
    const seen: string[] = [];
    for (let cursor: string | null = ''; cursor !== null; ) {
      const { body } = await search(text, 'bob', `&status=completed&limit=5${cursor && `&cursor=${cursor}`}`);
      seen.push(...body.items.flatMap(({ filenames }: Json) => filenames));
      cursor = body.next_cursor;
    }
    expect(seen).toEqual(names.toReversed());
  }
  expect(await found('paged', 'bob', '&status=failed')).toEqual([]);
});

test('a search finds only uploads of the caller, and all for an administrator', async () => {
  await insertUploads(service.pool, ['secret of alice'], 'alice');
  const [id = ''] = await insertUploads(service.pool, ['secret of bob'], 'bob');
  expect(await found('secret', 'alice')).toEqual([['secret of alice']]);
  expect(await found('secret', 'bob')).toEqual([['secret of bob']]);
  expect(await found(id, 'alice')).toEqual([]);
  expect(await found('secret', 'root')).toEqual([['secret of bob'], ['secret of alice']]);
});

test.each(['', 'ab', '  ', 'a\0bc', 'x'.repeat(201)])('a search for %j is refused', async (text) => {
  expectProblem(await search(text), 400, 'invalid_request', /^search/);
});

test.each(['   ', '---', '___', '%%%', '__ab__', 'a-b-c'])(
  'a search for %j, which no index supports, is refused',
  async (text) => {
    expectProblem(await search(text), 400, 'invalid_request', /^search: must contain three letters or digits in a row/);
  },
);

test('letters of any script match', async () => {
  await insertUploads(service.pool, ['報告書 2026.pdf', 'Übergrößen.pdf'], 'alice');
  expect(await found('報告書')).toEqual([['報告書 2026.pdf']]);
  expect(await found('größ')).toEqual([['Übergrößen.pdf']]);
  await expect(found('報告', 'alice')).rejects.toThrow('three letters or digits');
  expect(await found('報告書', 'alice', '&status=failed')).toEqual([]);
  expect(await found('報告書', 'bob')).toEqual([]);
});

test('a search among many uploads reads few blocks', async () => {
  await insertUploads(
    service.pool,
    Array.from({ length: MANY }, (_, index) => `report ${index}.pdf`),
    'many',
  );
  await service.pool.query('vacuum analyze uploads, originals');
  const statements: { query: string; params: unknown[] }[] = [];
  const logger = { logQuery: (query: string, params: unknown[]) => statements.push({ query, params }) };
  const db = drizzle({ client: service.pool, schema, logger });

  /** Gives the plan of a search as text, and the number of blocks that it reads. */
  async function planOf(filter: Omit<Parameters<typeof listUploads>[1], 'limit'>) {
    const rows = await listUploads(db, { ...filter, limit: 51 });
    const { query = '', params = [] } = statements.at(-1) ?? {};
    const { rows: explained } = await service.pool.query(`explain (analyze, buffers, format json) ${query}`, params);
    const { Plan: plan } = explained[0]['QUERY PLAN'][0];
    return {
      count: rows.length,
      text: JSON.stringify(plan),
      blocks: plan['Shared Hit Blocks'] + plan['Shared Read Blocks'],
    };
  }

  for (const owner of ['many', undefined]) {
    const rare = await planOf({ owner, search: 'report 76543.pdf' });
    expect([rare.count, rare.text.includes('originals_filename')]).toEqual([1, true]);
    expect(rare.blocks).toBeLessThan(FEW_BLOCKS);

    const common = await planOf({ owner, search: '.pdf' });
    expect(common.count).toBe(51);
    expect(common.blocks).toBeLessThan(FEW_BLOCKS);

    const none = await planOf({ owner, search: 'nowhere' });
    expect(none.count).toBe(0);
    expect(none.blocks).toBeLessThan(FEW_BLOCKS);

    const byId = await planOf({ owner, search: '01990000-0000-7000-8000-00000000ab' });
    expect(byId.count).toBe(51);
    expect(byId.blocks).toBeLessThan(FEW_BLOCKS);
  }
});
