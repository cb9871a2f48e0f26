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
 * The way it was done before: worker processes, several uploads at a time in each, a program for each upload, and a
 * limit on the memory of the whole worker. As in a container, all of a worker dies above the limit; a new one starts at
 * once, and the uploads that were under way are queued again.
 */

const WATCH_MS = 50;
/** A monster is given up after so many workers. In favour of this way, it is known which upload was the monster. */
const MAX_WORKERS = 3;

interface Ticket {
  upload: Upload;
  /** Workers that died with it. */
  deaths: number;
  resolve: (end: End) => void;
}

interface Worker {
  child: ChildProcess;
  folder: string;
  underWay: Map<number, Ticket>;
}

export function startOldWay({
  workers,
  atOnce,
  workerMb,
  programs,
  folder,
}: {
  workers: number;
  /** Uploads in one worker. */
  atOnce: number;
  /** Memory of one worker with all that it has started. */
  workerMb: number;
  programs: { image: Installed; pdf: Installed };
  folder: string;
}): System {
  const running = new Set<Worker>();
  const queue: Ticket[] = [];
  let lastId = 0;
  let stopped = false;

  function startWorker(): void {
    // A group of its own, which can be killed as a whole.
    const child = fork(path.join(import.meta.dirname, 'baseline-worker.ts'), { detached: true });
    const worker: Worker = { child, folder: path.join(folder, `worker-${child.pid}`), underWay: new Map() };
    running.add(worker);
    child.on('message', (answer: Answer) => finish(worker, answer));
    child.once('exit', () => {
      running.delete(worker);
      rmSync(worker.folder, { recursive: true, force: true });
      if (stopped) return;
      for (const ticket of worker.underWay.values()) queueAgain(ticket);
      startWorker();
      dispatch();
    });
  }

  function queueAgain(ticket: Ticket): void {
    ticket.deaths++;
    if (ticket.upload.monster !== undefined && ticket.deaths >= MAX_WORKERS) {
      end(ticket, 'lost', `${MAX_WORKERS} workers died`);
    } else {
      queue.unshift(ticket);
    }
  }

  function finish(worker: Worker, { id, problem }: Answer): void {
    const ticket = worker.underWay.get(id);
    worker.underWay.delete(id);
    if (ticket) end(ticket, problem === null ? 'converted' : 'failed', problem ?? '');
    dispatch();
  }

  function end({ deaths, resolve }: Ticket, outcome: End['outcome'], reason: string): void {
    resolve({ outcome, reason, disturbances: Array(deaths).fill('its worker died'), finished: Date.now() });
  }

  function dispatch(): void {
    while (queue.length > 0) {
      const [worker] = [...running].sort((a, b) => a.underWay.size - b.underWay.size);
      const ticket = worker && worker.underWay.size < atOnce ? queue.shift() : undefined;
      if (worker === undefined || ticket === undefined) return;
      const { file } = ticket.upload;
      const program = path.extname(file) === '.pdf' ? programs.pdf : programs.image;
      const id = ++lastId;
      const output = path.join(worker.folder, String(id));
      worker.underWay.set(id, ticket);
      const order: Order = {
        id,
        folder: output,
        program: program.programs[0] ?? '',
        arguments: program.arguments(file, output),
      };
      // One that is just dying does not hear it; its exit queues the upload again.
      worker.child.send(order, () => undefined);
    }
  }

  function kill({ child }: Worker): void {
    try {
      if (child.pid !== undefined && child.exitCode === null) process.kill(-child.pid, 'SIGKILL');
    } catch {
      // Gone already.
    }
  }

  const watch = setInterval(() => {
    const trees = treesOf(roots());
    for (const worker of running) {
      const pids = trees.get(worker.child.pid ?? 0) ?? [];
      // The true figure costs milliseconds of the same cores, so it is asked for only when it can matter.
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
