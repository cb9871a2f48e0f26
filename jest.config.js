import { availableParallelism } from 'node:os';

/** TypeScript as ES modules: swc strips the types, Node's own module loader runs the rest. */
export default {
  testEnvironment: 'node',
  roots: ['<rootDir>/test'],
  extensionsToTreatAsEsm: ['.ts'],
  transform: {
    '^.+\\.ts$': [
      '@swc/jest',
      { jsc: { parser: { syntax: 'typescript' }, target: 'es2024', experimental: { keepImportAttributes: true } } },
    ],
  },
  globalSetup: '<rootDir>/test/support/global-setup.ts',
  globalTeardown: '<rootDir>/test/support/global-teardown.ts',
  reporters: ['default', '<rootDir>/test/support/reporter.ts'],
  testTimeout: 60_000,
  // Tests wait for the processes that they have started: one more uses that time.
  maxWorkers: availableParallelism() + 1,
  collectCoverageFrom: ['{api,conversion,converter,jobs,db,runtime,store}/**/*.ts'],
};
