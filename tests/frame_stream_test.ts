// How do the framing streams end, fail and wait? Nothing here depends on time: streams go on in microtasks,
// so after a turn of the event loop whatever could happen has happened.

import {
  FrameBatchStream,
  FrameDecoderStream,
  FrameEncoderStream,
  FrameError,
} from "@framewire/framewire/codec";
import { assert, assertEquals, assertRejects, assertStrictEquals, assertThrows } from "@std/assert";
import { toBytes } from "@std/streams";

/** One byte of length, stripped; at most three bytes of body. */
const format = { lengthFieldLength: 1, initialBytesToStrip: 1, maxFrameLength: 4 } as const;
const reason = new Error("enough");

// FrameDecoderStream: frames.

Deno.test("FrameDecoderStream gives one frame a chunk however the bytes came", async () => {
  const frames = source("02a1", "a2 01b1 00 03", "c1c2c3").pipeThrough(new FrameDecoderStream(format));
  assertEquals(await Array.fromAsync(frames, toHex), ["a1a2", "b1", "", "c1c2c3"]);
});

Deno.test("FrameDecoderStream gives nothing for empty chunks", async () => {
  const frames = source("", "01", "", "", "a1", "").pipeThrough(new FrameDecoderStream(format));
  assertEquals(await Array.fromAsync(frames, toHex), ["a1"]);
});

Deno.test("FrameDecoderStream ends where nothing came", async () => {
  assertEquals(await Array.fromAsync(source().pipeThrough(new FrameDecoderStream(format))), []);
});

Deno.test("FrameDecoderStream ends behind the frames that nobody has read yet", async () => {
  const { writer, reader } = open();
  const first = reader.read();
  await writer.write(hex("01a1 01b1 01c1"));
  await writer.close();
  assertEquals(await first, frame("a1"));
  assertEquals([await reader.read(), await reader.read()], [frame("b1"), frame("c1")]);
  assertEquals((await reader.read()).done, true);
});

Deno.test("FrameDecoderStream serves reads that wait together, in order", async () => {
  const { writer, reader } = open();
  const reads = Promise.all([reader.read(), reader.read(), reader.read()]);
  await writer.write(hex("01a1 01"));
  await writer.write(hex("b1 01c1"));
  assertEquals(await reads, [frame("a1"), frame("b1"), frame("c1")]);
});

Deno.test("FrameDecoderStream throws for a bad format", () => {
  assertThrows(() => new FrameDecoderStream({ maxFrameLength: 0 }), RangeError, "maxFrameLength");
});

// FrameDecoderStream: bad frames.

Deno.test("FrameDecoderStream shows an error after the last good frame", async () => {
  const got: string[] = [];
  const frames = source("01a1 01b1 04 01d1").pipeThrough(new FrameDecoderStream(format));
  await assertFails(each(frames, got), "too-long");
  assertEquals(got, ["a1", "b1"]);
});

Deno.test("FrameDecoderStream shows an error after the last good frame to a slow reader", async () => {
  const { writer, reader } = open();
  const write = attempt(writer.write(hex("01a1 01b1 01c1 04")));
  for (const expected of ["a1", "b1", "c1"]) {
    assertEquals(await reader.read(), frame(expected));
    await turns();
  }
  await assertFails(reader.read(), "too-long");
  await write;
});

Deno.test("FrameDecoderStream keeps good frames while nothing reads after the error", async () => {
  const { writer, reader } = open();
  const first = reader.read();
  await assertFails(writer.write(hex("01a1 01b1 01c1 04")), "too-long");
  await turns();
  assertEquals([await first, await reader.read(), await reader.read()], [
    frame("a1"),
    frame("b1"),
    frame("c1"),
  ]);
  await assertFails(reader.read(), "too-long");
});

Deno.test("FrameDecoderStream keeps good frames where the first read comes after the bytes", async () => {
  const { writer, reader } = open();
  const write = attempt(writer.write(hex("01a1 04")));
  await turns();
  assertEquals(await reader.read(), frame("a1"));
  await assertFails(reader.read(), "too-long");
  await write;
});

Deno.test("FrameDecoderStream shows an error to the first waiting read without a frame", async () => {
  const { writer, reader } = open();
  const reads = [reader.read(), reader.read(), reader.read()].map(attempt);
  await attempt(writer.write(hex("01a1 04")));
  const [first, second, third] = await Promise.all(reads);
  assertEquals(first, frame("a1"));
  assert(second instanceof FrameError);
  assertStrictEquals(third, second);
});

Deno.test("FrameDecoderStream shows an error at once where no frame is before it", async () => {
  const { writer, reader } = open();
  const read = attempt(reader.read());
  await assertFails(writer.write(hex("04")), "too-long");
  assertEquals((await read as FrameError).code, "too-long");
});

Deno.test("FrameDecoderStream shows the error in a header that straddles chunks", async () => {
  const wide = { ...format, lengthFieldLength: 2 } as const, got: string[] = [];
  const frames = source("0001a1 00", "ff").pipeThrough(new FrameDecoderStream(wide));
  await assertFails(each(frames, got), "too-long");
  assertEquals(got, ["01a1"]);
});

Deno.test("FrameDecoderStream.writable fails at once with the error that the reader will see", async () => {
  const { writer, reader } = open();
  const first = reader.read();
  const error = await attempt(writer.write(hex("01a1 01b1 04")));
  assert(error instanceof FrameError);
  assertStrictEquals(await attempt(writer.closed), error);
  assertStrictEquals(await attempt(writer.write(hex("01c1"))), error);
  await first;
  await reader.read();
  assertStrictEquals(await attempt(reader.read()), error);
  assertStrictEquals(await attempt(reader.closed), error);
});

Deno.test("FrameDecoderStream delivers the good frames and cancels its source in a pipeline", async () => {
  const got: string[] = [], cancelled = Promise.withResolvers<unknown>();
  const chunks = new ReadableStream<Uint8Array>({
    pull: (controller) => controller.enqueue(hex("01a1 01b1 04")),
    cancel: cancelled.resolve,
  });
  let aborted: unknown;
  const sink = new WritableStream<Uint8Array>({
    write: (frame) => void got.push(toHex(frame)),
    abort: (reason) => void (aborted = reason),
  });
  const error = await attempt(chunks.pipeThrough(new FrameDecoderStream(format)).pipeTo(sink));
  assert(error instanceof FrameError);
  assertEquals(got, ["a1", "b1"]);
  assertStrictEquals(aborted, error);
  assertStrictEquals(await cancelled.promise, error);
});

Deno.test("FrameDecoderStream delivers the good frames to a slow sink in a pipeline", async () => {
  const got: string[] = [];
  const sink = new WritableStream<Uint8Array>({
    async write(frame) {
      await turns();
      got.push(toHex(frame));
    },
  });
  const frames = source("01a1", "01b1 01c1 04").pipeThrough(new FrameDecoderStream(format));
  await assertFails(frames.pipeTo(sink), "too-long");
  assertEquals(got, ["a1", "b1", "c1"]);
});

Deno.test("FrameDecoderStream fails on both sides where a chunk is no bytes", async () => {
  const { writer, reader } = open();
  const read = attempt(reader.read());
  const error = await attempt(writer.write("02a1a2" as unknown as Uint8Array));
  assert(error instanceof TypeError);
  await turns();
  assertStrictEquals(await Promise.race([read, "the reader waits for ever"]), error);
});

// FrameDecoderStream: truncation.

for (
  const [name, wire, length, limit] of [["a header", "02", 1, 3], [
    "a part of a body",
    "03a1a2",
    3,
    4,
  ]] as const
) {
  Deno.test(`FrameDecoderStream shows a truncation after ${name}, behind the good frames`, async () => {
    const got: string[] = [];
    const frames = source("01d1 01e1", wire).pipeThrough(new FrameDecoderStream(format));
    const error = await assertFails(each(frames, got), "truncated");
    assertEquals([error.length, error.limit], [length, limit]);
    assertEquals(got, ["d1", "e1"]);
  });

  Deno.test(`FrameDecoderStream.writable fails to close after ${name}`, async () => {
    const { writer, reader } = open();
    const read = attempt(reader.read());
    await writer.write(hex(wire));
    const error = await assertFails(writer.close(), "truncated");
    assertStrictEquals(await read, error);
  });
}

Deno.test("FrameDecoderStream keeps good frames while nothing reads after a truncation", async () => {
  const { writer, reader } = open();
  const first = reader.read();
  await writer.write(hex("01a1 01b1 02"));
  await assertFails(writer.close(), "truncated");
  await turns();
  assertEquals([await first, await reader.read()], [frame("a1"), frame("b1")]);
  await assertFails(reader.read(), "truncated");
});

// FrameDecoderStream: ends from outside.

Deno.test("FrameDecoderStream.readable fails the writable with the reason of its cancel", async () => {
  const { writer, reader } = open();
  await reader.cancel(reason);
  assertStrictEquals(await attempt(writer.closed), reason);
  assertStrictEquals(await attempt(writer.write(hex("01a1"))), reason);
});

Deno.test("FrameDecoderStream.readable lets go of a write that waits when it is cancelled", async () => {
  const { writer, reader } = open();
  const writes = [hex("01a1"), hex("01b1")].map((chunk) => attempt(writer.write(chunk)));
  await turns();
  await reader.cancel(reason);
  // The first was under way, and is done; of the second nothing was taken.
  assertEquals(await writes[0], undefined);
  assertStrictEquals(await writes[1], reason);
});

Deno.test("FrameDecoderStream.readable drops the frames it has queued when it is cancelled", async () => {
  const { writer, reader } = open();
  const first = reader.read();
  await writer.write(hex("01a1 01b1 01c1"));
  await first;
  await reader.cancel(reason);
  assertEquals((await reader.read()).done, true);
  assertStrictEquals(await attempt(writer.closed), reason);
});

Deno.test("FrameDecoderStream cancels its source when its reader stops", async () => {
  const cancelled = Promise.withResolvers<unknown>();
  const chunks = new ReadableStream<Uint8Array>({
    pull: (controller) => controller.enqueue(hex("01a1 01b1")),
    cancel: cancelled.resolve,
  });
  const reader = chunks.pipeThrough(new FrameDecoderStream(format)).getReader();
  await reader.read();
  await reader.cancel(reason);
  assertStrictEquals(await cancelled.promise, reason);
});

Deno.test("FrameDecoderStream.readable may be cancelled before an error is shown", async () => {
  const { writer, reader } = open();
  const first = reader.read();
  await assertFails(writer.write(hex("01a1 01b1 04")), "too-long");
  await first;
  await reader.cancel(reason);
  assertEquals((await reader.read()).done, true);
  await assertFails(writer.closed, "too-long");
});

Deno.test("FrameDecoderStream.readable may be cancelled behind a closed writable", async () => {
  const { writer, reader } = open();
  const first = reader.read();
  await writer.write(hex("01a1 01b1"));
  await writer.close();
  await first;
  await reader.cancel(reason);
  assertEquals((await reader.read()).done, true);
});

Deno.test("FrameDecoderStream.writable fails a read that waits when it is aborted", async () => {
  const { writer, reader } = open();
  const read = attempt(reader.read());
  await writer.abort(reason);
  assertStrictEquals(await read, reason);
});

Deno.test("FrameDecoderStream.writable fails later reads when it is aborted", async () => {
  const { writer, reader } = open();
  await writer.abort(reason);
  await turns();
  assertStrictEquals(await attempt(reader.read()), reason);
  assertStrictEquals(await attempt(reader.closed), reason);
});

Deno.test("FrameDecoderStream.writable fails the readable when it is aborted in mid-frame", async () => {
  const { writer, reader } = open();
  const read = attempt(reader.read());
  await writer.write(hex("03a1"));
  await writer.abort(reason);
  assertStrictEquals(await read, reason);
});

Deno.test("FrameDecoderStream.writable fails the readable behind queued frames when aborted", async () => {
  const { writer, reader } = open();
  const first = reader.read();
  await writer.write(hex("01a1 01b1"));
  await writer.abort(reason);
  assertEquals([await first, await reader.read()], [frame("a1"), frame("b1")]);
  assertStrictEquals(await attempt(reader.read()), reason);
});

Deno.test("FrameDecoderStream.writable fails the readable when aborted while a write waits", async () => {
  const { readable, writable } = new FrameDecoderStream(format), writer = writable.getWriter();
  const write = attempt(writer.write(hex("01a1")));
  await turns();
  const abort = writer.abort(reason);
  // Whether the write under way still counts is open; that the readable fails is not.
  assertStrictEquals(await attempt(each(readable, [])), reason);
  await Promise.all([write, abort]);
});

Deno.test("FrameDecoderStream shows its source's error behind the frames that came before it", async () => {
  const chunks = new ReadableStream<Uint8Array>({
    start: (controller) => controller.enqueue(hex("01a1 01b1 03")),
    pull: (controller) => controller.error(reason),
  }, { highWaterMark: 0 });
  const got: string[] = [];
  assertStrictEquals(await attempt(each(chunks.pipeThrough(new FrameDecoderStream(format)), got)), reason);
  assertEquals(got, ["a1", "b1"]);
});

// FrameDecoderStream: backpressure.

Deno.test("FrameDecoderStream.writable keeps a write waiting until something reads", async () => {
  const { writer, reader } = open(), happened: string[] = [];
  const write = writer.write(hex("01a1")).then(() => happened.push("written"));
  await turns();
  happened.push("read");
  await reader.read();
  await write;
  assertEquals(happened, ["read", "written"]);
});

Deno.test("FrameDecoderStream.writable keeps a write waiting until the frames before are read", async () => {
  const { writer, reader } = open(), happened: string[] = [];
  const first = reader.read();
  await writer.write(hex("01a1 01b1 01c1"));
  const write = writer.write(hex("01d1")).then(() => happened.push("written"));
  await first;
  for (let i = 0; i < 2; i++) {
    await reader.read();
    await turns();
    happened.push("read");
  }
  await reader.read();
  await write;
  assertEquals(happened, ["read", "read", "written"]);
});

Deno.test("FrameDecoderStream.writable takes chunks without a frame while a read waits", async () => {
  const { writer, reader } = open();
  const read = reader.read();
  for (const chunk of ["", "03", "a1", "a2", ""]) await writer.write(hex(chunk));
  await writer.write(hex("a3"));
  assertEquals(await read, frame("a1a2a3"));
});

Deno.test("FrameDecoderStream takes no more than a chunk from its source while nothing reads", async () => {
  let taken = 0;
  const chunks = new ReadableStream<Uint8Array>({
    pull(controller) {
      taken++;
      controller.enqueue(hex("01a1 01b1"));
    },
  }, { highWaterMark: 0 });
  const reader = chunks.pipeThrough(new FrameDecoderStream(format)).getReader();
  await turns();
  assertEquals(taken, 1);
  await reader.read();
  await reader.read();
  await turns();
  // The next one waits in front of the decoder.
  assertEquals(taken, 2);
  await reader.cancel();
});

// FrameEncoderStream.

Deno.test("FrameEncoderStream puts the length field into each frame", async () => {
  const bytes = await toBytes(source("a1a2", "", "b1").pipeThrough(new FrameEncoderStream(format)));
  // Both frames and limits are on the wire's side: nothing is stripped.
  assertEquals(toHex(bytes), "02a1a2" + "00" + "01b1");
});

Deno.test("FrameEncoderStream makes chunks that are its reader's own", async () => {
  const frames = new FrameEncoderStream(format), writer = frames.writable.getWriter();
  const read = frames.readable.getReader().read(), bytes = hex("a1");
  await writer.write(bytes);
  bytes.fill(0xee);
  assertEquals(await read, { done: false, value: hex("01a1") });
});

Deno.test("FrameEncoderStream fails with the refused frame's error after the frames before it", async () => {
  const got: string[] = [];
  const chunks = source("a1", "b1b2", "c1c2c3c4", "d1").pipeThrough(new FrameEncoderStream(format));
  const error = await assertFails(each(chunks, got), "too-long");
  assertEquals([error.length, error.limit], [5, 4]);
  assertEquals(got, ["01a1", "02b1b2"]);
});

Deno.test("FrameEncoderStream delivers the frames before a refused one to a slow reader", async () => {
  const encoder = new FrameEncoderStream(format);
  const writer = encoder.writable.getWriter(), reader = encoder.readable.getReader();
  const writes = [hex("a1"), hex("b1"), hex("c1c2c3c4")].map((bytes) => attempt(writer.write(bytes)));
  await turns();
  assertEquals(await reader.read(), frame("01a1"));
  await turns();
  assertEquals(await reader.read(), frame("01b1"));
  await turns();
  const error = await assertFails(reader.read(), "too-long");
  assertStrictEquals((await Promise.all(writes))[2], error);
});

Deno.test("FrameEncoderStream.writable fails with the refused frame's error", async () => {
  const encoder = new FrameEncoderStream(format), writer = encoder.writable.getWriter();
  const read = attempt(encoder.readable.getReader().read());
  const error = await assertFails(writer.write(hex("a1a2a3a4")), "too-long");
  assertStrictEquals(await attempt(writer.closed), error);
  assertStrictEquals(await read, error);
});

Deno.test("FrameEncoderStream throws for a bad format", () => {
  assertThrows(() => new FrameEncoderStream({ maxFrameLength: 0 }), RangeError, "maxFrameLength");
});

Deno.test("FrameEncoderStream and FrameDecoderStream undo each other", async () => {
  const frames = source("a1", "", "b1b2b3")
    .pipeThrough(new FrameEncoderStream(format))
    .pipeThrough(new FrameDecoderStream(format));
  assertEquals(await Array.fromAsync(frames, toHex), ["a1", "", "b1b2b3"]);
});

// FrameBatchStream.

Deno.test("FrameBatchStream gives one batch for each chunk, without frames too", async () => {
  assertEquals(await batchesOf("01a1 01b1", "", "02", "c1", "c2", "01d1"), [
    { frames: ["a1", "b1"], error: undefined, heldBytes: 0 },
    { frames: [], error: undefined, heldBytes: 0 },
    { frames: [], error: undefined, heldBytes: 1 },
    { frames: [], error: undefined, heldBytes: 2 },
    { frames: ["c1c2"], error: undefined, heldBytes: 0 },
    { frames: ["d1"], error: undefined, heldBytes: 0 },
  ]);
});

Deno.test("FrameBatchStream gives nothing where nothing came", async () => {
  assertEquals(await batchesOf(), []);
});

Deno.test("FrameBatchStream gives an error behind the good frames, then discards", async () => {
  assertEquals(await batchesOf("01a1 01", "b1 01c1 04 01d1", "01e1", "02"), [
    { frames: ["a1"], error: undefined, heldBytes: 1 },
    { frames: ["b1", "c1"], error: "too-long", heldBytes: 0 },
    { frames: [], error: "too-long", heldBytes: 0 },
    { frames: [], error: "too-long", heldBytes: 0 },
  ]);
});

Deno.test("FrameBatchStream gives a truncation as a last batch", async () => {
  assertEquals(await batchesOf("01a1 02", "b1"), [
    { frames: ["a1"], error: undefined, heldBytes: 1 },
    { frames: [], error: undefined, heldBytes: 2 },
    { frames: [], error: "truncated", heldBytes: 0 },
  ]);
});

Deno.test("FrameBatchStream says how much of a truncated frame came", async () => {
  const errors: (FrameError | null)[] = [];
  for await (const { error } of source("02b1").pipeThrough(new FrameBatchStream(format))) errors.push(error);
  assertEquals([errors.at(-1)?.length, errors.at(-1)?.limit], [2, 3]);
});

Deno.test("FrameBatchStream.writable never fails for what the bytes say", async () => {
  const stream = new FrameBatchStream(format), writer = stream.writable.getWriter();
  const batches = each(stream.readable, []);
  for (const chunk of ["04", "02", "01a1"]) await writer.write(hex(chunk));
  await writer.close();
  await writer.closed;
  await batches;
});

Deno.test("FrameBatchStream.writable closes well in mid-frame", async () => {
  const stream = new FrameBatchStream(format), writer = stream.writable.getWriter();
  const batches = each(stream.readable, []);
  await writer.write(hex("02"));
  await writer.close();
  await batches;
});

Deno.test("FrameBatchStream takes the next chunk only when the next batch is asked for", async () => {
  const stream = new FrameBatchStream(format);
  const writer = stream.writable.getWriter(), reader = stream.readable.getReader();
  const writes = [writer.write(hex("01a1")), writer.write(hex("01b1 01c1"))];
  const { value: batch } = await reader.read();
  await turns();
  assertEquals([batch!.count, toHex(batch!.frame(0))], [1, "a1"]);
  const { value: next } = await reader.read();
  assertEquals([next!.count, toHex(next!.frame(1))], [2, "c1"]);
  await Promise.all(writes);
});

Deno.test("FrameBatchStream leaves a batch in use alone when its source ends", async () => {
  const reader = source("01a1 01b1").pipeThrough(new FrameBatchStream(format)).getReader();
  const { value: batch } = await reader.read();
  await turns();
  assertEquals([batch!.count, toHex(batch!.frame(1)), batch!.error], [2, "b1", null]);
});

// A consumer that waits for room in the middle of a batch must find the rest of it after the wait.
Deno.test("FrameBatchStream leaves a batch in use alone when its source ends in mid-frame", async () => {
  const reader = source("01a1 01b1 02").pipeThrough(new FrameBatchStream(format)).getReader();
  const { value: batch } = await reader.read();
  await turns();
  assertEquals([batch!.count, batch!.heldBytes, batch!.error], [2, 1, null]);
  assertEquals(toHex(batch!.frame(1)), "b1");
  const { value: last } = await reader.read();
  assertEquals([last!.count, last!.error?.code], [0, "truncated"]);
});

Deno.test("FrameBatchStream fails with its source", async () => {
  const chunks = new ReadableStream<Uint8Array>({ pull: (controller) => controller.error(reason) });
  const reader = chunks.pipeThrough(new FrameBatchStream(format)).getReader();
  assertStrictEquals(await attempt(reader.read()), reason);
});

Deno.test("FrameBatchStream cancels its source when its reader stops", async () => {
  const cancelled = Promise.withResolvers<unknown>();
  const chunks = new ReadableStream<Uint8Array>({ cancel: cancelled.resolve });
  await chunks.pipeThrough(new FrameBatchStream(format)).cancel(reason);
  assertStrictEquals(await cancelled.promise, reason);
});

Deno.test("FrameBatchStream throws for a bad format", () => {
  assertThrows(() => new FrameBatchStream({ maxFrameLength: 0 }), RangeError, "maxFrameLength");
});

// Helpers.

/** A decoder stream, both sides in hand. */
function open() {
  const stream = new FrameDecoderStream(format);
  return { writer: stream.writable.getWriter(), reader: stream.readable.getReader() };
}

function source(...chunks: string[]): ReadableStream<Uint8Array> {
  return ReadableStream.from(chunks.map(hex));
}

/** What a read gives for a frame. */
function frame(text: string): ReadableStreamReadResult<Uint8Array> {
  return { done: false, value: hex(text) };
}

/** Reads to the end, and keeps what comes before a failure. */
async function each(stream: ReadableStream<unknown>, got: string[]): Promise<void> {
  for await (const item of stream) got.push(item instanceof Uint8Array ? toHex(item) : "batch");
}

async function batchesOf(...chunks: string[]): Promise<unknown[]> {
  const batches: unknown[] = [];
  for await (const batch of source(...chunks).pipeThrough(new FrameBatchStream(format))) {
    const frames = Array.from({ length: batch.count }, (_, i) => toHex(batch.frame(i)));
    batches.push({ frames, error: batch.error?.code, heldBytes: batch.heldBytes });
  }
  return batches;
}

/** The promise's value, or what it was rejected with; never left unhandled. */
function attempt(promise: Promise<unknown>): Promise<unknown> {
  return promise.catch((error) => error);
}

async function assertFails(promise: Promise<unknown>, code: FrameError["code"]): Promise<FrameError> {
  const error = await assertRejects(() => promise, FrameError);
  assertEquals(error.code, code);
  return error;
}

/** Some turns of the event loop, each after all microtasks. */
async function turns(): Promise<void> {
  for (let i = 0; i < 3; i++) await new Promise((resolve) => setTimeout(resolve, 0));
}

function hex(text: string): Uint8Array<ArrayBuffer> {
  return Uint8Array.from(text.match(/[^ ]{2}/g) ?? [], (byte) => parseInt(byte, 16));
}

function toHex(bytes: Uint8Array): string {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
