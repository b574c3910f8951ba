// `deno run -N client.ts`, as its users run it, against a server made of raw socket calls.

import { assertEquals, assertLess, assertStringIncludes } from "@std/assert";
import { ackFrame, frameOf, idOf, joined, RawPeer, request, submitFrame } from "./support/peer.ts";
import { clientProgram, Program, serverProgram } from "./support/program.ts";
import { until, within } from "./support/wait.ts";

/** A listener, and a client program that has connected to it. */
async function meet(...args: string[]): Promise<{ client: Program; peer: RawPeer } & AsyncDisposable> {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const client = clientProgram(listener.addr.port, ...args);
  const peer = new RawPeer(await within(listener.accept(), "the client connects", 30_000));
  return {
    client,
    peer,
    async [Symbol.asyncDispose]() {
      peer[Symbol.dispose]();
      await client[Symbol.asyncDispose]();
    },
  };
}

Deno.test("client.ts submits each message, half-closes, and prints the answers in their order", async () => {
  await using met = await meet("hello", "", "w\u00f6rld");
  const { client, peer } = met;
  const sent = joined(submitFrame(1, "hello"), submitFrame(2), submitFrame(3, "w\u00f6rld"));
  assertEquals(await peer.readToEnd(), sent);
  await peer.write(ackFrame(2), ackFrame(1), ackFrame(3));
  await peer.closeWrite();
  assertEquals(await client.exit(), 0);
  assertEquals([client.stdout, client.stderr], ["00000002 0\n00000001 0\n00000003 0\n", ""]);
});

Deno.test("client.ts submits the lines of its input, whatever their ends, up to the end of it", async () => {
  await using met = await meet();
  const { client, peer } = met;
  await client.type("one\ntwo\r\n\n");
  await client.type(new Uint8Array([0xff, 0x00, 0x0a]));
  await client.type("split over ");
  await client.type("two writes\nno end");
  await client.endInput();
  const lines = ["one", "two", "", new Uint8Array([0xff, 0x00]), "split over two writes", "no end"];
  assertEquals(await peer.readToEnd(), joined(...lines.map((line, i) => submitFrame(i + 1, line))));
  await peer.write(...lines.map((_, i) => ackFrame(i + 1)));
  await peer.closeWrite();
  assertEquals(await client.exit(), 0);
  assertEquals(client.stdoutLines.length, lines.length);
});

Deno.test("client.ts prints an answer at once when lines are typed by hand", async () => {
  await using met = await meet();
  const { client, peer } = met;
  for (const serial of [1, 2, 3]) {
    await client.type("line\n");
    await peer.readExactly(submitFrame(serial, "line").length);
    await peer.write(ackFrame(serial));
    await client.says(`${idOf(serial)} 0\n`);
  }
});

Deno.test("client.ts half-closes at bye, submits nothing after it, and waits for what is due", async () => {
  await using met = await meet();
  const { client, peer } = met;
  await client.type("one\nbye\ntwo\n");
  assertEquals(await peer.readToEnd(), submitFrame(1, "one"));
  assertEquals(client.stdout, "");
  await peer.write(ackFrame(1));
  await peer.closeWrite();
  assertEquals(await client.exit(), 0);
  assertEquals(client.stdout, "00000001 0\n");
});

Deno.test("client.ts ends with status 1 when a request was refused", async () => {
  await using met = await meet("one", "two");
  const { client, peer } = met;
  await peer.readToEnd();
  await peer.write(ackFrame(1), ackFrame(2, 7));
  await peer.closeWrite();
  assertEquals(await client.exit(), 1);
  assertEquals([client.stdout, client.stderr], ["00000001 0\n00000002 7\n", "client: 1 not accepted\n"]);
});

Deno.test("client.ts says which requests got no answer, and ends with status 1", async () => {
  await using met = await meet("one", "two", "three");
  const { client, peer } = met;
  await peer.readToEnd();
  await peer.write(ackFrame(2));
  await peer.closeWrite();
  assertEquals(await client.exit(), 1);
  assertEquals(client.stdout, "00000002 0\n");
  assertStringIncludes(client.stderr, "client: 00000001 got no answer: unknown\n");
  assertStringIncludes(client.stderr, "client: 00000003 got no answer: unknown\n");
});

Deno.test("client.ts ends with status 1 when the server goes while it waits for a line", async () => {
  await using met = await meet();
  const { client, peer } = met;
  await client.type("one\n");
  await peer.readExactly(16);
  peer.socket.close();
  assertEquals(await client.exit(), 1);
  assertStringIncludes(client.stderr, "client: 00000001 got no answer: unknown\n");
});

Deno.test("client.ts --name opens a session first, and waits for it", async () => {
  await using met = await meet("--name", "gauge 7", "one");
  const { client, peer } = met;
  const conn = request(0x01, idOf(1), "gauge 7");
  assertEquals(await peer.readExactly(conn.length), conn);
  await peer.write(ackFrame(1, 0, 0x81));
  assertEquals(await peer.readToEnd(), submitFrame(2, "one"));
  await peer.write(ackFrame(2));
  await peer.closeWrite();
  assertEquals(await client.exit(), 0);
});

Deno.test("client.ts ends with status 2 when its session is refused", async () => {
  await using met = await meet("--name", "gauge 7", "one");
  const { client, peer } = met;
  await peer.readExactly(request(0x01, idOf(1), "gauge 7").length);
  await peer.write(ackFrame(1, 9, 0x81));
  assertEquals(await client.exit(), 2);
  assertStringIncludes(
    client.stderr,
    "the server refused the session with result 9; see --name and --token-file\n",
  );
});

Deno.test("client.ts --window sends no more than that before it is answered", async () => {
  await using met = await meet("--window", "2");
  const { client, peer } = met;
  await client.type("a\n".repeat(5));
  await client.endInput();
  const length = submitFrame(1, "a").length;
  await peer.readExactly(2 * length);
  await peer.write(ackFrame(1));
  await peer.readExactly(length);
  await peer.write(ackFrame(2), ackFrame(3));
  assertEquals(await peer.readToEnd(), joined(submitFrame(4, "a"), submitFrame(5, "a")));
  await peer.write(ackFrame(4), ackFrame(5));
  await peer.closeWrite();
  assertEquals(await client.exit(), 0);
});

Deno.test("client.ts --dialect legacy understands the legacy answers", async () => {
  await using met = await meet("--dialect", "legacy", "--name", "x", "one");
  const { client, peer } = met;
  await peer.readExactly(14);
  await peer.write(ackFrame(1, 0, 0x80));
  await peer.readToEnd();
  await peer.write(ackFrame(2, 0, 0x81));
  await peer.closeWrite();
  assertEquals([await client.exit(), client.stdout], [0, "00000002 0\n"]);
});

Deno.test("client.ts names the dialect of a server that speaks the other one", async () => {
  await using met = await meet("one");
  const { client, peer } = met;
  await peer.readToEnd();
  await peer.write(ackFrame(1, 0, 0x81));
  assertEquals(await client.exit(), 1);
  assertStringIncludes(client.stderr, "submit-ack in dialect legacy");
});

Deno.test("client.ts skips a line that fits no frame, says which, and submits the others", async () => {
  await using met = await meet("--max-frame-length", "20");
  const { client, peer } = met;
  await client.type(`1234567\r\n12345678\n${"x".repeat(100_000)}\n1234567\n`);
  await client.endInput();
  assertEquals(await peer.readToEnd(), joined(submitFrame(1, "1234567"), submitFrame(2, "1234567")));
  await peer.write(ackFrame(1), ackFrame(2));
  await peer.closeWrite();
  assertEquals(await client.exit(), 1);
  const says = (line: number) =>
    `client: line ${line} is longer than the 7 bytes that fit a frame, and is skipped; see --max-frame-length\n`;
  assertEquals(client.stderr, `${says(2)}${says(3)}client: 2 not sent\n`);
});

Deno.test("client.ts says what the server sent when that is no frame", async () => {
  await using met = await meet("one");
  const { client, peer } = met;
  await peer.readToEnd();
  await peer.write(frameOf(new Uint8Array(5)));
  assertEquals(await client.exit(), 1);
  assertStringIncludes(client.stderr, "its length 5 is below the 9 bytes of its fixed part");
});

for (
  const [does, args, says] of [
    ["nobody listens", ["--port", "1"], "127.0.0.1:1: nobody listens there; start the server first, or see"],
    ["the name is not found", ["--hostname", "no-such-host.invalid"], "see --hostname"],
    ["a flag is not known", ["--prot", "1"], "--prot is not known; --help shows what there is"],
    ["a value is out of range", ["--window", "0"], "--window must be an integer from 1 to 1000000, and is 0"],
  ] as const
) {
  Deno.test(`client.ts says so in one line with status 2 when ${does}`, async () => {
    await using client = new Program("client.ts", args);
    assertEquals(await client.exit(), 2);
    assertStringIncludes(client.stderr, says);
    assertEquals([client.stderr.split("\n").length, client.stdout], [2, ""]);
  });
}

Deno.test("client.ts says in one line that it lacks permission, with status 2", async () => {
  await using client = new Program("client.ts", ["x"], []);
  assertEquals(await client.exit(), 2);
  assertEquals(client.stderr, "client: cannot connect: Deno does not permit it; run it with deno run -N\n");
});

Deno.test("client.ts and server.ts take a million lines through in bounded memory", async () => {
  const { server, port } = await serverProgram("--quiet");
  await using _ = server;
  await using client = clientProgram(port);
  const peakKiB = () =>
    Number(/VmHWM:\s+(\d+)/.exec(Deno.readTextFileSync(`/proc/${client.pid}/status`))![1]);
  const lines = new TextEncoder().encode("a line of input\n".repeat(10_000));
  // A fifth of them shows what the program needs; the rest must not add to it with their number.
  for (let i = 0; i < 20; i++) await client.type(lines);
  await until(
    () => client.stdout.length > 150_000 * "00000001 0\n".length,
    "three quarters of the first answers",
    60_000,
  );
  const before = peakKiB();
  for (let i = 20; i < 100; i++) await client.type(lines);
  await until(() => client.stdout.length > 950_000 * "00000001 0\n".length, "nearly all answers", 60_000);
  const growthKiB = peakKiB() - before;
  await client.endInput();
  assertEquals([await client.exit(60_000), client.stderr], [0, ""]);
  assertEquals(client.stdoutLines.length, 1_000_000);
  assertEquals(new Set(client.stdoutLines).size, 1_000_000);
  assertLess(growthKiB, 64 * 1024);
});

Deno.test("client.ts says that the rest of the input is not read when the server ends before it", async () => {
  await using met = await meet();
  const { client, peer } = met;
  await client.type("one\n");
  await peer.readExactly(16);
  await peer.write(ackFrame(1));
  await client.says("00000001 0\n");
  await peer.closeWrite();
  assertEquals(await client.exit(), 1);
  assertEquals(
    [client.stdout, client.stderr],
    ["00000001 0\n", "client: the connection ended before the input; the rest of it is not read\n"],
  );
});

Deno.test("client.ts says why a message was not sent when it fits no frame", async () => {
  await using met = await meet("--max-frame-length", "20", "short", "12345678");
  const { client, peer } = met;
  assertEquals(await peer.readToEnd(), submitFrame(1, "short"));
  await peer.write(ackFrame(1));
  await peer.closeWrite();
  assertEquals(await client.exit(), 1);
  assertStringIncludes(client.stderr, "its length 21 exceeds maxFrameLength 20");
});
