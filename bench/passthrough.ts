/**
 * What the runtime itself costs: the smallest program that passes requests on with another key, and keeps none of the
 * proxy's promises. `bench/overhead.ts` compiles it like the proxy and measures both in the same run.
 */
const upstream = process.env["UPSTREAM"] ?? "";

Bun.serve({
  hostname: "127.0.0.1",
  port: Number(process.env["PORT"]),
  idleTimeout: 0,
  development: false,
  async fetch(request) {
    const { pathname, search } = new URL(request.url);
    const { headers } = request;
    headers.delete("host");
    headers.set("authorization", "Bearer k1");
    return fetch(upstream + pathname + search, {
      method: request.method,
      headers,
      body: request.body === null ? null : await request.bytes(),
      redirect: "manual",
      decompress: false,
      signal: request.signal,
    });
  },
});
