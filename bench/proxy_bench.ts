// What does the fault proxy cost while it does nothing? Its throughput against that of a bare two-way copy loop, in
// one run, in turns, each as a process of its own: deno run -A bench/proxy_bench.ts

import { faultProxy } from "../testkit/proxy.ts";

/** How many connections, and the bytes that are in flight on each. */
const loads = [
  { name: "1 connection, streaming", connections: 1, bytes: 1_048_576 },
  { name: "8 connections, streaming", connections: 8, bytes: 1_048_576 },
  { name: "64 connections, 64 B back and forth", connections: 64, bytes: 64 },
] as const;
const rounds = 5, roundMs = 700;
const kinds = ["bare", "proxy", "resettable"] as const;

/** Copies both ways, as one would write it by hand. */
function bareProxy(upstream: number): Deno.NetAddr {
  const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const copy = async (from: Deno.TcpConn, to: Deno.TcpConn) => {
    const buffer = new Uint8Array(65_536);
    for (let count; (count = await from.read(buffer)) !== null;) {
      for (let at = 0; at < count;) at += await to.write(buffer.subarray(at, count));
    }
    await to.closeWrite();
  };
  const accept = async () => {
    for await (const client of listener) {
      const server = await Deno.connect({ hostname: "127.0.0.1", port: upstream });
      client.setNoDelay(true);
      server.setNoDelay(true);
      Promise.all([copy(client, server), copy(server, client)]).catch(() => {}).finally(() => {
        client.close();
        server.close();
      });
    }
  };
  accept();
  return listener.addr;
}

/** Echoes, and counts nothing. */
function echoServer(): Deno.TcpListener {
  const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const echo = async (socket: Deno.TcpConn) => {
    const buffer = new Uint8Array(262_144);
    for (let count; (count = await socket.read(buffer)) !== null;) {
      for (let at = 0; at < count;) at += await socket.write(buffer.subarray(at, count));
    }
    socket.close();
  };
  const accept = async () => {
    for await (const socket of listener) {
      socket.setNoDelay(true);
      echo(socket).catch(() => {});
    }
  };
  accept();
  return listener;
}

/** Keeps `bytes` in flight on each connection; gives the bytes that came back in a second. */
async function measured(port: number, connections: number, bytes: number): Promise<number> {
  const end = performance.now() + roundMs, message = new Uint8Array(bytes);
  let total = 0;
  await Promise.all(Array.from({ length: connections }, async () => {
    using socket = await Deno.connect({ hostname: "127.0.0.1", port });
    socket.setNoDelay(true);
    const buffer = new Uint8Array(262_144);
    while (performance.now() < end) {
      const write = async () => {
        for (let at = 0; at < bytes;) at += await socket.write(message.subarray(at));
      };
      const read = async () => {
        for (let got = 0; got < bytes;) got += (await socket.read(buffer))!;
      };
      await Promise.all([write(), read()]);
      total += bytes;
    }
  }));
  return total / roundMs * 1000;
}

/** A process that proxies. */
class Candidate implements AsyncDisposable {
  readonly #child: Deno.ChildProcess;
  readonly port: Promise<number>;

  constructor(kind: string, upstream: number) {
    this.#child = new Deno.Command(Deno.execPath(), {
      args: ["run", "-A", import.meta.filename!, kind, String(upstream)],
      stdin: "piped",
      stdout: "piped",
    }).spawn();
    this.port = this.#child.stdout.values().next().then(({ value }) =>
      Number(new TextDecoder().decode(value))
    );
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#child.kill();
    await this.#child.stdin.abort().catch(() => {});
    await this.#child.status;
  }
}

function median(values: readonly number[]): number {
  return values.toSorted((a, b) => a - b)[values.length >> 1]!;
}

async function main(): Promise<void> {
  const [kind, upstream] = Deno.args,
    print = (line: string) => Deno.stdout.writeSync(new TextEncoder().encode(line));
  if (kind !== undefined) {
    const addr = kind === "bare"
      ? bareProxy(Number(upstream))
      : (await faultProxy({ upstream: { port: Number(upstream) }, resettable: kind === "resettable" })).addr;
    print(String(addr.port));
    return;
  }
  const server = echoServer();
  const candidates = kinds.map((kind) => new Candidate(kind, server.addr.port));
  for (const { name, connections, bytes } of loads) {
    const rates: number[][] = kinds.map(() => []);
    for (let round = 0; round <= rounds; round++) {
      for (const [i, candidate] of candidates.entries()) {
        const rate = await measured(await candidate.port, connections, bytes);
        // The first round warms up.
        if (round > 0) rates[i]!.push(rate);
      }
    }
    for (const [i, kind] of kinds.entries()) {
      const ratio = median(rates[i]!.map((rate, round) => rate / rates[0]![round]!));
      print(
        `${name}: ${kind.padEnd(10)} ${(median(rates[i]!) / 1e6).toFixed(1).padStart(7)} MB/s, ${
          ratio.toFixed(2)
        } of bare\n`,
      );
    }
  }
  for (const candidate of candidates) await candidate[Symbol.asyncDispose]();
  Deno.exit(0);
}

if (import.meta.main) main();
