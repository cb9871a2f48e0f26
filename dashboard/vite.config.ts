import vue from '@vitejs/plugin-vue';
import { defineConfig } from 'vite';

/** `npm run build` makes dashboard/dist; `npm run dashboard` serves it from source, beside a service on its usual port. */
export default defineConfig({
  root: import.meta.dirname,
  plugins: [vue()],
  // The page's policy allows no inline scripts or styles.
  build: { assetsInlineLimit: 0, modulePreload: { polyfill: false }, target: 'es2023' },
  server: {
    proxy: Object.fromEntries(
      ['/uploads', '/jobs', '/job-types', '/schedules', '/system', '/docs', '/openapi.json'].map((path) => [
        path,
        { target: 'http://127.0.0.1:3000', ws: true },
      ]),
    ),
  },
});
