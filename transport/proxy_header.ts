// Who is behind the proxy? The PROXY protocol, versions 1 and 2, read off the front of a connection.
// https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt

import type { ByteSocket } from "./duplex.ts";
import { bytesOf } from "./subnet.ts";

/** The front of a connection is no PROXY header. */
export class ProxyHeaderError extends Error {
  /** Names the class, also in a minified program. */
  override readonly name = "ProxyHeaderError";
}

/** Whom the proxy speaks for; null where it speaks for itself (its health check, say). */
export type ProxiedAddr = Deno.NetAddr | Deno.UnixAddr | null;

/** Version 1: a line of at most 107 characters, CR LF included (section 2.1). */
const maxLineLength = 107;
/** Version 2: what follows the fixed 16 bytes; addresses take 216 at most, the rest is TLVs. */
const maxVersion2Length = 4096;
const signature = [0x0d, 0x0a, 0x0d, 0x0a, 0x00, 0x0d, 0x0a, 0x51, 0x55, 0x49, 0x54, 0x0a];
const version1 = new TextEncoder().encode("PROXY ");

/** Whether the bytes, as far as they go, are the front of a PROXY header. At least one is needed. */
export function looksLikeProxyHeader(bytes: Uint8Array): boolean {
  return bytes.length > 0 && (isFront(bytes, version1) || isFront(bytes, signature));
}

/**
 * Reads the header off a socket, and no byte beyond it.
 *
 * @throws {ProxyHeaderError} If there is none, or it is malformed, or cut short.
 */
export async function readProxyHeader(socket: ByteSocket): Promise<ProxiedAddr> {
  // Neither version is shorter than this, and both can be told by it.
  const front = await readExactly(socket, signature.length);
  if (isFront(front, signature)) return await readVersion2(socket);
  if (isFront(front.subarray(0, version1.length), version1)) return await readVersion1(socket, front);
  throw new ProxyHeaderError("Cannot read PROXY header: the connection does not begin with one");
}

async function readVersion1(socket: ByteSocket, front: Uint8Array): Promise<ProxiedAddr> {
  let line = String.fromCharCode(...front);
  while (!line.endsWith("\r\n")) {
    if (line.length === maxLineLength) {
      throw new ProxyHeaderError(`Cannot read PROXY header: its line is longer than ${maxLineLength} bytes`);
    }
    // One at a time: what follows the line is not ours to take.
    line += String.fromCharCode(...await readExactly(socket, 1));
  }
  if (/^PROXY UNKNOWN(?: .*)?\r\n$/.test(line)) return null;
  const [, family, source, destination, sourcePort, destinationPort] =
    /^PROXY (TCP4|TCP6) (\S+) (\S+) (\d{1,5}) (\d{1,5})\r\n$/.exec(line) ?? [];
  const port = Number(sourcePort);
  const isAddress = (text: string) => bytesOf(text) !== null && text.includes(":") === (family === "TCP6");
  if (
    !family || !isAddress(source!) || !isAddress(destination!) || port > 65_535 ||
    Number(destinationPort) > 65_535
  ) {
    throw new ProxyHeaderError(`Cannot read PROXY header: its line is malformed: ${JSON.stringify(line)}`);
  }
  return { transport: "tcp", hostname: source!, port };
}

async function readVersion2(socket: ByteSocket): Promise<ProxiedAddr> {
  const fixed = await readExactly(socket, 4), length = fixed[2]! * 256 + fixed[3]!;
  const version = fixed[0]! >> 4, command = fixed[0]! & 15;
  if (version !== 2 || command > 1) {
    throw new ProxyHeaderError(
      `Cannot read PROXY header: version ${version}, command ${command} is not known`,
    );
  }
  if (length > maxVersion2Length) {
    throw new ProxyHeaderError(`Cannot read PROXY header: its length ${length} exceeds ${maxVersion2Length}`);
  }
  const rest = await readExactly(socket, length), view = new DataView(rest.buffer);
  if (command === 0) return null; // LOCAL: the proxy's own connection
  const family = fixed[1]! >> 4;
  const needed = [0, 12, 36, 216][family];
  if (needed === undefined || length < needed) {
    throw new ProxyHeaderError(
      `Cannot read PROXY header: ${length} bytes are no address of family ${family}`,
    );
  }
  switch (family) {
    case 1:
      return { transport: "tcp", hostname: rest.subarray(0, 4).join("."), port: view.getUint16(8) };
    case 2: {
      const groups = Array.from({ length: 8 }, (_, i) => view.getUint16(2 * i).toString(16));
      return { transport: "tcp", hostname: shortIpv6(groups), port: view.getUint16(32) };
    }
    case 3: {
      const path = rest.subarray(0, 108), end = path.indexOf(0);
      return { transport: "unix", path: new TextDecoder().decode(path.subarray(0, end === -1 ? 108 : end)) };
    }
    default:
      return null;
  }
}

async function readExactly(socket: ByteSocket, length: number): Promise<Uint8Array> {
  const bytes = new Uint8Array(length);
  for (let at = 0; at < length;) {
    const count = await socket.read(bytes.subarray(at));
    if (count === null) {
      throw new ProxyHeaderError("Cannot read PROXY header: the connection ended inside it");
    }
    at += count;
  }
  return bytes;
}

function isFront(bytes: Uint8Array, of: ArrayLike<number>): boolean {
  const length = Math.min(bytes.length, of.length);
  for (let i = 0; i < length; i++) if (bytes[i] !== of[i]) return false;
  return true;
}

/** Eight groups in the short form of RFC 5952: the longest run of zeros, of two at least, as "::". */
function shortIpv6(groups: string[]): string {
  let start = 0, length = 1;
  for (let i = 0; i < 8; i++) {
    let run = 0;
    while (i + run < 8 && groups[i + run] === "0") run++;
    if (run > length) [start, length] = [i, run];
  }
  if (length < 2) return groups.join(":");
  return `${groups.slice(0, start).join(":")}::${groups.slice(start + length).join(":")}`;
}
