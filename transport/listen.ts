// Where does a server listen, and what comes before a connection's first frame: TLS, the PROXY protocol, or nothing?

import { after } from "./deadline.ts";
import type { ByteSocket } from "./duplex.ts";
import { inRange, LimitError } from "./limit.ts";
import { looksLikeProxyHeader, ProxyHeaderError, readProxyHeader } from "./proxy_header.ts";
import { SubnetSet } from "./subnet.ts";

/** One place to listen: TCP, TLS where there is a certificate, or a Unix socket where there is a path. */
export interface ListenAddress {
  /** The address to listen on. @default {"127.0.0.1"} */
  hostname?: string;
  /** The port to listen on; 0 takes a free one. @default {8888} */
  port?: number;
  /** A Unix socket to listen on in place of a port; on Linux, a leading NUL makes it an abstract one. */
  path?: string;
  /** The certificate chain, in PEM: TLS. */
  cert?: string;
  /** The certificate's key, in PEM. */
  key?: string;
  /** The protocols that TLS may agree on, the preferred one first. */
  alpnProtocols?: string[];
  /**
   * Addresses and subnets of proxies that must begin each connection with a PROXY header, version 1 or 2. A
   * connection from anywhere else that begins with one is refused.
   */
  proxyFrom?: readonly string[];
  /** Lets several processes or Workers listen on one port; needs `--unstable-net`. @default {false} */
  reusePort?: boolean;
  /** Connections that the kernel queues before they are accepted. @default {511} */
  tcpBacklog?: number;
}

/** Any socket that a listener accepts. */
export type Socket = Deno.Conn & ByteSocket;

/** A listener, and how its connections are made ready. */
export interface Endpoint {
  readonly listener: Deno.Listener;
  /** Whether {@linkcode Endpoint.ready} has anything to wait for. */
  readonly plain: boolean;
  /** Waits until the connection's first frame may come, and says where its peer is. */
  ready(socket: Socket): Promise<Ready>;
}

/** A connection whose first frame may come. */
export interface Ready {
  readonly remoteAddr: Deno.Addr;
  /** What to read from in place of the socket, where its front was looked at. */
  readonly socket: ByteSocket;
}

/**
 * Starts to listen.
 *
 * @throws {TypeError} If the options contradict one another.
 */
export function listen(options: ListenAddress, handshakeTimeoutMs: number): Endpoint {
  const {
    hostname = "127.0.0.1",
    port = 8888,
    path,
    cert,
    key,
    alpnProtocols,
    proxyFrom,
    reusePort,
    tcpBacklog,
  } = options;
  inRange("port", port, 0, 65_535);
  if ((cert === undefined) !== (key === undefined)) {
    throw new TypeError("cert and its key must be given together");
  }
  if (cert !== undefined && proxyFrom !== undefined) {
    throw new TypeError(
      "proxyFrom and cert cannot be on one listener: with PROXY, it is the proxy that ends TLS",
    );
  }
  if (path !== undefined && (cert !== undefined || proxyFrom !== undefined || reusePort)) {
    throw new TypeError("path goes with neither cert, proxyFrom nor reusePort");
  }
  if (reusePort && !("listenDatagram" in Deno)) {
    // Deno ends the process, uncatchably, where this is asked for without the flag.
    throw new TypeError('reusePort needs --unstable-net, or "unstable": ["net"] in deno.json');
  }
  const trusted = proxyFrom && new SubnetSet(proxyFrom);
  const tcp = { hostname, port, ...(reusePort ? { reusePort } : {}), ...(tcpBacklog ? { tcpBacklog } : {}) };
  const listener: Deno.Listener = path !== undefined
    ? Deno.listen({ transport: "unix", path })
    : cert !== undefined
    ? Deno.listenTls({ ...tcp, cert, key: key!, ...(alpnProtocols ? { alpnProtocols } : {}) })
    : Deno.listen(tcp);
  const ready = async (socket: Socket): Promise<Ready> => {
    if (cert !== undefined) await (socket as Deno.TlsConn).handshake();
    const { remoteAddr } = socket;
    if (trusted === undefined) return { remoteAddr, socket };
    const hostname = "hostname" in remoteAddr ? remoteAddr.hostname : "";
    if (!trusted.has(hostname)) return { remoteAddr, socket: withoutHeader(socket) };
    return { remoteAddr: await readProxyHeader(socket) ?? remoteAddr, socket };
  };
  return {
    listener,
    plain: cert === undefined && trusted === undefined,
    async ready(socket) {
      const late = Promise.withResolvers<never>();
      using _deadline = after(handshakeTimeoutMs, () => {
        late.reject(
          new LimitError("The connection does not get ready", "handshakeTimeoutMs", handshakeTimeoutMs),
        );
      });
      return await Promise.race([ready(socket), late.promise]);
    },
  };
}

/** A socket from which a PROXY header would be a lie: the read that shows one fails. */
function withoutHeader(socket: Socket): ByteSocket {
  let known = false;
  return {
    async read(buffer) {
      // As long as what has come may become one, it is kept back: a header may come byte by byte.
      for (let have = 0;;) {
        const count = await socket.read(have > 0 ? buffer.subarray(have) : buffer);
        if (known || (count === null && have === 0)) return count;
        have += count ?? 0;
        known = count === null || !looksLikeProxyHeader(buffer.subarray(0, have));
        if (known) return have;
        if (have >= proxyHeaderFront) {
          throw new ProxyHeaderError("Refused a PROXY header: the peer is none of the trusted proxies");
        }
      }
    },
    write: (bytes) => socket.write(bytes),
    closeWrite: () => socket.closeWrite(),
    [Symbol.dispose]: () => socket[Symbol.dispose](),
  };
}

/** So much of a header is a header: "PROXY ", or as much of the binary signature. */
const proxyHeaderFront = 6;
