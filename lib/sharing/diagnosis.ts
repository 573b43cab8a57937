/**
 * What is wrong with the server, and what to do about it, in one sentence.
 *
 * `explain` reads what it said. `diagnose` finds out why Bun's client could not connect, which closes the connection
 * alike whether the server is away or refuses the password: it asks once more over a connection of its own, in the
 * server's own language (RESP).
 */
import type { StateServer } from "../config/state-server.ts";
import { nextTurn } from "../core/clock.ts";
import { codeOf } from "../core/json.ts";

export interface Diagnosis {
  readonly why: string;
  /** It will not pass by itself: the settings are to be corrected before the start. */
  readonly isOfSettings: boolean;
}

type Explanation = readonly [said: RegExp, why: string, isOfSettings?: "settings"];

const ONE_SERVER = "exact limits need one server. Use the address of a single server";

/** What servers say no with. The first that fits counts. */
const EXPLANATIONS: readonly Explanation[] = [
  [
    /^(?:WRONGPASS|ERR invalid password)/,
    "it refuses the user name or the password. Correct them in STATE",
    "settings",
  ],
  [/^NOAUTH/, "it asks for a password. Write it into STATE: redis://:PASSWORD@host", "settings"],
  [/^ERR .*\bAUTH\b/, "it has no password, and STATE names one. Take it out of STATE", "settings"],
  [/^DENIED/, "it takes no connections from other machines (protected mode). Give it a password", "settings"],
  [
    /^ERR DB index/,
    "it has no database of this number. Correct the number in STATE; most servers have 0 to 15",
    "settings",
  ],
  [/^cluster$/, `it is part of a cluster: ${ONE_SERVER}`, "settings"],
  [
    /^sentinel$/,
    "it is a Sentinel, which only knows where the server is. Use the address of the primary, or a name that always leads to it",
    "settings",
  ],
  [
    /^(?:NOPROTO|ERR unknown command.{0,3}HELLO)/i,
    "it is older than Redis 6. Use Redis 6 or later, or Valkey",
    "settings",
  ],
  [/^ERR unknown command/, "it does not know a command that is needed. Use Redis 6 or later, or Valkey"],
  [/^(?:MOVED|ASK|CLUSTERDOWN|CROSSSLOT)\b/, `it is part of a cluster: ${ONE_SERVER}`],
  [/NOPERM/, "its access list forbids what is needed (SAID). Allow this user what docs/many.md lists"],
  [
    /READONLY/,
    "it is a replica, which nobody may write to. Use the address of the primary, or a name that always leads to it",
  ],
  [/^MASTERDOWN/, "it is a replica that has lost its primary. Use the address of the primary"],
  [/NOREPLICAS/, "it has too few replicas to be written to (min-replicas-to-write). See to its replicas"],
  [/\bOOM\b/, "its memory is full. Raise its maxmemory"],
  [/MISCONF/, "it cannot save to its disk, and takes no writes until then. See its log and the disk"],
  [/^LOADING/, "it is still loading its data. Nothing is to be done: it answers when that is over"],
  [/^BUSY/, "a script of somebody else keeps it busy. SCRIPT KILL ends that"],
  [/max number of clients/, "it has as many clients as it may have. Raise its maxclients"],
  [
    /WRONGTYPE|user_script|Error running script|cjson/i,
    "names under the prefix hold something else than keywheel's data. Choose another STATE_PREFIX, or delete those names",
  ],
];

/** What a server means that says no. */
export function explain(said: string): Diagnosis {
  const shown = said.slice(0, MOST_SHOWN).replace(/[^\x20-\x7e]+/g, " ");
  for (const [pattern, why, kind] of EXPLANATIONS)
    if (pattern.test(said)) return { why: why.replace("SAID", shown), isOfSettings: kind === "settings" };
  return { why: `it says: ${shown}`, isOfSettings: false };
}

/** Letters of what a server says that are shown. */
const MOST_SHOWN = 200;

/** How long the server may take to say why. */
const PATIENCE_MS = 1000;
/** More than a server says to this. */
const MOST_BYTES = 4096;

const PASSING = (why: string): Diagnosis => ({ why, isOfSettings: false });

/** Why no connection could be made. */
export async function diagnose(server: StateServer): Promise<Diagnosis> {
  const address = new URL(server.url.reveal().replace(/^redis\+unix:\/\/\//, "redis+unix://localhost/"));
  const isSecure = address.protocol === "rediss:";
  const { said, fault } = await converse(address, isSecure, helloTo(address));
  if (said.startsWith("HTTP/")) return PASSING("a web server answers there. Correct the address in STATE");
  if (/^\x15\x03/.test(said)) return PASSING("it speaks TLS. Write rediss:// instead of redis:// in STATE");
  const refusal = said.split("\r\n").find((line) => line.startsWith("-"));
  if (refusal !== undefined) return explain(refusal.slice(1));
  if (said !== "" && !/^[%*+]/.test(said))
    return PASSING("what answers there is neither Redis nor Valkey. Correct the address in STATE");
  if (isSecure && said === "" && !isOfNetwork(fault)) return PASSING(await tlsFault(address, fault));
  return PASSING(FAULTS[fault] ?? "it is not reached");
}

const FAULTS: Record<string, string> = {
  ECONNREFUSED: "nothing listens at this address. Is the server running?",
  ENOENT: "there is no such socket. Is the server running?",
  EACCES: "this user may not open the socket",
  ENOTFOUND: "its name is not known. Correct the host in STATE, or the DNS",
};

function isOfNetwork(fault: string): boolean {
  return FAULTS[fault] !== undefined || fault === "ETIMEDOUT";
}

/** Without any password: it may be that the server does not speak TLS at all. */
async function tlsFault(address: URL, fault: string): Promise<string> {
  const { said } = await converse(address, false, ["PING"]);
  if (/^[+-]/.test(said)) return "it does not speak TLS. Write redis:// instead of rediss:// in STATE";
  if (/CERT|SIGN|ALTNAME|ISSUER|VERIFY/i.test(fault))
    return `its certificate is not trusted (${fault}). Name the file of its authority in NODE_EXTRA_CA_CERTS`;
  return fault === "" ? "it does not answer" : `no TLS connection can be made (${fault})`;
}

/** Logs in, and asks for the version of the protocol that Bun speaks. */
function helloTo({ username, password }: URL): string[] {
  if (username === "" && password === "") return ["HELLO", "3"];
  return ["HELLO", "3", "AUTH", decodeURIComponent(username) || "default", decodeURIComponent(password)];
}

/** Sends one command, over TLS only where the certificate is trusted. What was answered, or the code of what failed. */
async function converse(
  { hostname, port, pathname, protocol }: URL,
  isSecure: boolean,
  command: readonly string[],
): Promise<{ said: string; fault: string }> {
  const { promise, resolve } = Promise.withResolvers<void>();
  let [said, fault] = ["", ""];
  const fail = (error: unknown) => {
    fault ||= codeOf(error) ?? "";
    resolve();
  };
  const handler = {
    open: (socket: Bun.Socket) => void (isSecure || socket.write(commandOf(command))),
    handshake(socket: Bun.Socket, _: boolean, error: unknown) {
      if (socket.authorized) socket.write(commandOf(command));
      else fail(error);
    },
    data(socket: Bun.Socket, bytes: Uint8Array) {
      said += new TextDecoder("latin1").decode(bytes);
      if (said.includes("\r\n") || said.length > MOST_BYTES || !/^[-+%*:$]/.test(said)) socket.end();
    },
    close: () => resolve(),
    error: (_: unknown, error: unknown) => fail(error),
    connectError: (_: unknown, error: unknown) => fail(error),
  };
  const place =
    protocol === "redis+unix:"
      ? { unix: decodeURIComponent(pathname) }
      : { hostname: hostname.replace(/^\[|\]$/g, ""), port: Number(port || 6379) };
  void nextTurn(PATIENCE_MS).then(() => resolve());
  const tls = isSecure ? { tls: true } : {};
  const connecting = Bun.connect({ ...place, ...tls, socket: handler } as Parameters<typeof Bun.connect>[0]);
  connecting.catch(fail);
  await promise;
  void connecting.then((socket) => socket.terminate()).catch(() => {});
  return { said, fault };
}

/** A command as it goes over the wire. */
function commandOf(words: readonly string[]): string {
  return `*${words.length}\r\n${words.map((word) => `$${Buffer.byteLength(word)}\r\n${word}\r\n`).join("")}`;
}
