// PROXY headers, put together by hand after the specification.

import { joined } from "./peer.ts";

/** Version 1. */
export function proxyLine(rest: string): Uint8Array<ArrayBuffer> {
  return new TextEncoder().encode(`PROXY ${rest}\r\n`);
}

/** Version 2; `first` is version and command, PROXY (0x21) or LOCAL (0x20). */
export function proxyVersion2(
  family: number,
  rest: readonly number[],
  first = 0x21,
): Uint8Array<ArrayBuffer> {
  const signature = [0x0d, 0x0a, 0x0d, 0x0a, 0x00, 0x0d, 0x0a, 0x51, 0x55, 0x49, 0x54, 0x0a];
  return joined(
    new Uint8Array([...signature, first, family, rest.length >> 8, rest.length & 255]),
    new Uint8Array(rest),
  );
}
