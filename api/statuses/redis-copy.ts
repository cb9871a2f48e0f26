import { createHash, randomUUID } from 'node:crypto';
import { createClient } from '@redis/client';
import type { Logger } from '../../log.ts';
import { type Copy, type Hole, KEPT_MS, type Known } from './copy.ts';

const CONNECT_MS = 1_000;
/** A Redis that takes longer is as good as away. */
const ANSWER_MS = 50;

/**
 * Entries begin with the epoch in which they were written, 36 characters: those of another are as good as gone. Then comes
 * `?` and the name of a hole, or `=`, the version, `:` and what is known.
 */
const EPOCH = '{sheetmill}:epoch';
const keyOf = (key: string) => `{sheetmill}:${key}`;

/** KEYS epoch, entry; ARGV a new name. Gives the entry, a new hole if there is none. */
const LOOK = `
local epoch = redis.call('get', KEYS[1])
if not epoch then
  epoch = ARGV[1]
  redis.call('set', KEYS[1], epoch)
end
local entry = redis.call('get', KEYS[2])
if entry and string.sub(entry, 1, 36) == epoch then return entry end
entry = epoch .. '?' .. ARGV[1]
redis.call('set', KEYS[2], entry, 'px', ${KEPT_MS})
return entry`;

/** KEYS epoch, entry; ARGV the hole, the version, what is known. */
const PUT = `
local epoch = redis.call('get', KEYS[1])
local entry = redis.call('get', KEYS[2])
if not epoch or not entry then return end
local version = string.match(entry, '^=(%d+)', 37)
local fits = entry == ARGV[1]
if version then fits = tonumber(version) < tonumber(ARGV[2]) end
if string.sub(entry, 1, 36) == epoch and fits then
  redis.call('set', KEYS[2], epoch .. '=' .. ARGV[2] .. ':' .. ARGV[3], 'px', ${KEPT_MS})
elseif not version then
  redis.call('del', KEYS[2])
end`;

export interface RedisCopy extends Copy {
  /** Resolves once it cannot be reached any more; from then on every call throws. */
  lost: Promise<void>;
  close(): void;
}

/**
 * A copy that all API processes share. It belongs to one connection, and so to one run of one Redis server: what another
 * run may have loaded from its disk is another copy. Throws when there is no connection within a second.
 */
export async function openRedisCopy(url: string, log: Logger): Promise<RedisCopy> {
  const client = createClient({
    url,
    name: 'sheetmill',
    disableOfflineQueue: true,
    socket: { connectTimeout: CONNECT_MS, reconnectStrategy: false },
  });
  const lost = Promise.withResolvers<void>();
  let open = true;
  function giveUp(error?: unknown): void {
    if (!open) return;
    open = false;
    if (error) log.warn({ err: error }, 'redis lost');
    lost.resolve();
    if (client.isOpen) client.destroy();
  }
  client.on('error', giveUp);
  client.on('end', () => giveUp(new Error('connection closed')));

  async function within<Reply>(ms: number, reply: Promise<Reply>): Promise<Reply> {
    const late = Promise.withResolvers<never>();
    const timer = setTimeout(() => {
      // What stood still may have been this process: an answer that has come meanwhile is heard first.
      setImmediate(() => late.reject(new Error(`no answer from redis within ${ms} ms`)));
    }, ms);
    try {
      return await Promise.race([reply, late.promise]);
    } catch (error) {
      giveUp(error);
      throw error;
    } finally {
      clearTimeout(timer);
    }
  }
  const send = <Reply>(...command: string[]) => within(ANSWER_MS, client.sendCommand<Reply>(command));

  await within(CONNECT_MS, client.connect());
  const server = await within(CONNECT_MS, client.sendCommand<string>(['INFO', 'server']));
  const run = /^run_id:(\w+)/m.exec(String(server))?.[1] ?? randomUUID();
  const look = await within(CONNECT_MS, client.sendCommand<string>(['SCRIPT', 'LOAD', LOOK]));
  const put = await within(CONNECT_MS, client.sendCommand<string>(['SCRIPT', 'LOAD', PUT]));

  return {
    id: createHash('sha256').update(run).digest().readInt32BE(),
    lost: lost.promise,
    async look(key): Promise<Known | Hole> {
      const entry = await send<string>('EVALSHA', look, '2', EPOCH, keyOf(key), randomUUID());
      return entry[36] === '?' ? { hole: entry } : JSON.parse(entry.slice(entry.indexOf(':', 36) + 1));
    },
    async put(key, known, hole = '') {
      if (known === undefined) await send('DEL', keyOf(key));
      else await send('EVALSHA', put, '2', EPOCH, keyOf(key), hole, String(known.version), JSON.stringify(known));
    },
    async drop(keys) {
      if (keys.length > 0) await send('DEL', ...keys.map(keyOf));
    },
    async clear() {
      await send('SET', EPOCH, randomUUID());
    },
    close() {
      giveUp();
    },
  };
}
