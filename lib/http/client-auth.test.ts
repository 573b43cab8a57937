import { describe, expect, test } from "bun:test";
import type { Access, Listen } from "../config/config.ts";
import {
  allowsOrigin,
  authorize,
  hasCredentialField,
  isClientKey,
  isLoopback,
  type ClientIdentity,
} from "./client-auth.ts";
import { Secret } from "../core/secret.ts";

const KEYS: Access = {
  mode: "keys",
  clients: [
    { name: null, secret: new Secret("client-key-one") },
    { name: "alice", secret: new Secret("client-key-two") },
  ],
};
const PROTECTED: Access = { mode: "protected" };
const EVERYWHERE: Listen = { kind: "tcp", hostname: "0.0.0.0", port: 3000 };
const LOCAL = { host: "localhost:3000" };

function identity(headers: Record<string, string> = {}, peer: string | null = "127.0.0.1"): ClientIdentity {
  return { peer, headers: new Headers(headers), keyParameter: null };
}

/** What came of it, in a word: the client's name, or the refusal's type. */
function outcome(
  who: ClientIdentity,
  access: Access,
  listen: Listen = EVERYWHERE,
  origins: string[] = [],
): string {
  const admission = authorize(who, access, listen, origins);
  return admission.kind === "admitted"
    ? `in as ${admission.client ?? "nobody in particular"}`
    : `${admission.status} ${admission.type}`;
}

const IN = "in as nobody in particular";
const FORBIDDEN = "403 forbidden_origin";
const NO_KEY = "401 invalid_proxy_key";

describe("with client keys", () => {
  const rows: [
    says: string,
    headers: Record<string, string>,
    keyParameter: string | null,
    outcome: string,
  ][] = [
    ["Authorization: Bearer", { authorization: "Bearer client-key-one" }, null, IN],
    ["bearer in any case", { authorization: "bEaReR client-key-one" }, null, IN],
    ["Authorization without Bearer", { authorization: "client-key-one" }, null, IN],
    ["x-api-key", { "x-api-key": "client-key-one" }, null, IN],
    ["api-key", { "api-key": "client-key-one" }, null, IN],
    ["x-goog-api-key", { "x-goog-api-key": "client-key-one" }, null, IN],
    ["?key=", {}, "client-key-one", IN],
    ["a key with a name", { "x-api-key": "client-key-two" }, null, "in as alice"],
    [
      "a good key beside a bad one",
      { authorization: "Bearer nonsense", "x-api-key": "client-key-two" },
      null,
      "in as alice",
    ],
    ["no key", {}, null, NO_KEY],
    ["an empty key", { authorization: "" }, "", NO_KEY],
    ["Bearer and nothing", { authorization: "Bearer " }, null, NO_KEY],
    ["a wrong key", { authorization: "Bearer client-key-three" }, null, NO_KEY],
    ["the beginning of a key", { authorization: "Bearer client-key" }, null, NO_KEY],
    ["a key and more", { authorization: "Bearer client-key-one2" }, null, NO_KEY],
    ["both keys in one field", { "x-api-key": "client-key-one, client-key-two" }, null, NO_KEY],
    ["the name for the key", { authorization: "Bearer alice" }, null, NO_KEY],
    ["a name with its key", { authorization: "Bearer alice=client-key-two" }, null, NO_KEY],
    ["a key in a cookie", { cookie: "key=client-key-one" }, null, NO_KEY],
    ["Basic", { authorization: `Basic ${btoa("x:client-key-one")}` }, null, NO_KEY],
  ];
  test.each(rows)("%s", (_, headers, keyParameter, expected) => {
    expect(outcome({ ...identity(headers, "192.0.2.1"), keyParameter }, KEYS)).toBe(expected);
  });

  test("a key is asked for on loopback too", () => {
    expect(outcome(identity(LOCAL), KEYS)).toBe(NO_KEY);
  });

  test("whoever has the key may come from any page and under any name", () => {
    const headers = {
      authorization: "Bearer client-key-one",
      host: "a.example",
      origin: "https://b.example",
    };
    expect(outcome(identity(headers, "192.0.2.1"), KEYS)).toBe(IN);
  });

  test("a refusal says what to do and does not repeat what was presented", () => {
    const admission = authorize(identity({ authorization: "Bearer sk-presented" }), KEYS, EVERYWHERE, []);
    if (admission.kind !== "refused") throw new Error("let in");
    expect(admission.message).toContain("PROXY_API_KEY");
    expect(admission.message).not.toContain("sk-presented");
  });
});

describe("without client keys (P30)", () => {
  const peers: [peer: string | null, isLocal: boolean][] = [
    ["127.0.0.1", true],
    ["127.8.9.10", true],
    ["::1", true],
    ["::ffff:127.0.0.1", true],
    [null, true], // a unix socket
    ["192.0.2.1", false],
    ["10.0.0.1", false],
    ["0.0.0.0", false],
    ["128.0.0.1", false],
    ["1127.0.0.1", false],
    ["127.0.0.1.example", false],
    ["::ffff:192.0.2.1", false],
    ["::", false],
    ["fe80::1", false],
    ["unknown", false],
    ["", false],
  ];
  test.each(peers)("the address %p is this machine: %p", (peer, isLocal) => {
    expect(isLoopback(peer)).toBe(isLocal);
    expect(outcome(identity(LOCAL, peer), PROTECTED)).toBe(isLocal ? IN : "403 protected_mode");
  });

  test.each(["x-forwarded-for", "forwarded", "x-real-ip", "true-client-ip", "cf-connecting-ip"])(
    "%s does not make anybody local",
    (name) => {
      const headers = { ...LOCAL, [name]: name === "forwarded" ? "for=127.0.0.1" : "127.0.0.1" };
      expect(outcome(identity(headers, "192.0.2.1"), PROTECTED)).toBe("403 protected_mode");
    },
  );

  test("a key does not make anybody local", () => {
    const headers = { ...LOCAL, authorization: "Bearer anything" };
    expect(outcome(identity(headers, "192.0.2.1"), PROTECTED)).toBe("403 protected_mode");
  });

  const names: [says: string, host: string | null, listen: string, expected: string][] = [
    ["localhost", "localhost:3000", "0.0.0.0", IN],
    ["localhost without its port", "localhost", "0.0.0.0", IN],
    ["LOCALHOST", "LOCALHOST:3000", "0.0.0.0", IN],
    ["a name under localhost", "wheel.localhost:3000", "0.0.0.0", IN],
    ["an IPv4 loopback address", "127.0.0.1:3000", "0.0.0.0", IN],
    ["an IPv6 loopback address", "[::1]:3000", "::", IN],
    ["the address listened on", "192.0.2.7:3000", "192.0.2.7", IN],
    ["the name listened on", "wheel.internal:3000", "wheel.internal", IN],
    ["the IPv6 address listened on", "[2001:db8::7]:3000", "2001:db8::7", IN],
    ["a name that was bound to loopback (DNS rebinding)", "evil.example:3000", "0.0.0.0", FORBIDDEN],
    ["a name that begins like loopback", "127.0.0.1.evil.example", "0.0.0.0", FORBIDDEN],
    ["a name that begins like localhost", "localhost.evil.example", "0.0.0.0", FORBIDDEN],
    ["a name that ends like localhost", "evillocalhost", "0.0.0.0", FORBIDDEN],
    ["the address that stands for all", "0.0.0.0:3000", "0.0.0.0", FORBIDDEN],
    ["another address than the one listened on", "192.0.2.8:3000", "192.0.2.7", FORBIDDEN],
    ["no Host", null, "0.0.0.0", FORBIDDEN],
    ["an empty Host", "", "0.0.0.0", FORBIDDEN],
  ];
  test.each(names)("under the name: %s", (_, host, hostname, expected) => {
    const headers: Record<string, string> = host === null ? {} : { host };
    expect(outcome(identity(headers), PROTECTED, { kind: "tcp", hostname, port: 3000 })).toBe(expected);
  });

  test("a unix socket has no name to be bound to", () => {
    const listen: Listen = { kind: "unix", path: "/run/keywheel.sock" };
    expect(outcome(identity({ host: "anything" }, null), PROTECTED, listen)).toBe(IN);
  });

  const pages: [says: string, headers: Record<string, string>, origins: string[], expected: string][] = [
    ["a program", {}, [], IN],
    ["typed into the address bar", { "sec-fetch-site": "none" }, [], IN],
    ["a page of its own", { "sec-fetch-site": "same-origin", origin: "http://localhost:3000" }, [], IN],
    ["an old browser's page of its own", { origin: "http://localhost:3000" }, [], IN],
    [
      "a page of another site",
      { "sec-fetch-site": "cross-site", origin: "https://evil.example" },
      [],
      FORBIDDEN,
    ],
    [
      "a page of another port",
      { "sec-fetch-site": "same-site", origin: "http://localhost:8080" },
      [],
      FORBIDDEN,
    ],
    ["a picture on a page of another site", { "sec-fetch-site": "cross-site" }, [], FORBIDDEN],
    ["an old browser's page of another site", { origin: "https://evil.example" }, [], FORBIDDEN],
    ["a sandboxed page or a file", { origin: "null" }, [], FORBIDDEN],
    [
      "a page that says it is of its own",
      { "sec-fetch-site": "same-origin", origin: "https://evil.example" },
      [],
      FORBIDDEN,
    ],
    [
      "a page that is allowed",
      { "sec-fetch-site": "cross-site", origin: "https://app.example" },
      ["https://app.example"],
      IN,
    ],
    [
      "a page that is not the allowed one",
      { origin: "https://app.example.evil.example" },
      ["https://app.example"],
      FORBIDDEN,
    ],
    ["a page where all are allowed", { origin: "https://evil.example" }, ["*"], IN],
    [
      "a picture, where a page is allowed",
      { "sec-fetch-site": "cross-site" },
      ["https://app.example"],
      FORBIDDEN,
    ],
  ];
  test.each(pages)("asked by: %s", (_, headers, origins, expected) => {
    expect(outcome(identity({ ...LOCAL, ...headers }), PROTECTED, EVERYWHERE, origins)).toBe(expected);
  });
});

describe("an open proxy", () => {
  test("lets everybody in who can connect", () => {
    expect(
      outcome(identity({ host: "a.example", origin: "https://b.example" }, "192.0.2.1"), { mode: "open" }),
    ).toBe(IN);
  });
});

describe("an allowed origin", () => {
  const rows: [says: string, allowed: string[], origin: string | null, isAllowed: boolean][] = [
    ["the very one", ["https://a.example"], "https://a.example", true],
    ["one of several", ["https://a.example", "http://b.example:8080"], "http://b.example:8080", true],
    ["another scheme", ["https://a.example"], "http://a.example", false],
    ["another port", ["https://a.example"], "https://a.example:8443", false],
    ["a name under it", ["https://a.example"], "https://x.a.example", false],
    ["none", ["https://a.example"], null, false],
    ["none, where all are allowed", ["*"], null, false],
    ["any, where all are allowed", ["*"], "https://a.example", true],
    ["any, where none is", [], "https://a.example", false],
  ];
  test.each(rows)("%s", (_, allowed, origin, isAllowed) => {
    expect(allowsOrigin(allowed, origin)).toBe(isAllowed);
  });
});

describe("a credential that must not go on", () => {
  test.each(["authorization", "x-api-key", "api-key", "X-Goog-Api-Key"])("is seen in %s", (name) => {
    expect(hasCredentialField(new Headers({ [name]: "x" }))).toBe(true);
  });
  test("is not seen where there is none", () => {
    expect(hasCredentialField(new Headers({ cookie: "x", "x-api-keys": "y" }))).toBe(false);
  });
  test("is one of the proxy's own keys", () => {
    expect(isClientKey("client-key-two", KEYS)).toBe(true);
    expect(isClientKey("client-key", KEYS)).toBe(false);
    expect(isClientKey("client-key-one", PROTECTED)).toBe(false);
  });
});
