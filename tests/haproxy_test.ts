// A server behind the real HAProxy: what it sends in front of a connection, and what it does to its end.

import { assertEquals } from "@std/assert";
import { connect } from "../mod.ts";
import { Acceptor } from "../transport/acceptor.ts";
import { ServerEvents } from "./support/events.ts";
import { serve } from "./support/doors.ts";
import { idOf, RawPeer, submitFrame } from "./support/peer.ts";
import { turn } from "./support/turn.ts";
import { until, within } from "./support/wait.ts";

const installed = isInstalled();
/** Where tests are run by a machine, HAProxy must be there: a test that is never run proves nothing. */
const ignore = !installed && !Deno.env.get("CI");
const why = ignore ? " (ignored: haproxy is not installed)" : "";

function isInstalled(): boolean {
  try {
    return new Deno.Command("haproxy", { args: ["-v"], stdout: "null", stderr: "null" }).outputSync().success;
  } catch {
    return false;
  }
}

/** HAProxy in front of a server on this machine, with a port for each way to speak to it. */
class HaProxy implements AsyncDisposable {
  readonly #child: Deno.ChildProcess;
  readonly #directory: string;
  readonly port: number;

  private constructor(child: Deno.ChildProcess, directory: string, port: number) {
    this.#child = child;
    this.#directory = directory;
    this.port = port;
  }

  /** Starts it; resolves when it can be connected to. `server` is what it is told of the server. */
  static async start(upstream: number, server: string): Promise<HaProxy> {
    const directory = await Deno.makeTempDir(), file = `${directory}/haproxy.cfg`;
    // HAProxy cannot tell which port it took, so it is given one that was free.
    const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 }), { port } = listener.addr;
    listener.close();
    await Deno.writeTextFile(
      file,
      `
global
  maxconn 100
defaults
  mode tcp
  timeout connect 5s
  timeout client 20s
  timeout server 20s
listen front
  bind 127.0.0.1:${port}
  server framewire 127.0.0.1:${upstream} ${server}
`,
    );
    const child = new Deno.Command("haproxy", {
      args: ["-db", "-f", file],
      stdin: "null",
      stdout: "null",
      stderr: "null",
    }).spawn();
    const haproxy = new HaProxy(child, directory, port);
    try {
      await within(haproxy.#listening(), "HAProxy listens");
    } catch (error) {
      await haproxy[Symbol.asyncDispose]();
      throw error;
    }
    return haproxy;
  }

  async #listening(): Promise<void> {
    for (;;) {
      try {
        return (await Deno.connect({ hostname: "127.0.0.1", port: this.port })).close();
      } catch {
        await turn(5);
      }
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#child.kill("SIGKILL");
    await this.#child.status;
    await Deno.remove(this.#directory, { recursive: true });
  }
}

/** A server behind a HAProxy. */
async function behind(directive: string, handler: () => Promise<void> | void = () => {}) {
  const events = new ServerEvents(), seen: Deno.Addr[] = [];
  const server = serve(
    { port: 0, poison: true, proxyFrom: ["127.0.0.0/8"], onEvent: events.record },
    (_submit, peer) => {
      seen.push(peer.remoteAddr);
      return handler();
    },
  );
  try {
    const haproxy = await HaProxy.start(server.addr.port, directive);
    return { server, haproxy, events, seen };
  } catch (error) {
    await server.shutdown();
    throw error;
  }
}

for (const directive of ["send-proxy", "send-proxy-v2", "send-proxy-v2 proxy-v2-options unique-id,crc32c"]) {
  Deno.test(
    { name: `serve({ proxyFrom }) sees the client through HAProxy's ${directive}${why}`, ignore },
    async () => {
      const { server, haproxy, events, seen } = await behind(directive);
      await using _server = server;
      await using _haproxy = haproxy;
      using peer = await RawPeer.connect(haproxy.port);
      await peer.write(submitFrame(1, "hello"));
      assertEquals((await peer.readAcks(1)).map(({ id }) => id), [idOf(1)]);
      assertEquals(seen, [peer.socket.localAddr]);
      const opened = events.items.flatMap((event) => event.type === "opened" ? [event.remoteAddr] : []);
      const { port } = peer.socket.localAddr as Deno.NetAddr;
      assertEquals(opened.filter((addr) => "port" in addr && addr.port === port).length, 1);
      assertEquals(events.types.includes("refused"), false);
    },
  );

  Deno.test(
    { name: `connect() loses no answer when it ends through HAProxy's ${directive}${why}`, ignore },
    async () => {
      const { server, haproxy } = await behind(directive, () => turn(20));
      await using _server = server;
      await using _haproxy = haproxy;
      const client = await connect({ port: haproxy.port, poison: true, reconnect: false });
      const answers = Array.from({ length: 100 }, (_, i) => client.submit(`message ${i}`));
      const ended = client.end();
      assertEquals((await within(Promise.all(answers), "the answers")).map(({ result }) => result), [
        ...Array(100).fill(0),
      ]);
      assertEquals((await within(ended, "the end")).code, "ended");
    },
  );

  Deno.test(
    { name: `serve({ proxyFrom }) serves without a pause under health checks of ${directive}${why}`, ignore },
    async () => {
      const { server, haproxy, events } = await behind(`check inter 20ms ${directive}`);
      await using _server = server;
      await using _haproxy = haproxy;
      const checks = () => server.stats().connectionsAccepted + server.stats().acceptErrors;
      await until(() => checks() > 7, "some checks");
      // A check is a connection that is reset as soon as it stands; others must not wait for that.
      const serveTen = async () => {
        for (let i = 0; i < 10; i++) {
          using peer = await RawPeer.connect(haproxy.port);
          await peer.write(submitFrame(1, "hello"));
          await peer.readAcks(1);
        }
      };
      await within(serveTen(), "ten connections are served", 2000);
      assertEquals(events.types.includes("protocol-error"), false);
    },
  );
}

Deno.test(
  { name: `serve() counts refusals when HAProxy sends a header that it was not told of${why}`, ignore },
  async () => {
    const events = new ServerEvents();
    await using server = serve(
      { port: 0, poison: true, proxyFrom: ["10.0.0.0/8"], onEvent: events.record },
      () => {},
    );
    await using haproxy = await HaProxy.start(server.addr.port, "send-proxy-v2");
    using peer = await RawPeer.connect(haproxy.port);
    await peer.write(submitFrame(1));
    assertEquals((await peer.readToEnd().catch(() => new Uint8Array(0))).length, 0);
    await events.next("refused");
    await until(() => server.stats().connectionsOpen === 0, "no connection is left");
    assertEquals([server.stats().handled, server.stats().protocolErrors], [0, 0]);
  },
);

Deno.test("Acceptor.run() does not pause when connections are gone before they are accepted", async () => {
  const socket = { remoteAddr: { transport: "tcp", hostname: "::1", port: 1 } } as Deno.TcpConn;
  const never = Promise.withResolvers<Deno.TcpConn>(), accepted = Promise.withResolvers<void>();
  let tries = 0;
  const acceptor = new Acceptor<Deno.TcpConn>({
    accept() {
      tries++;
      if (tries <= 30) return Promise.reject(new Deno.errors.NotConnected("os error 107"));
      return tries === 31 ? Promise.resolve(socket) : never.promise;
    },
    close: () => never.reject(new Deno.errors.BadResource("Listener has been closed")),
  });
  const run = acceptor.run(() => accepted.resolve(), () => {});
  try {
    await within(accepted.promise, "the connection behind them", 2000);
  } finally {
    acceptor.close();
    never.promise.catch(() => {});
    await run;
  }
});
