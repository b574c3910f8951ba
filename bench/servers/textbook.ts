// What everybody writes first: the socket's own streams, a TransformStream that concatenates, slices and enqueues, and
// a write for each answer.
//
//   deno run -N bench/servers/textbook.ts PORT

import { TextbookDecoderStream } from "../textbook.ts";
import { serve } from "./serve.ts";

serve(async (socket) => {
  const writer = socket.writable.getWriter();
  for await (const frame of socket.readable.pipeThrough(new TextbookDecoderStream({ countsItself: true }))) {
    const answer = new Uint8Array(14);
    answer[3] = 14;
    answer[4] = 0x82;
    answer.set(frame.subarray(5, 13), 5);
    await writer.write(answer);
  }
});
