// The same protocol on node:net: concatenate what is left over, answer a chunk's frames with one write.
//
//   deno run -N bench/servers/node_net.ts PORT

import { createServer } from "node:net";
import { Buffer } from "node:buffer";

const server = createServer({ noDelay: true, allowHalfOpen: true }, (socket) => {
  let rest: Buffer | null = null;
  socket.on("data", (chunk: Buffer) => {
    const bytes: Buffer = rest === null ? chunk : Buffer.concat([rest, chunk]), answers: Buffer[] = [];
    let at = 0;
    while (bytes.length - at >= 4) {
      const length = bytes.readUInt32BE(at);
      if (length < 13 || length > 1_048_576) return void socket.destroy();
      if (bytes.length - at < length) break;
      const answer = Buffer.alloc(14);
      answer[3] = 14;
      answer[4] = 0x82;
      bytes.copy(answer, 5, at + 5, at + 13);
      answers.push(answer);
      at += length;
    }
    rest = at === bytes.length ? null : bytes.subarray(at);
    if (answers.length > 0) socket.write(Buffer.concat(answers));
  });
  socket.on("end", () => socket.end());
  socket.on("error", () => {});
});
server.listen(Number(Deno.args[0]), "127.0.0.1", () => {
  const { port } = server.address() as { port: number };
  Deno.stdout.writeSync(new TextEncoder().encode(`listening on 127.0.0.1:${port}\n`));
});
