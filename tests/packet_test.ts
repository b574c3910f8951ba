// Which packets are refused, with what words and numbers? Do the paths without objects agree with the others?

import {
  decodePacket,
  type Dialect,
  encodeFrame,
  encodePacket,
  FrameDecoder,
  type Packet,
  PacketError,
  Result,
  submitFormat,
} from "@framewire/framewire/codec";
import {
  ackFrameLength,
  commandCode,
  packetType,
  payloadOffset,
  readId,
  readResult,
  readSerial,
  requestHeaderLength,
  serialId,
  writeAck,
  writeRequestHeader,
} from "../codec/packet.ts";
import { assertEquals, assertStrictEquals, assertThrows } from "@std/assert";
import { concat } from "@std/bytes";
import fc from "fast-check";

const dialects: Dialect[] = ["spec", "legacy"];
const id = "00000001";
const none = new Uint8Array(0);
/** Command codes as the documentation has them. */
const commands = {
  spec: { conn: 0x01, submit: 0x02, "conn-ack": 0x81, "submit-ack": 0x82 },
  legacy: { conn: 0x01, submit: 0x02, "conn-ack": 0x80, "submit-ack": 0x81 },
} as const;

// Encoding.

for (const dialect of dialects) {
  Deno.test(`encodePacket() lays a request out in dialect ${dialect}`, () => {
    const payload = hex("00ff");
    assertEquals(encodePacket({ type: "conn", id, payload }, dialect), hex("01 3030303030303031 00ff"));
    assertEquals(encodePacket({ type: "submit", id, payload }, dialect), hex("02 3030303030303031 00ff"));
  });

  for (const type of ["conn-ack", "submit-ack"] as const) {
    Deno.test(`encodePacket() lays a ${type} out in dialect ${dialect}`, () => {
      const expected = concat([new Uint8Array([commands[dialect][type]]), hex("3030303030303031 fe")]);
      assertEquals(encodePacket({ type, id, result: 0xfe }, dialect), expected);
    });
  }
}

Deno.test("encodePacket() speaks dialect spec unless told otherwise", () => {
  assertEquals(encodePacket({ type: "conn-ack", id, result: 0 })[0], 0x81);
});

Deno.test("encodePacket() copies the payload", () => {
  const payload = hex("a1a2"), packet = encodePacket({ type: "submit", id, payload });
  payload.fill(0xee);
  assertEquals(packet.subarray(9), hex("a1a2"));
});

const codesOf = (text: string) => Array.from({ length: text.length }, (_, i) => text.charCodeAt(i));
const badIds = ["", "1", "0000001", "000000001", "0000000Ā", "€0000000", "000😀000", "0000000\ud800"];

for (const bad of badIds) {
  for (const type of ["submit", "submit-ack"] as const) {
    Deno.test(`encodePacket() refuses the id ${JSON.stringify(bad)} of a ${type}`, () => {
      const packet: Packet = type === "submit"
        ? { type, id: bad, payload: none }
        : { type, id: bad, result: 0 };
      assertPacketError(() => encodePacket(packet), {
        code: "bad-id",
        ...(bad.length === 8
          ? { value: codesOf(bad).find((code) => code > 0xff)!, limit: 0xff }
          : { value: bad.length, limit: 8 }),
        message: `Cannot encode packet: its id must be 8 characters up to U+00FF, and is ${
          JSON.stringify(bad)
        }`,
      });
    });
  }
}

for (const good of ["00000000", "\0\0\0\0\0\0\0\0", "ÿÿÿÿÿÿÿÿ", "abc DEF\n", "é\x7f\x80ÿ\0abc"]) {
  Deno.test(`encodePacket() and decodePacket() keep the id ${JSON.stringify(good)}`, () => {
    const packet = encodePacket({ type: "submit", id: good, payload: none });
    assertEquals([...packet.subarray(1, 9)], Array.from(good, (char) => char.charCodeAt(0)));
    assertStrictEquals(decodePacket(packet).id, good);
  });
}

for (const result of [-1, 256, 1.5, NaN, Infinity, -Infinity, 2 ** 32, "0" as unknown as number]) {
  for (const type of ["conn-ack", "submit-ack"] as const) {
    Deno.test(`encodePacket() refuses the result ${Deno.inspect(result)} of a ${type}`, () => {
      assertPacketError(() => encodePacket({ type, id, result }), {
        code: "bad-result",
        value: result,
        limit: 255,
        message: `Cannot encode answer: its result must be an integer from 0 to 255, and is ${result}`,
      });
    });
  }
}

Deno.test("encodePacket() and decodePacket() keep every result", () => {
  for (let result = 0; result < 256; result++) {
    const packet = { type: "submit-ack", id, result } as const;
    assertEquals(decodePacket(encodePacket(packet)), packet);
  }
});

// Decoding.

for (const length of [0, 1, 8]) {
  for (const command of [0x02, 0x82, 0x55]) {
    Deno.test(`decodePacket() refuses ${length} bytes, with command ${command} where there is one`, () => {
      const packet = new Uint8Array(length).fill(0x30);
      if (length > 0) packet[0] = command;
      assertPacketError(() => decodePacket(packet), {
        code: "too-short",
        value: length,
        limit: 9,
        message: `Cannot decode packet: its length ${length} is below the 9 bytes of its fixed part`,
      });
    });
  }
}

for (const dialect of dialects) {
  for (const type of ["conn-ack", "submit-ack"] as const) {
    const command = new Uint8Array([commands[dialect][type]]);

    Deno.test(`decodePacket() refuses a ${type} without its result in dialect ${dialect}`, () => {
      assertPacketError(() => decodePacket(concat([command, hex("3030303030303031")]), dialect), {
        code: "too-short",
        value: 9,
        limit: 10,
        message: `Cannot decode ${type}: its length 9 is below the 10 bytes of its fixed part`,
      });
    });

    Deno.test(`decodePacket() refuses a ${type} with a byte too many in dialect ${dialect}`, () => {
      assertPacketError(() => decodePacket(concat([command, hex("3030303030303031 0000")]), dialect), {
        code: "too-long",
        value: 11,
        limit: 10,
        message: `Cannot decode ${type}: its length 11 exceeds the 10 bytes of an answer`,
      });
    });
  }

  Deno.test(`decodePacket() knows four of 256 commands in dialect ${dialect}, and names the other's`, () => {
    const known: Record<number, string> = {}, other: number[] = [];
    for (let command = 0; command < 256; command++) {
      const packet = concat([new Uint8Array([command]), hex("3030303030303031 00")]);
      try {
        known[command] = decodePacket(packet, dialect).type;
      } catch (error) {
        if (!(error instanceof PacketError)) throw error;
        if (error.code === "other-dialect") other.push(command);
        else assertEquals([error.code, error.value, error.limit], ["unknown-command", command, undefined]);
      }
    }
    assertEquals(
      known,
      Object.fromEntries(Object.entries(commands[dialect]).map(([type, code]) => [code, type])),
    );
    assertEquals(other, dialect === "spec" ? [0x80] : [0x82]);
  });
}

for (const [command, written] of [[0x00, "0x00"], [0x03, "0x03"], [0x7f, "0x7f"], [0xff, "0xff"]] as const) {
  Deno.test(`decodePacket() calls ${written} no command`, () => {
    assertPacketError(() => decodePacket(concat([new Uint8Array([command]), hex("3030303030303031")])), {
      code: "unknown-command",
      value: command,
      limit: undefined,
      message: `Cannot decode packet: ${written} is no command`,
    });
  });
}

const otherDialect = [
  ["spec", 0x80, "0x80 is no command of dialect spec, but conn-ack in dialect legacy"],
  ["legacy", 0x82, "0x82 is no command of dialect legacy, but submit-ack in dialect spec"],
] as const;

for (const [dialect, command, words] of otherDialect) {
  Deno.test(`decodePacket() names the other dialect in dialect ${dialect}`, () => {
    const packet = concat([new Uint8Array([command]), hex("3030303030303031 00")]);
    assertPacketError(() => decodePacket(packet, dialect), {
      code: "other-dialect",
      value: command,
      limit: undefined,
      message: `Cannot decode packet: ${words}`,
    });
  });
}

Deno.test("decodePacket() gives the payload as a view of the frame", () => {
  const frame = hex("02 3030303030303031 a1a2"), packet = decodePacket(frame);
  if (!("payload" in packet)) throw new Error("no request");
  assertStrictEquals(packet.payload.buffer, frame.buffer);
  frame[9] = 0xee;
  assertEquals(packet.payload, hex("eea2"));
});

Deno.test("decodePacket() reads a frame that does not begin where its buffer does", () => {
  const frame = hex("ffffff 02 3030303030303031 a1 ff").subarray(3, 13);
  assertEquals(decodePacket(frame), { type: "submit", id, payload: hex("a1") });
});

Deno.test("decodePacket() gives back what encodePacket() was given", () => {
  const anyId = fc.array(fc.nat(255), { minLength: 8, maxLength: 8 }).map((codes) =>
    String.fromCharCode(...codes)
  );
  const request = fc.record({
    type: fc.constantFrom("conn", "submit"),
    id: anyId,
    payload: fc.uint8Array({ maxLength: 40 }),
  }, { noNullPrototype: true });
  const response = fc.record({
    type: fc.constantFrom("conn-ack", "submit-ack"),
    id: anyId,
    result: fc.nat(255),
  }, { noNullPrototype: true });
  fc.assert(
    fc.property(fc.oneof(request, response), fc.constantFrom(...dialects), (packet, dialect) => {
      assertEquals(decodePacket(encodePacket(packet as Packet, dialect), dialect), packet as Packet);
    }),
    { numRuns: 1000 },
  );
});

Deno.test("decodePacket() takes any bytes or throws a PacketError", () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 14 }), fc.constantFrom(...dialects), (bytes, dialect) => {
      try {
        assertEquals(encodePacket(decodePacket(bytes, dialect), dialect), bytes);
      } catch (error) {
        if (!(error instanceof PacketError)) throw error;
      }
    }),
    { numRuns: 2000 },
  );
});

// The format.

Deno.test("submitFormat() is a length of four big bytes that counts itself and is stripped", () => {
  assertEquals({ ...submitFormat() }, {
    lengthFieldOffset: 0,
    lengthFieldLength: 4,
    byteOrder: "big",
    lengthAdjustment: -4,
    initialBytesToStrip: 4,
    maxFrameLength: 1_048_576,
    headerLength: 4,
  });
});

Deno.test("submitFormat() takes a limit, of an answer at least", () => {
  assertEquals(submitFormat(14).maxFrameLength, 14);
  for (const limit of [13, 4, 0, -1, NaN]) {
    const error = assertThrows(() => submitFormat(limit), RangeError);
    assertEquals(error.message.endsWith(`must be at least the 14 bytes of an answer, and is ${limit}`), true);
  }
});

Deno.test("submitFormat() clips a limit that four bytes cannot say", () => {
  assertEquals(submitFormat(2 ** 40).maxFrameLength, 2 ** 32 - 1);
});

Deno.test("Result has the documented numbers", () => {
  assertEquals({ ...Result }, {
    accepted: 0,
    refused: 1,
    notConnected: 2,
    tooBusy: 3,
    shuttingDown: 4,
    handlerFailed: 5,
    handlerTimeout: 6,
  });
});

// What works in place.

const serials = [0, 1, 9, 10, 12_345_678, 90_000_009, 99_999_998, 99_999_999];

Deno.test("serialId() is eight digits", () => {
  assertEquals([1, 42, 12_345_678, 99_999_999].map(serialId), [
    "00000001",
    "00000042",
    "12345678",
    "99999999",
  ]);
});

Deno.test("readSerial() reads back what serialId() says, wherever the packet begins", () => {
  for (const serial of serials) {
    const packet = encodePacket({ type: "submit-ack", id: serialId(serial), result: 0 });
    assertEquals(readSerial(packet, 0), serial);
    assertEquals(readSerial(concat([hex("3939393939"), packet]), 5), serial);
  }
});

for (const bad of ["        ", "0000000/", "0000000:", "-0000001", "0000001\0", "\xff0000000"]) {
  Deno.test(`readSerial() is -1 for the id ${JSON.stringify(bad)}`, () => {
    assertEquals(readSerial(encodePacket({ type: "submit-ack", id: bad, result: 0 }), 0), -1);
  });
}

for (const dialect of dialects) {
  Deno.test(`writeRequestHeader() agrees with encodePacket() in dialect ${dialect}`, () => {
    for (const type of ["conn", "submit"] as const) {
      for (const serial of serials) {
        for (const payload of [none, hex("a1a2a3"), new Uint8Array(300)]) {
          const packet = encodePacket({ type, id: serialId(serial), payload }, dialect);
          const expected = encodeFrame(packet, submitFormat()).subarray(0, requestHeaderLength);
          // A target that does not begin where its buffer does, and is not clean.
          const buffer = new Uint8Array(30).fill(0xee);
          const view = new DataView(buffer.buffer, 3);
          writeRequestHeader(view, 4, commandCode(type, dialect), serial, payload.length);
          assertEquals(buffer.subarray(7, 7 + requestHeaderLength), expected, `${type} ${serial}`);
          assertEquals([...buffer.subarray(0, 7), ...buffer.subarray(20)], new Array(17).fill(0xee));
        }
      }
    }
  });

  Deno.test(`writeAck() agrees with encodePacket() in dialect ${dialect}`, () => {
    for (const type of ["conn-ack", "submit-ack"] as const) {
      for (const id of ["00000001", "99999999", "\0\xff\x80\x7f\n\r \xc3"]) {
        for (const result of [0, 1, 128, 255]) {
          const request = concat([hex("eeee"), encodePacket({ type: "submit", id, payload: hex("a1") })]);
          const expected = encodeFrame(encodePacket({ type, id, result }, dialect), submitFormat());
          const buffer = new Uint8Array(30).fill(0xee);
          const view = new DataView(buffer.buffer, 3);
          writeAck(view, 4, commandCode(type, dialect), new DataView(request.buffer), 2, result);
          assertEquals(buffer.subarray(7, 7 + ackFrameLength), expected, `${type} ${id} ${result}`);
          assertEquals([...buffer.subarray(0, 7), ...buffer.subarray(21)], new Array(16).fill(0xee));
        }
      }
    }
  });

  Deno.test(`packetType(), readId() and readResult() agree with decodePacket() in dialect ${dialect}`, () => {
    const packets: Packet[] = [
      { type: "conn", id: "\xff0000000", payload: hex("a1") },
      { type: "submit", id, payload: none },
      { type: "conn-ack", id, result: 7 },
      { type: "submit-ack", id: "99999999", result: 255 },
    ];
    for (const packet of packets) {
      const body = encodePacket(packet, dialect), start = 3, end = start + body.length;
      const bytes = concat([hex("020202"), body, hex("020202")]);
      assertEquals(packetType(bytes, start, end, dialect), packet.type);
      assertEquals(readId(bytes, start), packet.id);
      if ("result" in packet) assertEquals(readResult(bytes, start), packet.result);
      else assertEquals(bytes.subarray(start + payloadOffset, end), packet.payload);
    }
  });
}

Deno.test("packetType() judges the length between start and end, not that of the bytes", () => {
  const bytes = hex("00 82 3030303030303031 00 00");
  const short = assertThrows(() => packetType(bytes, 1, 10, "spec"), PacketError);
  assertEquals([short.code, short.value, short.limit], ["too-short", 9, 10]);
  const long = assertThrows(() => packetType(bytes, 1, 12, "spec"), PacketError);
  assertEquals([long.code, long.value, long.limit], ["too-long", 11, 10]);
});

Deno.test("writeAck() and FrameDecoder understand each other", () => {
  const target = new Uint8Array(ackFrameLength);
  const request = encodePacket({ type: "submit", id, payload: none });
  writeAck(
    new DataView(target.buffer),
    0,
    commandCode("submit-ack", "spec"),
    new DataView(request.buffer),
    0,
    4,
  );
  const [frame] = new FrameDecoder(submitFormat()).push(target);
  assertEquals(decodePacket(frame!), { type: "submit-ack", id, result: Result.shuttingDown });
});

// Helpers.

function assertPacketError(
  fn: () => unknown,
  expected: Pick<PacketError, "code" | "value" | "limit" | "message">,
): void {
  const { name, code, value, limit, message } = assertThrows(fn, PacketError);
  assertEquals({ name, code, value, limit, message }, { name: "PacketError", ...expected });
}

function hex(text: string): Uint8Array<ArrayBuffer> {
  return Uint8Array.from(text.match(/[^ ]{2}/g) ?? [], (byte) => parseInt(byte, 16));
}
