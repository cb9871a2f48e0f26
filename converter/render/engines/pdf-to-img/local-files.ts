import { readFileSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';

interface Globals {
  fetch: typeof fetch;
  XMLHttpRequest?: unknown;
}

const globals: Globals = globalThis;

/**
 * Lets pdf.js read the files below `folder` (a file URL) as a browser would, while `work` runs. Without that, pdf.js does
 * not convert colours by their ICC profiles: it loads its colour engine with a synchronous request, which Node lacks, and
 * Node's fetch refuses files.
 */
export async function withLocalFiles<T>(folder: URL, work: () => Promise<T>): Promise<T> {
  const { fetch, XMLHttpRequest } = globals;
  const isLocal = (url: unknown) => String(url).startsWith(folder.href);
  globals.fetch = async (url, init) =>
    isLocal(url) ? new Response(await readFile(fileURLToPath(String(url)))) : fetch(url, init);
  globals.XMLHttpRequest = class {
    response: ArrayBuffer | null = null;
    #url = '';
    open(_method: string, url: string): void {
      if (!isLocal(url)) throw new Error(`pdf.js requested ${url}`);
      this.#url = url;
    }
    send(): void {
      this.response = new Uint8Array(readFileSync(fileURLToPath(this.#url))).buffer;
    }
  };
  try {
    return await work();
  } finally {
    globals.fetch = fetch;
    if (XMLHttpRequest === undefined) delete globals.XMLHttpRequest;
    else globals.XMLHttpRequest = XMLHttpRequest;
  }
}
