import { describe, expect, test } from "bun:test";
import { explainError } from "./connection-errors.ts";

const DIRECT = { host: "api.example.com", proxy: null };
const PROXIED = { host: "api.example.com", proxy: { host: "proxy.corp:3128", setBy: "HTTPS_PROXY" } };

function errorWith(code: string, text = "https://api.example.com/?key=canary"): Error {
  return Object.assign(new Error(text), { code });
}

describe("a provider that was not reached", () => {
  const table: [says: string, code: string, way: typeof DIRECT | typeof PROXIED, words: string[]][] = [
    ["has a name that nobody knows", "ENOTFOUND", DIRECT, ["its name is not known (ENOTFOUND)", "base URL"]],
    [
      "has a name server that is silent",
      "EAI_AGAIN",
      DIRECT,
      ["the name server does not answer (EAI_AGAIN)"],
    ],
    [
      "refuses connections",
      "ECONNREFUSED",
      DIRECT,
      ["refuses connections (ECONNREFUSED)", "Check that it runs"],
    ],
    ["has no way leading to it", "EHOSTUNREACH", DIRECT, ["no way leads", "(EHOSTUNREACH)", "network"]],
    ["is on no network of ours", "ENETUNREACH", DIRECT, ["no way leads", "(ENETUNREACH)"]],
    ["is behind a firewall", "ETIMEDOUT", DIRECT, ["does not answer (ETIMEDOUT)", "firewall"]],
    ["speaks no TLS", "EPROTO", DIRECT, ["does not speak TLS (EPROTO)", "scheme"]],
    [
      "is signed by a company",
      "UNABLE_TO_VERIFY_LEAF_SIGNATURE",
      DIRECT,
      ["certificate", "NODE_EXTRA_CA_CERTS="],
    ],
    [
      "is signed by a CA of one's own",
      "SELF_SIGNED_CERT_IN_CHAIN",
      DIRECT,
      ["certificate", "NODE_EXTRA_CA_CERTS="],
    ],
    ["signs itself", "DEPTH_ZERO_SELF_SIGNED_CERT", DIRECT, ["certificate", "NODE_EXTRA_CA_CERTS="]],
    ["has an old certificate", "CERT_HAS_EXPIRED", DIRECT, ["has expired", "date of this machine"]],
    [
      "has a certificate of tomorrow",
      "CERT_NOT_YET_VALID",
      DIRECT,
      ["not valid yet", "date of this machine"],
    ],
    ["has the certificate of another", "ERR_TLS_CERT_ALTNAME_INVALID", DIRECT, ["for another name", "host"]],
    [
      "is behind a proxy with a wrong name",
      "ENOTFOUND",
      PROXIED,
      ["the name of the proxy proxy.corp:3128", "HTTPS_PROXY"],
    ],
    [
      "is behind a proxy that is down",
      "ECONNREFUSED",
      PROXIED,
      ["the proxy proxy.corp:3128 refuses", "HTTPS_PROXY"],
    ],
    ["is behind a proxy whose CA is its own", "SELF_SIGNED_CERT_IN_CHAIN", PROXIED, ["NODE_EXTRA_CA_CERTS="]],
  ];
  test.each(table)("%s, and the message says what to do", (_, code, way, words) => {
    const setback = explainError(errorWith(code), way);
    expect(setback).toMatchObject({ kind: "unreachable", type: "upstream_unreachable", maybeBilled: false });
    expect(setback.message).toStartWith("The provider cannot be reached at api.example.com: ");
    for (const word of words) expect(setback.message).toContain(word);
    expect(setback.message).not.toContain("canary");
  });

  const refusals: [status: string, words: string][] = [
    [
      "407 Proxy Authentication Required",
      "asks for a user name and a password (407). Write them into its address",
    ],
    ["403 Forbidden", "does not allow the way there (403). Have api.example.com allowed there"],
    ["502 Bad Gateway", "could not open the way there (502)."],
    ["999", "could not open the way there (no status)."],
  ];
  test.each(refusals)("is behind a proxy that answers %s", (status, words) => {
    const error = errorWith("ERR_PROXY_TUNNEL", `Proxy refused to open a tunnel: ${status}`);
    const { message, maybeBilled } = explainError(error, PROXIED);
    expect(message).toContain(`the proxy proxy.corp:3128 (HTTPS_PROXY) ${words}`);
    expect(maybeBilled).toBe(false);
  });

  test("is not blamed where the connection broke off later, or what came was no HTTP", () => {
    expect(explainError(errorWith("ECONNRESET"), DIRECT)).toMatchObject({
      message: "The connection to the provider (api.example.com) broke off (ECONNRESET).",
      maybeBilled: true,
    });
    expect(explainError(errorWith("Malformed_HTTP_Response"), DIRECT).type).toBe("upstream_protocol_error");
    expect(explainError("no error at all", DIRECT).maybeBilled).toBe(true);
  });
});
