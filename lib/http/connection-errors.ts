/**
 * Why a provider could not be reached, in words: which host, what was wrong, and what to do. Pure.
 *
 * Of an error only its code is used: its text may hold the whole URL, and with it a key.
 */
import { codeOf } from "../core/json.ts";
import type { Unreachable } from "../providers/verdict.ts";

/** The way to a provider, as messages name it. */
export interface Way {
  /** `api.example.com`, with its port where that is not the usual one. */
  readonly host: string;
  /** The proxy in between and the variable that names it; null: the way is direct. */
  readonly proxy: { readonly host: string; readonly setBy: string } | null;
}

/** Failures before the request was sent: nothing can have been done, or billed. */
const NOT_SENT =
  /^(?:ECONNREFUSED|ENOTFOUND|EAI_\w+|EHOSTUNREACH|ENETUNREACH|ETIMEDOUT|FailedToOpenSocket|ConnectionRefused|EPROTO|ERR_PROXY_TUNNEL|UnsupportedProxyProtocol)$/;
/** Codes of OpenSSL's verification, and Node's of the name in a certificate. */
const CERTIFICATE = /CERT|^UNABLE_TO_|^INVALID_CA|^HOSTNAME_MISMATCH$/;
/** An answer that is not HTTP as it should be. */
const BAD_HTTP = /^(?:Malformed|Invalid|Unrequested|TooMany|Unexpected)/;

/** Why a fetch or a read failed. */
export function explainError(error: unknown, way: Way): Unreachable {
  const code = codeOf(error) || "unknown failure";
  if (BAD_HTTP.test(code)) {
    const message = `The provider's answer cannot be used: it is not valid HTTP (${code}).`;
    return { kind: "unreachable", type: "upstream_protocol_error", message, maybeBilled: true };
  }
  if (code === "EMFILE" || code === "ENFILE") {
    const message = `This machine has no file descriptor left for a connection (${code}).`;
    return { kind: "unreachable", type: "overloaded", message, maybeBilled: false };
  }
  if (!NOT_SENT.test(code) && !CERTIFICATE.test(code)) {
    const message = `The connection to the provider (${way.host}) broke off (${code}).`;
    return { kind: "unreachable", type: "upstream_unreachable", message, maybeBilled: true };
  }
  const reason = code === "ERR_PROXY_TUNNEL" ? refusedTunnel(error, way) : reasonOf(code, way);
  return notReached(way, reason);
}

/** A proxy has answered in the place of the provider: it wants to know who asks. */
export function proxyWantsPassword(way: Way): Unreachable {
  return notReached(way, tunnelReason("407", way));
}

function notReached({ host }: Way, reason: string): Unreachable {
  const message = `The provider cannot be reached at ${host}: ${reason}`;
  return { kind: "unreachable", type: "upstream_unreachable", message, maybeBilled: false };
}

/** The cause and the remedy. With a proxy in between, what is looked up and connected to is the proxy. */
function reasonOf(code: string, { host, proxy }: Way): string {
  if (CERTIFICATE.test(code)) return certificateReason(code, host);
  const [what, where] = proxy === null ? ["it", "its base URL"] : [`the proxy ${proxy.host}`, proxy.setBy];
  switch (code) {
    case "ENOTFOUND":
      return `${proxy === null ? "its name" : `the name of ${what}`} is not known (${code}). Check ${where} for a slip, and whether this machine is online.`;
    case "ECONNREFUSED":
    case "ConnectionRefused":
      return `${what} refuses connections (${code}): nothing listens there. Check that it runs, and ${where}.`;
    case "EHOSTUNREACH":
    case "ENETUNREACH":
      return `no way leads to ${what} (${code}). Check the network of this machine, and ${where}.`;
    case "ETIMEDOUT":
      return `${what} does not answer (${code}). Check for a firewall in between, and ${where}.`;
    case "EPROTO":
      return `${what} does not speak TLS (${code}). Check the scheme (http or https) and the port of ${where}.`;
    default:
      return code.startsWith("EAI_")
        ? `the name server does not answer (${code}). Check the network and the name server of this machine.`
        : `${code}. Check ${where}.`;
  }
}

function certificateReason(code: string, host: string): string {
  switch (code) {
    case "ERR_TLS_CERT_ALTNAME_INVALID":
    case "HOSTNAME_MISMATCH":
      return `its certificate is for another name (${code}). Check the host in the base URL; something in between may answer for it.`;
    case "CERT_HAS_EXPIRED":
      return `its certificate has expired (${code}). Check the date of this machine; else ${host} has to renew it.`;
    case "CERT_NOT_YET_VALID":
      return `its certificate is not valid yet (${code}). Check the date of this machine.`;
    case "CERT_REVOKED":
      return `its certificate was revoked (${code}). ${host} has to replace it.`;
    default:
      return `its certificate is not signed by anyone this machine trusts (${code}). If a company's proxy or server signs it, put the certificate of its CA into a file, set NODE_EXTRA_CA_CERTS=/path/of/the/file, and restart.`;
  }
}

/** The runtime says in its error's text what the proxy answered; no more than the three digits is taken from it. */
function refusedTunnel(error: unknown, way: Way): string {
  const text = error instanceof Error ? error.message.slice(0, 200) : "";
  return tunnelReason(/\b([1-5]\d\d)\b/.exec(text)?.[1] ?? "no status", way);
}

function tunnelReason(status: string, { host, proxy }: Way): string {
  const name = proxy === null ? "a proxy" : `the proxy ${proxy.host} (${proxy.setBy})`;
  switch (status) {
    case "407":
      return `${name} asks for a user name and a password (407). Write them into its address, as in UPSTREAM_PROXY=http://user:password@${proxy?.host ?? "host:port"}.`;
    case "403":
    case "401":
      return `${name} does not allow the way there (${status}). Have ${host} allowed there, or go around it: NO_PROXY=${host}.`;
    default:
      return `${name} could not open the way there (${status}). Check that it can reach ${host}.`;
  }
}
