// The PROXY protocol: its header byte by byte, the subnets that may send it, and a server behind a proxy.
// The headers are put together by hand, after the specification.

import { assertEquals, assertInstanceOf, assertRejects, assertThrows } from "@std/assert";
import { LimitError, ProxyHeaderError, type ServeOptions } from "../mod.ts";
import { looksLikeProxyHeader, type ProxiedAddr, readProxyHeader } from "../transport/proxy_header.ts";
import { SubnetSet } from "../transport/subnet.ts";
import { ScriptedSocket } from "./support/byte_socket.ts";
import { serve } from "./support/doors.ts";
import { ServerEvents } from "./support/events.ts";
import { idOf, joined, RawPeer, submitFrame } from "./support/peer.ts";
import { proxyLine, proxyVersion2 } from "./support/proxy.ts";
import { turn } from "./support/turn.ts";
import { until, within } from "./support/wait.ts";

/** Reads the header off `bytes`, in reads of at most `step`; tells what it says, and how much it took. */
async function read(bytes: Uint8Array, step: number): Promise<{ addr: ProxiedAddr; taken: number }> {
  let taken = 0;
  const socket = new ScriptedSocket((buffer) => {
    if (taken === bytes.length) return null;
    const count = Math.min(step, buffer.length, bytes.length - taken);
    buffer.set(bytes.subarray(taken, taken + count));
    taken += count;
    return count;
  }, () => 0);
  return { addr: await within(readProxyHeader(socket), "the header"), taken };
}

const tcp = (hostname: string, port: number) => ({ transport: "tcp" as const, hostname, port });
const ipv6 = (...groups: number[]) => groups.flatMap((group) => [group >> 8, group & 255]);
const ports = [0xdc, 0x04, 0x01, 0xbb]; // 56324 and 443
const ipv4Addresses = [192, 0, 2, 7, 10, 0, 0, 1, ...ports];
const anyIpv6 = ipv6(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
const unixPath = (text: string) => [...new TextEncoder().encode(text), ...Array(108 - text.length).fill(0)];
const longest = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";

const wellFormed: Record<string, [header: Uint8Array, says: ProxiedAddr]> = {
  "a line of TCP4": [proxyLine("TCP4 192.0.2.7 10.0.0.1 56324 443"), tcp("192.0.2.7", 56324)],
  "a line of TCP4 with the highest numbers": [
    proxyLine("TCP4 255.255.255.255 255.255.255.255 65535 65535"),
    tcp("255.255.255.255", 65535),
  ],
  "a line of TCP4 with port 0": [proxyLine("TCP4 0.0.0.0 0.0.0.0 0 0"), tcp("0.0.0.0", 0)],
  "a line of TCP6": [proxyLine("TCP6 2001:db8::1 ::1 56324 443"), tcp("2001:db8::1", 56324)],
  "a line of TCP6 in full": [proxyLine(`TCP6 ${longest} ${longest} 65535 65535`), tcp(longest, 65535)],
  "a line of UNKNOWN alone": [proxyLine("UNKNOWN"), null],
  "the longest line, of 107 bytes": [proxyLine(`UNKNOWN ${longest} ${longest} 65535 65535`), null],
  "version 2 with IPv4": [proxyVersion2(0x11, ipv4Addresses), tcp("192.0.2.7", 56324)],
  "version 2 with IPv6": [
    proxyVersion2(0x21, [...anyIpv6, ...anyIpv6, ...ports]),
    tcp("2001:db8::1", 56324),
  ],
  "version 2 with the IPv6 address of zeros": [
    proxyVersion2(0x21, [...Array(32).fill(0), ...ports]),
    tcp("::", 56324),
  ],
  "version 2 with two runs of zeros of one length": [
    proxyVersion2(0x21, [...ipv6(0x2001, 0, 0, 1, 0, 0, 1, 1), ...anyIpv6, ...ports]),
    tcp("2001::1:0:0:1:1", 56324),
  ],
  "version 2 with a single group of zeros": [
    proxyVersion2(0x21, [...ipv6(1, 0, 3, 4, 5, 6, 7, 8), ...anyIpv6, ...ports]),
    tcp("1:0:3:4:5:6:7:8", 56324),
  ],
  "version 2 with IPv4 and TLVs behind it": [
    proxyVersion2(0x11, [...ipv4Addresses, 0x01, 0, 2, 0x68, 0x32, 0x04, 0, 3, 0, 0, 0]),
    tcp("192.0.2.7", 56324),
  ],
  "version 2 with UNIX": [
    proxyVersion2(0x31, [...unixPath("/run/a.sock"), ...unixPath("/run/b.sock")]),
    { transport: "unix", path: "/run/a.sock" },
  ],
  "version 2 with a UNIX path of all 108 bytes": [
    proxyVersion2(0x31, [...unixPath("x".repeat(108)), ...unixPath("/run/b.sock")]),
    { transport: "unix", path: "x".repeat(108) },
  ],
  "version 2 with LOCAL and nothing else": [proxyVersion2(0x00, [], 0x20), null],
  "version 2 with LOCAL and addresses": [proxyVersion2(0x11, ipv4Addresses, 0x20), null],
  "version 2 with UNSPEC": [proxyVersion2(0x00, [1, 2, 3]), null],
  "version 2 with the most bytes that are taken": [
    proxyVersion2(0x11, [...ipv4Addresses, 0x04, 0x0f, 0xf1, ...Array(4096 - 12 - 3).fill(7)]),
    tcp("192.0.2.7", 56324),
  ],
};

for (const [what, [header, says]] of Object.entries(wellFormed)) {
  for (const step of [Infinity, 1, 5]) {
    const how = step === Infinity ? "at once" : `${step} bytes at a time`;
    Deno.test(`readProxyHeader() takes ${what} and no byte more, read ${how}`, async () => {
      const behind = new TextEncoder().encode("\r\nPROXY behind\r\n");
      assertEquals(await read(joined(header, behind), step), { addr: says, taken: header.length });
    });
  }
}

Deno.test("the longest line that is tested is the longest there is", () => {
  assertEquals(wellFormed["the longest line, of 107 bytes"]![0].length, 107);
});

const malformed: Record<string, Uint8Array> = {
  "what is no header": new TextEncoder().encode("GET / HTTP/1.1\r\n"),
  "frames": joined(submitFrame(1, "hello"), submitFrame(2)),
  "a line in lower case": new TextEncoder().encode("proxy TCP4 1.2.3.4 1.2.3.4 1 1\r\n"),
  "a line of a family that is not known": proxyLine("TCP5 1.2.3.4 1.2.3.4 1 1"),
  "a line without addresses": proxyLine("TCP4"),
  "a line without a second port": proxyLine("TCP4 1.2.3.4 1.2.3.4 1"),
  "a line with a word too many": proxyLine("TCP4 1.2.3.4 1.2.3.4 1 1 1"),
  "a line with two blanks": proxyLine("TCP4  1.2.3.4 1.2.3.4 1 1"),
  "a line with a name for an address": proxyLine("TCP4 localhost 1.2.3.4 1 1"),
  "a line with a byte of 256": proxyLine("TCP4 1.2.3.256 1.2.3.4 1 1"),
  "a line of TCP4 with IPv6": proxyLine("TCP4 ::1 ::1 1 1"),
  "a line of TCP6 with IPv4": proxyLine("TCP6 1.2.3.4 1.2.3.4 1 1"),
  "a line with a port above 65535": proxyLine("TCP4 1.2.3.4 1.2.3.4 65536 1"),
  "a line with the server's port above 65535": proxyLine("TCP4 1.2.3.4 1.2.3.4 1 65536"),
  "a line with a negative port": proxyLine("TCP4 1.2.3.4 1.2.3.4 -1 1"),
  "a line that ends in LF alone": new TextEncoder().encode("PROXY TCP4 1.2.3.4 1.2.3.4 1 1\nxx\r\n"),
  "a line of 108 bytes": proxyLine(`UNKNOWN ${"x".repeat(108 - 16)}`),
  "a line that does not end": new TextEncoder().encode(`PROXY UNKNOWN ${"x".repeat(1000)}`),
  "version 1 in version 2's signature": proxyVersion2(0x11, ipv4Addresses, 0x11),
  "version 3 in version 2's signature": proxyVersion2(0x11, ipv4Addresses, 0x31),
  "version 2 with a command that is not known": proxyVersion2(0x11, ipv4Addresses, 0x22),
  "version 2 with a family that is not known": proxyVersion2(0x41, ipv4Addresses),
  "version 2 with IPv4 in 11 bytes": proxyVersion2(0x11, ipv4Addresses.slice(1)),
  "version 2 with IPv6 in the bytes of IPv4": proxyVersion2(0x21, ipv4Addresses),
  "version 2 with UNIX in 215 bytes": proxyVersion2(0x31, Array(215).fill(65)),
  "version 2 with more bytes than are taken": proxyVersion2(0x11, [
    ...ipv4Addresses,
    ...Array(4097 - 12).fill(0),
  ]),
  "a signature that is wrong in its last byte": joined(
    proxyVersion2(0x11, ipv4Addresses).with(11, 0x0b),
    new Uint8Array(100),
  ),
};

for (const [what, header] of Object.entries(malformed)) {
  Deno.test(`readProxyHeader() refuses ${what}, at once and byte by byte`, async () => {
    for (const step of [Infinity, 1]) await assertRejects(() => read(header, step), ProxyHeaderError);
  });
}

for (const [what, [header]] of Object.entries(wellFormed).filter(([what]) => !what.includes("most bytes"))) {
  Deno.test(`readProxyHeader() refuses ${what} when it is cut short, wherever`, async () => {
    for (let length = 0; length < header.length; length++) {
      await assertRejects(() => read(header.subarray(0, length), Infinity), ProxyHeaderError);
    }
  });
}

Deno.test("readProxyHeader() takes no more than the longest line of a line that does not end", async () => {
  let taken = 0;
  const endless = new TextEncoder().encode(`PROXY UNKNOWN ${"x".repeat(1000)}`);
  const socket = new ScriptedSocket((buffer) => {
    buffer.set(endless.subarray(taken, taken + buffer.length));
    taken += buffer.length;
    return buffer.length;
  }, () => 0);
  await assertRejects(() => within(readProxyHeader(socket), "the header"), ProxyHeaderError);
  assertEquals(taken, 107);
});

Deno.test("looksLikeProxyHeader() tells a header by whatever front of it there is, and nothing else", () => {
  for (const header of [proxyLine("UNKNOWN"), proxyVersion2(0x11, ipv4Addresses)]) {
    for (let length = 1; length <= header.length; length++) {
      assertEquals(looksLikeProxyHeader(header.subarray(0, length)), true, `${length} bytes`);
    }
  }
  assertEquals(looksLikeProxyHeader(new Uint8Array(0)), false);
  assertEquals(looksLikeProxyHeader(submitFrame(1)), false);
  assertEquals(looksLikeProxyHeader(new TextEncoder().encode("PROXIES")), false);
});

const members: [subnet: string, inside: string[], outside: string[]][] = [
  ["10.1.2.3", ["10.1.2.3", "::ffff:10.1.2.3", "::ffff:a01:203"], ["10.1.2.2", "::10.1.2.3", "::1"]],
  ["10.1.2.3/32", ["10.1.2.3", "::ffff:10.1.2.3"], ["10.1.2.2", "10.1.2.4"]],
  ["10.1.2.2/31", ["10.1.2.2", "10.1.2.3"], ["10.1.2.1", "10.1.2.4"]],
  ["10.0.0.0/8", ["10.0.0.0", "10.255.255.255", "::ffff:10.9.9.9"], ["9.255.255.255", "11.0.0.0", "a00::"]],
  ["10.1.2.3/8", ["10.200.0.1"], ["11.1.2.3"]],
  ["172.16.0.0/12", ["172.16.0.0", "172.31.255.255"], ["172.15.255.255", "172.32.0.0"]],
  ["128.0.0.0/1", ["128.0.0.0", "255.255.255.255"], ["127.255.255.255", "8000::"]],
  ["0.0.0.0/0", ["0.0.0.0", "255.255.255.255", "::ffff:1.2.3.4"], ["::1", "::1.2.3.4"]],
  ["::/0", ["::", longest, "1.2.3.4"], ["", "localhost"]],
  ["::1", ["::1", "0:0:0:0:0:0:0:1", "0000::0001"], ["::2", "127.0.0.1"]],
  ["::1/128", ["::1"], ["::", "::2"]],
  ["2001:db8::2/127", ["2001:db8::2", "2001:db8::3"], ["2001:db8::1", "2001:db8::4"]],
  ["2001:DB8::/32", ["2001:db8::", "2001:db8:ffff::1"], ["2001:db7::", "2001:db9::"]],
  ["::ffff:10.0.0.0/104", ["10.1.2.3", "::ffff:10.1.2.3"], ["11.0.0.0"]],
  ["fe80::/10", ["fe80::1", "febf::1"], ["fe7f::1", "fec0::1"]],
];

for (const [subnet, inside, outside] of members) {
  Deno.test(`SubnetSet of ${subnet} has what lies in it and nothing else`, () => {
    const set = new SubnetSet([subnet]);
    for (const address of inside) assertEquals(set.has(address), true, address);
    for (const address of outside) assertEquals(set.has(address), false, address);
  });
}

Deno.test("SubnetSet has what lies in any of its subnets, and nothing when it is empty", () => {
  const set = new SubnetSet(["10.0.0.0/8", "::1"]);
  assertEquals(["10.1.1.1", "::1", "::2"].map((address) => set.has(address)), [true, true, false]);
  assertEquals(new SubnetSet([]).has("::1"), false);
});

Deno.test("SubnetSet refuses what is no address, by the option's name", () => {
  const bad = [
    "",
    "localhost",
    "10.0.0",
    "10.0.0.256",
    "10.0.0.0/33",
    "10.0.0.0/-1",
    "10.0.0.0/",
    "10.0.0.0/8/8",
    "10.0.0.0/0x8",
    "10.0.0.0/1e1",
    "10.0.0.0 ",
    "/8",
    "::1/129",
    ":1",
    "1:",
    ":::",
    "1::2::3",
    "1:2:3:4:5:6:7",
    "1:2:3:4:5:6:7:8:9",
    "1:2:3:4:5:6:7::8",
    "12345::",
    "g::",
    "::1.2.3",
    "[::1]",
  ];
  for (const subnet of bad) {
    assertThrows(() => new SubnetSet(["10.0.0.0/8", subnet]), RangeError, "proxyFrom", subnet);
  }
});

// The server.

/** A server behind a proxy that says who submits. */
function proxied(options: ServeOptions = {}) {
  const events = new ServerEvents(), peers: Deno.Addr[] = [];
  const server = serve(
    { port: 0, poison: true, proxyFrom: ["127.0.0.1"], onEvent: events.record, ...options },
    (_submit, peer) => void peers.push(peer.remoteAddr),
  );
  return { server, events, peers, port: server.addr.port };
}

const headers: Record<string, Uint8Array> = {
  "a line": proxyLine("TCP4 192.0.2.7 10.0.0.1 56324 443"),
  "version 2": proxyVersion2(0x11, ipv4Addresses),
};

for (const [what, header] of Object.entries(headers)) {
  Deno.test(`serve({ proxyFrom }) shows whom ${what} names when frames follow in its chunk`, async () => {
    const { server, events, peers, port } = proxied();
    await using _ = server;
    using peer = await RawPeer.connect(port);
    await peer.write(joined(header, submitFrame(1, "a"), submitFrame(2, "b")));
    await peer.closeWrite();
    assertEquals((await peer.readAcksToEnd()).map(({ id }) => id), [idOf(1), idOf(2)]);
    assertEquals(peers, [tcp("192.0.2.7", 56324), tcp("192.0.2.7", 56324)]);
    assertEquals((await events.next("opened")).remoteAddr, tcp("192.0.2.7", 56324));
    const reason = await events.closed();
    assertEquals([reason.code, reason.bytesRead], ["ended", 28]);
  });

  Deno.test(`serve({ proxyFrom }) shows whom ${what} names when each byte comes alone`, async () => {
    const { server, peers, port } = proxied();
    await using _ = server;
    using peer = await RawPeer.connect(port);
    for (const byte of joined(header, submitFrame(1, "a"))) await peer.write(new Uint8Array([byte]));
    assertEquals((await peer.readAcks(1)).map(({ id }) => id), [idOf(1)]);
    assertEquals(peers, [tcp("192.0.2.7", 56324)]);
  });
}

Deno.test("serve({ proxyFrom }) shows the proxy itself when it speaks for nobody", async () => {
  const { server, peers, port } = proxied();
  await using _ = server;
  for (const header of [proxyLine("UNKNOWN"), proxyVersion2(0, [], 0x20)]) {
    using peer = await RawPeer.connect(port);
    await peer.write(joined(header, submitFrame(1)));
    await peer.readAcks(1);
    assertEquals(peers.pop(), peer.socket.localAddr);
  }
});

Deno.test("serve({ proxyFrom }) shows a Unix socket's path when the header names one", async () => {
  const { server, peers, port } = proxied();
  await using _ = server;
  using peer = await RawPeer.connect(port);
  const header = proxyVersion2(0x31, [...unixPath("/run/a.sock"), ...unixPath("/run/b.sock")]);
  await peer.write(joined(header, submitFrame(1)));
  await peer.readAcks(1);
  assertEquals(peers, [{ transport: "unix", path: "/run/a.sock" }]);
});

Deno.test("serve({ proxyFrom }) refuses a trusted proxy without a header, and nobody else", async () => {
  const { server, events, peers, port } = proxied();
  await using _ = server;
  using good = await RawPeer.connect(port);
  await good.write(headers["a line"]!, submitFrame(1));
  await good.readAcks(1);
  using bad = await RawPeer.connect(port);
  const from = bad.socket.localAddr;
  await bad.write(submitFrame(1, "no header"));
  // The close may be a reset where bytes were not read.
  await bad.readToEnd().catch(() => {});
  const refused = await events.next("refused");
  assertInstanceOf(refused.error, ProxyHeaderError);
  assertEquals(refused.remoteAddr, from);
  await good.write(submitFrame(2));
  await good.readAcks(1);
  const { connectionsRefused, connectionsAccepted, connectionsOpen, protocolErrors } = server.stats();
  assertEquals({ connectionsRefused, connectionsAccepted, connectionsOpen, protocolErrors }, {
    connectionsRefused: 1,
    connectionsAccepted: 2,
    connectionsOpen: 1,
    protocolErrors: 0,
  });
  assertEquals(peers.length, 2);
});

Deno.test("serve({ proxyFrom }) refuses a connection that ends inside its header", async () => {
  const { server, events, port } = proxied();
  await using _ = server;
  using peer = await RawPeer.connect(port);
  await peer.write(headers["a line"]!.subarray(0, 20));
  await peer.closeWrite();
  assertEquals(await peer.readToEnd(), new Uint8Array(0));
  assertInstanceOf((await events.next("refused")).error, ProxyHeaderError);
  assertEquals(events.types.includes("opened"), false);
});

for (const [what, header] of Object.entries(headers)) {
  Deno.test(`serve({ proxyFrom }) refuses ${what} when it comes from anyone else`, async () => {
    const { server, events, peers, port } = proxied({ proxyFrom: ["10.0.0.0/8"] });
    await using _ = server;
    using peer = await RawPeer.connect(port);
    await peer.write(joined(header, submitFrame(1)));
    await peer.readToEnd().catch(() => {});
    assertInstanceOf((await events.next("refused")).error, ProxyHeaderError);
    const { connectionsRefused, connectionsOpen } = server.stats();
    assertEquals([connectionsRefused, connectionsOpen, peers], [1, 0, []]);
  });

  Deno.test(`serve({ proxyFrom }) refuses ${what} when it comes from anyone else byte by byte`, async () => {
    const { server, events, port } = proxied({ proxyFrom: ["10.0.0.0/8"] });
    await using _ = server;
    using peer = await RawPeer.connect(port);
    const ended = () => events.types.some((type) => type === "refused" || type === "closed");
    const dripped = (async () => {
      for (let at = 0; at < header.length; at++) {
        await peer.write(header.subarray(at, at + 1));
        await turn(2); // so that each byte is a read of its own
      }
    })();
    await dripped.catch(() => {}); // it may be cut before its end
    await until(ended, "the end of the connection");
    assertEquals(events.types.filter((type) => type === "refused" || type === "protocol-error"), ["refused"]);
    assertEquals(server.stats().connectionsRefused, 1);
  });
}

Deno.test("serve({ proxyFrom }) serves anyone else without a header, split anywhere", async () => {
  const { server, peers, port } = proxied({ proxyFrom: ["10.0.0.0/8"] });
  await using _ = server;
  using peer = await RawPeer.connect(port);
  for (const byte of submitFrame(1, "abc")) await peer.write(new Uint8Array([byte]));
  await peer.readAcks(1);
  assertEquals(peers, [peer.socket.localAddr]);
});

Deno.test("serve({ proxyFrom }) cuts a proxy that stalls in its header at handshakeTimeoutMs", async () => {
  const { server, events, port } = proxied({ handshakeTimeoutMs: 100 });
  await using _ = server;
  using stalled = await RawPeer.connect(port);
  await stalled.write(headers["a line"]!.subarray(0, 20));
  using good = await RawPeer.connect(port);
  await good.write(headers["a line"]!, submitFrame(1));
  await good.readAcks(1); // nobody waits for the one that stalls
  await stalled.readToEnd().catch(() => {});
  const { error } = await events.next("refused");
  assertInstanceOf(error, LimitError);
  assertEquals([error.limit, error.value], ["handshakeTimeoutMs", 100]);
  assertEquals(server.stats().limits.handshakeTimeoutMs, 1);
  await good.write(submitFrame(2));
  await good.readAcks(1); // the limit is over for the one that is ready
});

Deno.test("Server.shutdown() does not wait for a header that does not come", async () => {
  const { server, events, port } = proxied();
  using peer = await RawPeer.connect(port);
  await peer.write(headers["a line"]!.subarray(0, 20));
  await until(() => server.stats().connectionsAccepted === 1, "the connection is accepted");
  await within(server.shutdown(), "the end of the server", 3000);
  assertEquals(events.types.includes("opened"), false);
});

Deno.test("serve() throws TypeError when proxyFrom and cert are on one listener", () => {
  assertThrows(
    () => serve({ port: 0, proxyFrom: ["127.0.0.1"], cert: "x", key: "y" }, () => {}),
    TypeError,
    "proxyFrom",
  );
});

Deno.test("serve() throws RangeError when proxyFrom holds no address", () => {
  assertThrows(() => serve({ port: 0, proxyFrom: ["proxy.example"] }, () => {}), RangeError, "proxyFrom");
});

Deno.test("serve({ maxConnectionsPerAddress }) counts the addresses that proxies speak for", async () => {
  const { server, events, port } = proxied({ maxConnectionsPerAddress: 1 });
  await using _ = server;
  const from = async (address: string) => {
    const peer = await RawPeer.connect(port);
    await peer.write(proxyLine(`TCP4 ${address} 10.0.0.1 1 1`), submitFrame(1));
    return peer;
  };
  using first = await from("192.0.2.1");
  await first.readAcks(1);
  using other = await from("192.0.2.2");
  await other.readAcks(1);
  using second = await from("192.0.2.1");
  await second.readToEnd().catch(() => {});
  const { error } = await events.next("refused");
  assertInstanceOf(error, LimitError);
  assertEquals(error.limit, "maxConnectionsPerAddress");
  await first.closeWrite();
  await first.readToEnd();
  await events.closed(1);
  using third = await from("192.0.2.1");
  await third.readAcks(1);
});
