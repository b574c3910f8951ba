// Servers in processes of their own, driven by the load generator in another, on another core where that can be.

import type { LoadResult } from "../testkit/load.ts";

/** How the servers are started; `{port}` is where they listen. */
export const servers: Readonly<Record<string, readonly string[]>> = {
  ours: ["run", "-N", "server.ts", "--quiet", "--port", "{port}"],
  raw: ["run", "-N", "bench/servers/raw.ts", "{port}"],
  "node:net": ["run", "-N", "bench/servers/node_net.ts", "{port}"],
  textbook: ["run", "-N", "bench/servers/textbook.ts", "{port}"],
};

/** What drives them: connections, window, payload. */
export type Load = readonly [connections: number, window: number, payload: number];

/** What a load did, and what it cost the server. */
export interface Driven {
  readonly requestsPerSecond: number;
  /** Microseconds of processor time a request, and resident memory behind it; NaN where the system does not tell. */
  readonly cpuMicros: number;
  readonly residentMiB: number;
}

const root = new URL("../", import.meta.url);

/** A server that runs on the first core. */
export class Server implements AsyncDisposable {
  readonly port: number;
  readonly #child: Deno.ChildProcess;

  private constructor(child: Deno.ChildProcess, port: number) {
    this.#child = child;
    this.port = port;
  }

  /** Starts one of {@linkcode servers}, and waits until it listens. */
  static async start(name: string): Promise<Server> {
    const args = servers[name]!.map((word) => word.replace("{port}", "0"));
    const child = command(0, args).spawn(), reader = child.stdout.getReader();
    let said = "";
    for (let read; !said.includes("\n") && !(read = await reader.read()).done;) {
      said += new TextDecoder().decode(read.value);
    }
    reader.cancel();
    const port = /:(\d+)\n/.exec(said)?.[1];
    if (port === undefined) throw new Error(`${name} does not listen, but says ${JSON.stringify(said)}`);
    return new Server(child, Number(port));
  }

  /** Drives it, from the second core; fails where an answer is missing, or one too many came. */
  async drive([connections, window, payload]: Load, seconds: number, warmUpSeconds = 0.5): Promise<Driven> {
    const before = this.#cpuSeconds();
    const flags = { connections, window, payload, duration: seconds, "warm-up": warmUpSeconds };
    const { code, stdout, stderr } = await command(1, [
      ...["run", "-A", "testkit/load.ts", "--json", "--target", `127.0.0.1:${this.port}`],
      ...Object.entries(flags).flatMap(([flag, value]) => [`--${flag}`, String(value)]),
    ]).output();
    if (code !== 0) throw new Error(`the load failed: ${new TextDecoder().decode(stderr)}`);
    const result = JSON.parse(new TextDecoder().decode(stdout)) as LoadResult;
    const errors = Object.values(result.errors).reduce((sum, count) => sum + count, 0);
    if (errors + result.refused > 0) {
      throw new Error(`the load met ${errors} errors, ${result.refused} refusals`);
    }
    return {
      requestsPerSecond: result.requestsPerSecond,
      cpuMicros: (this.#cpuSeconds() - before) * 1e6 / result.answered,
      residentMiB: this.#residentMiB(),
    };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#child.kill("SIGKILL");
    await this.#child.status;
  }

  #cpuSeconds(): number {
    const stat = this.#proc("stat").split(") ")[1]?.split(" ");
    // In hundredths of a second on every Linux that there is.
    return stat === undefined ? NaN : (Number(stat[11]) + Number(stat[12])) / 100;
  }

  #residentMiB(): number {
    return Number(/VmRSS:\s+(\d+)/.exec(this.#proc("status"))?.[1] ?? NaN) / 1024;
  }

  #proc(file: string): string {
    try {
      return Deno.readTextFileSync(`/proc/${this.#child.pid}/${file}`);
    } catch {
      return "";
    }
  }
}

/** A Deno process, kept to one core where the system has `taskset`. */
function command(core: number, args: readonly string[]): Deno.Command {
  const pinned = canPin && navigator.hardwareConcurrency > 1;
  const [name, ...words] = pinned
    ? ["taskset", "-c", String(core), Deno.execPath(), ...args]
    : [Deno.execPath(), ...args];
  return new Deno.Command(name!, {
    args: words,
    cwd: root,
    env: { NO_COLOR: "1" },
    stdin: "null",
    stdout: "piped",
    stderr: "piped",
  });
}

const canPin = hasTaskset();

function hasTaskset(): boolean {
  try {
    return new Deno.Command("taskset", { args: ["-V"], stdout: "null", stderr: "null" }).outputSync().success;
  } catch {
    return false;
  }
}

/** Where and with what figures were made. */
export function machine(): Record<string, string> {
  let cpu = Deno.build.arch as string;
  try {
    cpu = /model name\s*:\s*(.+)/.exec(Deno.readTextFileSync("/proc/cpuinfo"))?.[1] ?? cpu;
  } catch {
    // Not Linux.
  }
  return {
    cpu,
    cores: String(navigator.hardwareConcurrency),
    os: `${Deno.build.os} ${Deno.osRelease()}`,
    deno: Deno.version.deno,
    v8: Deno.version.v8,
    date: new Date().toISOString().slice(0, 10),
  };
}

/** The value in the middle. */
export function median(values: readonly number[]): number {
  return values.toSorted((a, b) => a - b)[values.length >> 1] ?? NaN;
}

/** Writes a line. */
export function say(line: string): void {
  Deno.stdout.writeSync(new TextEncoder().encode(`${line}\n`));
}

/** A table in Markdown. */
export function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const line = (cells: readonly string[]) => `| ${cells.join(" | ")} |`;
  return [line(head), line(head.map(() => "---")), ...rows.map(line)].join("\n");
}
