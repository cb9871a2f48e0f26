import { rm } from 'node:fs/promises';

export default async function globalTeardown(): Promise<void> {
  const { testRun } = globalThis as unknown as {
    testRun: { folder: string; postgres: { stop(): Promise<void> } };
  };
  await testRun.postgres.stop();
  await rm(testRun.folder, { recursive: true });
}
