// What the servers to compare with share: a port to listen on, and a task for each connection.

/** Listens on the port that the command line names, says so, and serves each connection. */
export async function serve(serveConnection: (socket: Deno.TcpConn) => Promise<void>): Promise<void> {
  const listener = Deno.listen({ hostname: "127.0.0.1", port: Number(Deno.args[0]) });
  Deno.stdout.writeSync(new TextEncoder().encode(`listening on 127.0.0.1:${listener.addr.port}\n`));
  for await (const socket of listener) {
    socket.setNoDelay(true);
    serveConnection(socket).catch(() => {}).finally(() => {
      try {
        socket[Symbol.dispose]();
      } catch {
        // Its streams have closed it.
      }
    });
  }
}
