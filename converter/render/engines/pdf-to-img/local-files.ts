import { readFileSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';

interface Globals {
  fetch: typeof fetch;
  XMLHttpRequest?: unknown;
}

const globals: Globals = globalThis;

/**
 * Lets pdf.js read the files below `folder` (a file URL) as a browser would. Only then does it convert colours by their
 * ICC profiles: it reads its colour engine by a synchronous request, and Node has no such request, and no fetch of files.
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
      if (!isLocal(url)) throw new Error(`pdf.js asks for ${url}`);
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
