/** An HTTP proxy for tests: CONNECT and absolute targets (RFC 9110, section 9.3.6; RFC 9112, section 3.2.2). */
import { connect, createServer, type Socket } from "node:net";

export interface HttpProxy extends AsyncDisposable {
  readonly port: number;
  /** The heads of all requests, as they came. */
  readonly heads: string[];
}

/** A proxy that leads every name to `port` of this machine; or answers each request with `answer`. */
export async function startHttpProxy(port: number, answer: string | null = null): Promise<HttpProxy> {
  const heads: string[] = [];
  const sockets = new Set<Socket>();
  const server = createServer((client) => {
    sockets.add(client);
    client.on("error", () => {});
    client.once("data", (first) => {
      const text = first.toString("latin1");
      heads.push(text.split("\r\n\r\n")[0] ?? "");
      if (answer !== null) return client.end(answer);
      const upstream = connect(port, "127.0.0.1", () => {
        if (text.startsWith("CONNECT ")) client.write("HTTP/1.1 200 Connected\r\n\r\n");
        else upstream.write(text.replace(/^(\w+) http:\/\/[^/]+/, "$1 "));
        upstream.pipe(client);
        client.pipe(upstream);
      });
      sockets.add(upstream);
      upstream.on("error", () => client.destroy());
    });
  });
  const { promise, resolve } = Promise.withResolvers<void>();
  server.listen(0, "127.0.0.1", resolve);
  await promise;
  const address = server.address();
  return {
    port: typeof address === "object" && address !== null ? address.port : 0,
    heads,
    async [Symbol.asyncDispose]() {
      for (const socket of sockets) socket.destroy();
      server.close();
    },
  };
}
