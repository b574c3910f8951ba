// The ceiling of the runtime: a read and write loop by hand, one buffer reused, no streams, no packets, no limits.
//
//   deno run -N bench/servers/raw.ts PORT

import { serve } from "./serve.ts";

serve(async (socket) => {
  let inbox = new Uint8Array(65_536), view = new DataView(inbox.buffer), outbox = new Uint8Array(65_536);
  for (let from = 0, to = 0;;) {
    if (to === inbox.length) {
      const larger = from > 0 ? inbox : new Uint8Array(inbox.length * 2);
      larger.set(inbox.subarray(from, to));
      if (larger !== inbox) [inbox, view] = [larger, new DataView(larger.buffer)];
      [from, to] = [0, to - from];
    }
    const count = await socket.read(inbox.subarray(to));
    if (count === null) return;
    to += count;
    let out = 0;
    while (to - from >= 4) {
      const length = view.getUint32(from);
      if (length < 13 || length > 1_048_576) return;
      if (to - from < length) break;
      if (out + 14 > outbox.length) {
        const larger = new Uint8Array(outbox.length * 2);
        larger.set(outbox);
        outbox = larger;
      }
      outbox[out] =
        outbox[out + 1] =
        outbox[out + 2] =
        outbox[out + 13] =
          0;
      outbox[out + 3] = 14;
      outbox[out + 4] = 0x82;
      for (let i = 5; i < 13; i++) outbox[out + i] = inbox[from + i]!;
      out += 14;
      from += length;
    }
    if (from === to) from = to = 0;
    for (let at = 0; at < out;) at += await socket.write(outbox.subarray(at, out));
  }
});
