import { type ChildProcess, type ForkOptions, fork } from 'node:child_process';
import { SECRET_VARIABLES } from './config.ts';

/** The argument of a process whose parent sends the secrets by IPC. */
const FLAG = '--secrets-by-ipc';

/**
 * Returns the environment variables for `parseConfig`, those from the parent included. Removes the secrets from
 * `process.env`, so that libraries and child processes do not see them.
 */
export async function takeEnvironment(): Promise<NodeJS.ProcessEnv> {
  const sent = process.argv.includes(FLAG) ? await receiveSecrets() : {};
  const environment = { ...process.env, ...sent };
  for (const name of SECRET_VARIABLES) delete process.env[name];
  return environment;
}

/** Starts a process that calls `takeEnvironment`. Its environment, which other processes could read, has no secrets. */
export function forkWithSecrets(module: string, secrets: NodeJS.ProcessEnv, options: ForkOptions): ChildProcess {
  const child = fork(module, [FLAG], options);
  // The exit event reports a child that has ended already.
  child.send({ kind: 'secrets', secrets }, () => undefined);
  return child;
}

function receiveSecrets(): Promise<NodeJS.ProcessEnv> {
  return new Promise((resolve) => {
    const exit = () => process.exit(1);
    process.once('disconnect', exit);
    process.once('message', (message: { secrets: NodeJS.ProcessEnv }) => {
      process.off('disconnect', exit);
      resolve(message.secrets);
    });
  });
}
