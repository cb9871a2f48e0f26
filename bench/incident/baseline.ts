import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { rmSync } from 'node:fs';
import path from 'node:path';
import type { Installed } from '../competitors.ts';
import { pssMb, residentMb, treesOf } from '../processes.ts';
import type { Answer, Order } from './baseline-worker.ts';
import type { End, System } from './run.ts';
import type { Upload } from './traffic.ts';

/**
 * The baseline: worker processes with several uploads at a time in each, a program for each upload, and a limit on the
 * memory of the whole worker. As in a container, a worker above the limit is killed with all its processes. A new one
 * starts immediately, and the running uploads are queued again.
 */

const WATCH_MS = 50;
/** A hostile upload is lost after this many workers. The baseline is favoured here: it knows which upload is hostile. */
const MAX_WORKERS = 3;

interface Ticket {
  upload: Upload;
  /** How many workers ended while they had this upload. */
  deaths: number;
  resolve: (end: End) => void;
}

interface Worker {
  child: ChildProcess;
  folder: string;
  uploads: Map<number, Ticket>;
}

export function startBaseline({
  workers,
  atOnce,
  workerMb,
  programs,
  folder,
}: {
  workers: number;
  /** Uploads in one worker. */
  atOnce: number;
  /** Memory of one worker with all its child processes. */
  workerMb: number;
  programs: { image: Installed; pdf: Installed };
  folder: string;
}): System {
  const running = new Set<Worker>();
  const queue: Ticket[] = [];
  let lastId = 0;
  let stopped = false;

  function startWorker(): void {
    // A separate process group can be killed as a whole.
    const child = fork(path.join(import.meta.dirname, 'baseline-worker.ts'), { detached: true });
    const worker: Worker = { child, folder: path.join(folder, `worker-${child.pid}`), uploads: new Map() };
    running.add(worker);
    child.on('message', (answer: Answer) => finish(worker, answer));
    child.once('exit', () => {
      running.delete(worker);
      rmSync(worker.folder, { recursive: true, force: true });
      if (stopped) return;
      for (const ticket of worker.uploads.values()) queueAgain(ticket);
      startWorker();
      dispatch();
    });
  }

  function queueAgain(ticket: Ticket): void {
    ticket.deaths++;
    if (ticket.upload.hostileKind !== undefined && ticket.deaths >= MAX_WORKERS) {
      end(ticket, 'lost', `${MAX_WORKERS} workers died`);
    } else {
      queue.unshift(ticket);
    }
  }

  function finish(worker: Worker, { id, problem }: Answer): void {
    const ticket = worker.uploads.get(id);
    worker.uploads.delete(id);
    if (ticket) end(ticket, problem === null ? 'converted' : 'failed', problem ?? '');
    dispatch();
  }

  function end({ deaths, resolve }: Ticket, outcome: End['outcome'], reason: string): void {
    resolve({ outcome, reason, disturbances: Array(deaths).fill('its worker died'), finished: Date.now() });
  }

  function dispatch(): void {
    while (queue.length > 0) {
      const [worker] = [...running].sort((a, b) => a.uploads.size - b.uploads.size);
      const ticket = worker && worker.uploads.size < atOnce ? queue.shift() : undefined;
      if (worker === undefined || ticket === undefined) return;
      const { file } = ticket.upload;
      const program = path.extname(file) === '.pdf' ? programs.pdf : programs.image;
      const id = ++lastId;
      const output = path.join(worker.folder, String(id));
      worker.uploads.set(id, ticket);
      const order: Order = {
        id,
        folder: output,
        program: program.programs[0] ?? '',
        arguments: program.arguments(file, output),
      };
      // A worker that is exiting does not receive the order; its exit queues the upload again.
      worker.child.send(order, () => undefined);
    }
  }

  function kill({ child }: Worker): void {
    try {
      if (child.pid !== undefined && child.exitCode === null) process.kill(-child.pid, 'SIGKILL');
    } catch {
      // The group has ended already.
    }
  }

  const watch = setInterval(() => {
    const trees = treesOf(roots());
    for (const worker of running) {
      const pids = trees.get(worker.child.pid ?? 0) ?? [];
      // Reading the PSS takes milliseconds of the same cores, so it is read only above the limit of resident memory.
      if (residentMb(pids) > workerMb && pssMb(pids) > workerMb) kill(worker);
    }
  }, WATCH_MS);

  function roots(): number[] {
    return [...running].flatMap(({ child }) => child.pid ?? []);
  }

  for (let started = 0; started < workers; started++) startWorker();

  return {
    convert(upload) {
      return new Promise((resolve) => {
        queue.push({ upload, deaths: 0, resolve });
        dispatch();
      });
    },
    roots,
    async stop() {
      stopped = true;
      clearInterval(watch);
      const gone = [...running].map(({ child }) => once(child, 'exit'));
      for (const worker of running) kill(worker);
      await Promise.all(gone);
    },
  };
}
