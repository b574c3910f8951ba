// `deno run -N server.ts`, as its users run it, against a peer made of raw socket calls.

import { assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { idOf, RawPeer, request, submitFrame } from "./support/peer.ts";
import { Program, serverProgram } from "./support/program.ts";

Deno.test("server.ts says first where it listens when it can be connected to", async () => {
  const { server, port } = await serverProgram();
  await using _ = server;
  assertMatch(server.stdoutLines[0]!, /listening on 127\.0\.0\.1:\d+$/);
  using peer = await RawPeer.connect(port);
  await peer.write(submitFrame(1, "hello"));
  assertEquals(await peer.readAcks(1), [{ command: 0x82, id: idOf(1), result: 0 }]);
});

Deno.test("server.ts answers CONN and SUBMIT in the legacy dialect when it is asked to", async () => {
  const { server, port } = await serverProgram("--dialect", "legacy");
  await using _ = server;
  using peer = await RawPeer.connect(port);
  await peer.write(request(0x01, idOf(1), "name"), submitFrame(2));
  assertEquals((await peer.readAcks(2)).map(({ command }) => command), [0x80, 0x81]);
});

Deno.test("server.ts --print writes each SUBMIT as a line of JSON, byte for byte", async () => {
  const { server, port } = await serverProgram("--print");
  await using _ = server;
  using peer = await RawPeer.connect(port);
  const payloads = [
    "text",
    "",
    "\ufeffwith a byte order mark",
    'quotes " and \n lines \0 and \u00e9\u{1f600}',
    new Uint8Array([0xff, 0x00, 0xfe]),
    new Uint8Array([0xed, 0xa0, 0x80]), // a surrogate by itself is no UTF-8
  ];
  await peer.write(...payloads.map((payload, i) => submitFrame(i + 1, payload)));
  await peer.readAcks(payloads.length);
  await server.says('"00000006"');
  const shown = ["payload", "payload", "payload", "payload", "payloadBase64", "payloadBase64"];
  const values = [...payloads.slice(0, 4), "/wD+", "7aCA"];
  assertEquals(
    server.stdoutLines.slice(1).map((line) => JSON.parse(line)),
    values.map((value, i) => ({ connection: 1, id: idOf(i + 1), [shown[i]!]: value })),
  );
  assertEquals(server.stdoutLines[1], '{"connection":1,"id":"00000001","payload":"text"}');
});

Deno.test("server.ts logs on stderr when connections open and close, and why", async () => {
  const { server, port } = await serverProgram();
  await using _ = server;
  using peer = await RawPeer.connect(port);
  await server.logs(`connection 1 opened from 127.0.0.1:`);
  await peer.write(submitFrame(1));
  await peer.closeWrite();
  await peer.readToEnd();
  await server.logs("connection 1 closed, ended (13 B read, 14 B written)");
});

Deno.test("server.ts --quiet logs errors alone", async () => {
  const { server, port } = await serverProgram("--quiet");
  await using _ = server;
  using good = await RawPeer.connect(port);
  await good.write(submitFrame(1));
  await good.closeWrite();
  await good.readToEnd();
  using bad = await RawPeer.connect(port);
  await bad.write(new Uint8Array([0, 0, 0, 3]));
  await bad.readToEnd();
  server.signal("SIGTERM");
  assertEquals(await server.exit(), 0);
  assertEquals(
    server.stderr,
    "connection 2: protocol-error: Cannot decode frame: its length 3 is below the 4 bytes of its fixed part\n" +
      "drained: 0 answered, 0 cut\n",
  );
});

Deno.test("server.ts --max-frame-length accepts a frame of just that length and none above", async () => {
  const { server, port } = await serverProgram("--max-frame-length", "100");
  await using _ = server;
  using peer = await RawPeer.connect(port);
  await peer.write(submitFrame(1, new Uint8Array(87)), submitFrame(2, new Uint8Array(88)));
  assertEquals((await peer.readAcksToEnd()).map(({ id }) => id), [idOf(1)]);
  await server.logs("its length 101 exceeds maxFrameLength 100");
});

for (const signal of ["SIGTERM", "SIGINT"] as const) {
  Deno.test(`server.ts answers what it has read, then ends with status 0 when it gets ${signal}`, async () => {
    const { server, port } = await serverProgram();
    await using _ = server;
    using peer = await RawPeer.connect(port);
    await peer.write(submitFrame(1));
    await peer.readAcks(1);
    server.signal(signal);
    assertEquals(await peer.readToEnd(), new Uint8Array(0));
    peer.socket.close();
    assertEquals(await server.exit(), 0);
  });
}

Deno.test("server.ts ends at once when it gets a second signal", async () => {
  const { server, port } = await serverProgram();
  await using _ = server;
  using peer = await RawPeer.connect(port);
  await peer.write(submitFrame(1));
  await peer.readAcks(1);
  server.signal("SIGTERM");
  await peer.readToEnd(); // the drain has begun, and waits for the peer
  server.signal("SIGTERM");
  await server.exit(5000);
});

Deno.test("server.ts says in one line that the port is in use, and ends with status 1", async () => {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  await using server = new Program("server.ts", ["--port", String(listener.addr.port)]);
  assertEquals(await server.exit(), 1);
  assertEquals(
    server.stderr,
    `server: cannot listen on 127.0.0.1:${listener.addr.port}: the port is in use; ` +
      "choose another with --port, 0 for a free one\n",
  );
});

Deno.test("server.ts says in one line that it lacks permission, and ends with status 1", async () => {
  await using server = new Program("server.ts", ["--port", "0"], []);
  assertEquals(await server.exit(), 1);
  assertEquals(
    server.stderr,
    "server: cannot listen on 127.0.0.1:0: Deno does not permit it; run it with deno run -N\n",
  );
});

for (
  const [args, says] of [
    [["--prot", "1"], "--prot is not known"],
    [["extra"], "extra is not expected"],
    [["--port"], "--port needs a value"],
    [["--port", "http"], "--port needs a whole number, and got http"],
    [["--port", "99999"], "--port must be an integer from 0 to 65535, and is 99999"],
    [["--port", "1", "--port", "2"], "--port is given twice"],
    [["--dialect", "klingon"], "--dialect needs spec or legacy, and got klingon"],
    [
      ["--max-frame-length", "13"],
      "--max-frame-length must be at least the 14 bytes of an answer, and is 13",
    ],
  ] as const
) {
  Deno.test(`server.ts ${args.join(" ")} is refused in one line with status 2`, async () => {
    await using server = new Program("server.ts", args);
    assertEquals(await server.exit(), 2);
    assertEquals(server.stderr, `server: ${says}; --help shows what there is\n`);
    assertEquals(server.stdout, "");
  });
}

Deno.test("server.ts --help shows every flag, and examples, with status 0", async () => {
  await using server = new Program("server.ts", ["--help"], []);
  assertEquals(await server.exit(), 0);
  for (const flag of ["hostname", "port", "dialect", "max-frame-length", "print", "quiet"]) {
    assertStringIncludes(server.stdout, `--${flag}`);
  }
  assertStringIncludes(server.stdout, "Examples:");
});

Deno.test("server.ts ends with status 1 and one line when the reader of --print is gone", async () => {
  const shell = new Deno.Command("bash", {
    args: [
      "-c",
      `set -o pipefail; "$0" run -N server.ts --port 0 --print --quiet | head -n 1`,
      Deno.execPath(),
    ],
    cwd: new URL("../", import.meta.url),
    stdout: "piped",
    stderr: "piped",
  }).spawn();
  const reader = shell.stdout.getReader();
  const first = new TextDecoder().decode((await reader.read()).value);
  using peer = await RawPeer.connect(Number(first.match(/:(\d+)/)![1]));
  // `head` has ended, or is about to: the first lines may still find it.
  const ended = shell.status;
  let serial = 0, over = false;
  ended.then(() => over = true);
  try {
    while (!over) {
      await peer.write(submitFrame(++serial));
      await peer.readAcks(1);
    }
  } catch {
    // The server is gone.
  }
  const errors = await new Response(shell.stderr).text();
  await reader.cancel();
  assertEquals([(await ended).code, errors], [1, "server: the reader of the output is gone\n"]);
});
