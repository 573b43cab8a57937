/**
 * Why Bun's client could not connect: it closes the connection alike whether the server is away or refuses the
 * password. Asked only after a failure, over a connection of its own, in the server's own language (RESP).
 */
import type { StateServer } from "../config/state-server.ts";
import { nextTurn } from "../core/clock.ts";

/** How long the server may take to say why. */
const PATIENCE_MS = 1000;
/** More than a server says to this. */
const MOST_BYTES = 4096;

/** What the server said to our name and password, where it said no; null: it said nothing of the kind. */
export async function diagnose(server: StateServer): Promise<string | null> {
  const said = await conversation(server).catch(() => "");
  const line = said.split("\r\n").find((each) => OF_SETTINGS.test(each));
  return line === undefined ? null : line.slice(1, 200);
}

/** What will not pass by itself, as opposed to a server that loads its data or has too many clients. */
const OF_SETTINGS =
  /^-(?:WRONGPASS|NOAUTH|NOPERM|DENIED|NOPROTO|ERR (?:invalid password|unknown command|.*\bAUTH\b|DB index))/;

/** Logs in, and asks for the version of the protocol that Bun speaks. Resolves with all that was answered. */
async function conversation({ url }: StateServer): Promise<string> {
  const address = new URL(url.reveal().replace(/^redis\+unix:\/\/\//, "redis+unix://localhost/"));
  const { username, password, hostname, port, pathname, protocol } = address;
  const { promise, resolve } = Promise.withResolvers<string>();
  let said = "";
  const hello =
    username === "" && password === ""
      ? ["HELLO", "3"]
      : ["HELLO", "3", "AUTH", decodeURIComponent(username) || "default", decodeURIComponent(password)];
  const handler = {
    open: (socket: Bun.Socket) => void socket.write(commandOf(hello)),
    data(socket: Bun.Socket, bytes: Uint8Array) {
      said += new TextDecoder().decode(bytes);
      if (said.includes("\r\n") || said.length > MOST_BYTES) socket.end();
    },
    close: () => resolve(said),
    error: () => resolve(said),
    connectError: () => resolve(""),
  };
  const place =
    protocol === "redis+unix:"
      ? { unix: decodeURIComponent(pathname) }
      : { hostname: hostname.replace(/^\[|\]$/g, ""), port: Number(port || 6379) };
  void nextTurn(PATIENCE_MS).then(() => resolve(said));
  const tls = protocol === "rediss:" ? { tls: true } : {};
  const connecting = Bun.connect({ ...place, ...tls, socket: handler } as Parameters<typeof Bun.connect>[0]);
  connecting.catch(() => resolve(""));
  const answer = await promise;
  void connecting.then((socket) => socket.terminate()).catch(() => {});
  return answer;
}

/** A command as it goes over the wire. */
function commandOf(words: readonly string[]): string {
  return `*${words.length}\r\n${words.map((word) => `$${Buffer.byteLength(word)}\r\n${word}\r\n`).join("")}`;
}
