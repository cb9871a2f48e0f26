import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { z } from 'zod';
import { AppError } from '../../runtime/errors.ts';
import { defineUploadTask } from '../upload-task.ts';

/**
 * Hashes an original in one or more rounds: the built-in task that computes more than it waits. Each later round hashes the
 * digest (as bytes) of the round before and then the file, so that no round can be skipped.
 */
export const checksum = defineUploadTask({
  type: 'checksum',
  payload: z.strictObject({
    upload_id: z.uuid(),
    original: z.int().min(1).default(1),
    algorithm: z.enum(['sha256', 'sha512', 'sha1', 'md5']).default('sha256'),
    rounds: z.int().min(1).max(1000).default(1),
  }),
  resources: { cpuUnits: 1, memoryMb: 256 },
  reads: (payload) => payload.upload_id,
  readsOnly: 'originals',
  async run({ payload: { original, algorithm, rounds }, files, signal, progress }) {
    const file = files.originals.find((candidate) => candidate.original === original);
    if (file === undefined) throw new AppError('task_failed', `the upload has no original ${original}`);
    let bytes = 0;
    let digest = Buffer.alloc(0);
    for (let round = 1; round <= rounds; round++) {
      const hash = createHash(algorithm).update(digest);
      bytes = 0;
      for await (const chunk of createReadStream(file.path, { signal })) {
        hash.update(chunk);
        bytes += chunk.length;
      }
      digest = hash.digest();
      progress(round, rounds);
    }
    return { algorithm, rounds, bytes, digest: digest.toString('hex') };
  },
});
