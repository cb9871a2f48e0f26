import { registerHooks } from 'node:module';

/**
 * Preloaded into the processes of a service: halves the CPU time of their start. To learn the format of a module, Node
 * parses the `exports` of its package each time: 180 KB for every one of the hundred modules of drizzle-orm.
 */
registerHooks({
  resolve(specifier, context, nextResolve) {
    const { parentURL } = context;
    if (parentURL?.includes('/node_modules/drizzle-orm/') && /^\..*\.js$/.test(specifier)) {
      return { url: new URL(specifier, parentURL).href, format: 'module', shortCircuit: true };
    }
    return nextResolve(specifier, context);
  },
});
