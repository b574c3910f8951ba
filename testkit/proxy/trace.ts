// Where does the trace go? To a file, a line of JSON for each event.

import type { ProxyEvent } from "../proxy.ts";

/** A trace, written as events come: one that is complete only after a clean end is no help where there was none. */
export class Trace implements Disposable {
  readonly #file: Deno.FsFile;
  readonly #encoder = new TextEncoder();

  /** Opens the file, and empties it. */
  constructor(path: string) {
    this.#file = Deno.openSync(path, { write: true, create: true, truncate: true });
  }

  /** Writes an event. */
  readonly write = (event: ProxyEvent): void => {
    const line = this.#encoder.encode(`${JSON.stringify(event)}\n`);
    for (let at = 0; at < line.length;) at += this.#file.writeSync(line.subarray(at));
  };

  [Symbol.dispose](): void {
    this.#file[Symbol.dispose]();
  }
}
