// All cores: Workers that listen on one port, each with a server of its own, seen as one.

import type { DrainReport, ServerStats } from "../server.ts";
import { newStats } from "../server/host.ts";
import type { Given } from "./flags.ts";
import { logLine, ProgramError } from "./program.ts";
import type { Running } from "./server.ts";

/** What a worker is told. */
export type ToWorker =
  | {
    readonly type: "start";
    readonly args: readonly string[];
    readonly index: number;
    readonly count: number;
    readonly port: number;
    readonly firstNumber: number;
  }
  | { readonly type: "drain" | "cut" | "stats" | "written" };

/** What a worker tells. */
export type FromWorker =
  | { readonly type: "listening"; readonly addrs: readonly Deno.Addr[] }
  | { readonly type: "failed"; readonly message: string; readonly status: number }
  | { readonly type: "log"; readonly line: string }
  | { readonly type: "write"; readonly text: string }
  | { readonly type: "stats"; readonly stats: ServerStats }
  | { readonly type: "drained"; readonly report: DrainReport };

/** More connections than one worker will serve in its life. */
const numbersPerLaunch = 2 ** 32;
/** A worker that ends sooner than this is started again only after as long a pause. */
const minLifeMs = 1000;

/** The workers of a program. */
export class Workers implements Running {
  addrs: readonly Deno.Addr[] = [];
  readonly finished: Promise<DrainReport>;
  readonly #finished = Promise.withResolvers<DrainReport>();
  readonly #url: URL;
  readonly #args: readonly string[];
  readonly #write: (text: string) => void;
  readonly #full: () => Promise<void> | null;
  readonly #workers: (Worker | null)[];
  readonly #stats: PromiseWithResolvers<ServerStats | null>[][];
  readonly #launches: number[];
  // What workers that crashed had counted is lost; what those that drained say is added up here.
  readonly #report = { answered: 0, cut: 0 };
  // What is printed waits until the program has said where it listens.
  readonly #started = Promise.withResolvers<void>();
  #drainedCount = 0;
  // Whether all have started once: before, a worker that fails is the program's failure.
  #running = false;
  #stopping = false;
  #port = 0;

  /**
   * Starts the workers that the flags ask for; resolves when all of them listen.
   *
   * @throws {ProgramError} If that cannot be, and says what to do.
   */
  static async start(
    given: Given,
    args: readonly string[],
    write: (text: string) => void,
    full: () => Promise<void> | null,
    url = new URL("./worker.ts", import.meta.url),
  ): Promise<Workers> {
    const count = given.integer("workers")!;
    if (given.text("unix") !== undefined) {
      throw new ProgramError("--workers goes with a port, not with --unix", 2);
    }
    // Deno ends the process, and no handler hears of it, where a port is shared without this.
    if (!("listenDatagram" in Deno)) {
      throw new ProgramError("--workers needs --unstable-net: run it with deno run --unstable-net -N -R", 1);
    }
    if (
      url.protocol === "file:" && Deno.permissions.querySync({ name: "read", path: url }).state !== "granted"
    ) {
      throw new ProgramError("--workers loads its module from a file: run it with deno run -N -R", 1);
    }
    const workers = new Workers(url, args, count, write, full);
    workers.#port = given.integer("port") ?? 8888;
    // The first one takes the port, a free one if that is asked for; the others join it.
    workers.addrs = await workers.#launch(0);
    const [addr] = workers.addrs;
    if (addr !== undefined && "port" in addr) workers.#port = addr.port;
    await Promise.all(Array.from({ length: count - 1 }, (_, i) => workers.#launch(i + 1)));
    workers.#running = true;
    queueMicrotask(workers.#started.resolve);
    return workers;
  }

  private constructor(
    url: URL,
    args: readonly string[],
    count: number,
    write: (text: string) => void,
    full: () => Promise<void> | null,
  ) {
    this.#url = url;
    this.#args = args;
    this.#write = write;
    this.#full = full;
    this.#workers = Array(count).fill(null);
    this.#stats = Array.from({ length: count }, () => []);
    this.#launches = Array(count).fill(0);
    this.finished = this.#finished.promise;
  }

  shutdown(): void {
    this.#stopping = true;
    this.#tellAll({ type: "drain" });
  }

  cut(): void {
    this.#tellAll({ type: "cut" });
  }

  /** The counts of all workers that run, added up. */
  async stats(): Promise<ServerStats> {
    const all = await Promise.all(this.#workers.flatMap((worker, index) => {
      if (worker === null) return [];
      const asked = Promise.withResolvers<ServerStats | null>();
      this.#stats[index]!.push(asked);
      worker.postMessage({ type: "stats" } satisfies ToWorker);
      return [asked.promise];
    }));
    return all.reduce<ServerStats>((sum, stats) => stats === null ? sum : added(sum, stats), newStats());
  }

  #tellAll(message: ToWorker): void {
    for (const worker of this.#workers) worker?.postMessage(message);
  }

  /** Starts a worker; resolves when it listens. */
  #launch(index: number): Promise<readonly Deno.Addr[]> {
    const listening = Promise.withResolvers<readonly Deno.Addr[]>(), born = performance.now();
    const worker = new Worker(this.#url, { type: "module", name: `framewire ${index + 1}` });
    this.#workers[index] = worker;
    worker.onmessage = ({ data }: MessageEvent<FromWorker>) => {
      switch (data.type) {
        case "listening":
          return listening.resolve(data.addrs);
        case "failed":
          worker.terminate();
          listening.reject(new ProgramError(data.message, data.status));
          return void (this.#running && this.#crashed(index, data.message, 0));
        case "log":
          return logLine(data.line);
        case "write":
          return void this.#started.promise.then(async () => {
            this.#write(data.text);
            await this.#full();
            worker.postMessage({ type: "written" } satisfies ToWorker);
          });
        case "stats":
          return this.#stats[index]!.shift()?.resolve(data.stats);
        case "drained":
          this.#report.answered += data.report.answered;
          this.#report.cut += data.report.cut;
          worker.terminate();
          return this.#gone(index);
      }
    };
    worker.onerror = (event) => {
      event.preventDefault();
      worker.terminate();
      listening.reject(new ProgramError(`worker ${index + 1} does not start: ${event.message}`, 1));
      if (this.#running) void this.#crashed(index, event.message, performance.now() - born);
    };
    const message = {
      type: "start",
      args: this.#args,
      index,
      count: this.#workers.length,
      port: this.#port,
      // Numbers of connections are not used twice, whatever became of the worker that used them.
      firstNumber: this.#launches[index]!++ * numbersPerLaunch,
    } as const;
    worker.postMessage(message satisfies ToWorker);
    return listening.promise;
  }

  async #crashed(index: number, why: string, livedMs: number): Promise<void> {
    this.#workers[index] = null;
    for (const asked of this.#stats[index]!.splice(0)) asked.resolve(null);
    if (this.#stopping) {
      logLine(`worker ${index + 1} crashed: ${why}`);
      return this.#gone(index);
    }
    logLine(`worker ${index + 1} crashed: ${why}; starting another`);
    if (livedMs < minLifeMs) await new Promise((resolve) => setTimeout(resolve, minLifeMs));
    if (this.#stopping) return this.#gone(index);
    await this.#launch(index).then(
      () => logLine(`worker ${index + 1} restarted`),
      () => {}, // its own crash has said so, and starts yet another
    );
  }

  #gone(index: number): void {
    this.#workers[index] = null;
    if (++this.#drainedCount === this.#workers.length) this.#finished.resolve(this.#report);
  }
}

function added<T>(a: T, b: T): T {
  if (typeof a === "number") return (a + (b as number)) as T;
  return Object.fromEntries(
    Object.entries(a as Record<string, unknown>).map(([key, value]) =>
      [key, added(value, (b as Record<string, unknown>)[key])] as const
    ),
  ) as T;
}
