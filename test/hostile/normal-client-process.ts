import { request } from 'node:http';
import { setTimeout as delay } from 'node:timers/promises';

/**
 * A normal client, in a separate process so that an attacker in the test does not slow it down. It asks for each
 * route over a new connection, one after the other, until its parent disconnects or sends a message; then it sends the
 * longest time and what was not answered with 200.
 */
const [base = '', key = '', ...routes] = process.argv.slice(2);
const PAUSE_MS = 20;
const TIMEOUT_MS = 20_000;

let isStopped = false;
let worstMs = 0;
let requests = 0;
const refusals: Record<string, number> = {};

process.on('message', () => {
  isStopped = true;
});
process.on('disconnect', () => process.exit());

function ask(route: string): Promise<string> {
  return new Promise((resolve) => {
    const headers = key === '' ? {} : { Authorization: `Bearer ${key}` };
    const call = request(base + route, { agent: false, headers, timeout: TIMEOUT_MS }, (response) => {
      response.resume().on('end', () => resolve(String(response.statusCode)));
      response.on('error', () => resolve('cut off'));
    });
    call.on('timeout', () => call.destroy(new Error('timeout')));
    call.on('error', (error: NodeJS.ErrnoException) => resolve(error.code ?? error.message));
    call.end();
  });
}

async function probe(): Promise<void> {
  for (const route of routes) {
    const began = performance.now();
    const answer = await ask(route);
    worstMs = Math.max(worstMs, performance.now() - began);
    requests++;
    if (answer !== '200') refusals[answer] = (refusals[answer] ?? 0) + 1;
  }
}

await probe();
process.send?.({ kind: 'ready' });
worstMs = 0;
while (!isStopped) {
  await probe();
  await delay(PAUSE_MS);
}
process.send?.({ kind: 'ended', worstMs: Math.round(worstMs), requests, refusals });
process.disconnect();
