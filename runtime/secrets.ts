import { type ChildProcess, type ForkOptions, fork } from 'node:child_process';
import { SECRET_VARIABLES } from './config.ts';

/** Tells a process that its parent sends the secrets by IPC. */
const FLAG = '--secrets-by-ipc';

/**
 * Gives the environment variables for `parseConfig`, with those that the parent sends, and removes the secrets from
 * `process.env`: libraries and child processes that read it later do not see them.
 */
export async function takeEnvironment(): Promise<NodeJS.ProcessEnv> {
  const sent = process.argv.includes(FLAG) ? await receiveSecrets() : {};
  const environment = { ...process.env, ...sent };
  for (const name of SECRET_VARIABLES) delete process.env[name];
  return environment;
}

/** Starts a process that calls `takeEnvironment`. Its secrets are in no environment, where other processes could read them. */
export function forkWithSecrets(module: string, secrets: NodeJS.ProcessEnv, options: ForkOptions): ChildProcess {
  const child = fork(module, [FLAG], options);
  // A child that has ended already reports that by its exit.
  child.send({ kind: 'secrets', secrets }, () => undefined);
  return child;
}

function receiveSecrets(): Promise<NodeJS.ProcessEnv> {
  return new Promise((resolve) => {
    const orphaned = () => process.exit(1);
    process.once('disconnect', orphaned);
    process.once('message', (message: { secrets: NodeJS.ProcessEnv }) => {
      process.off('disconnect', orphaned);
      resolve(message.secrets);
    });
  });
}
