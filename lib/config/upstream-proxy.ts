/**
 * The way out: through which HTTP proxy a provider is reached. Pure.
 *
 * `X_UPSTREAM_PROXY` and `UPSTREAM_PROXY` are ours; without them the variables that most programs know count
 * (`HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY`, in capitals or not), and `NO_PROXY` says for whom they do not. There is no
 * common standard of these; read here is what curl, Go and Python agree on. An address may hold a password, so it is
 * a secret and no message shows it.
 */
import { urlOrNull } from "../core/language.ts";
import { Secret } from "../core/secret.ts";
import type { SettingsReader } from "./settings.ts";

/** A proxy that requests to a provider go through. */
export interface UpstreamProxy {
  /** As `fetch` takes it; it may hold a user name and a password. */
  readonly address: Secret;
  /** `proxy.example.com:3128` */
  readonly host: string;
  /** The variable that names it. */
  readonly setBy: string;
}

/** The proxy for the provider at `baseUrl`, whose own setting is `ownName`; null: the way there is direct. */
export function readUpstreamProxy(
  reader: SettingsReader,
  ownName: string,
  baseUrl: URL,
): UpstreamProxy | null {
  const own = readOwnProxy(reader, ownName);
  const shared = ownName === SHARED || own !== null ? own : readOwnProxy(reader, SHARED);
  if (isThisMachine(baseUrl.hostname)) return null;
  if (shared === "off") return null;
  if (shared !== null && shared.setBy !== SHARED) return shared;
  if (isExempt(baseUrl, exemptions(reader))) return null;
  return shared ?? readCommonProxy(reader, baseUrl.protocol);
}

const SHARED = "UPSTREAM_PROXY";

/** Null: not set, or not understood, which is a problem. */
function readOwnProxy(reader: SettingsReader, name: string): UpstreamProxy | "off" | null {
  const text = reader.text(name);
  if (text === null) return null;
  if (/^(?:off|none|direct)$/i.test(text)) return "off";
  const proxy = parseProxy(text, name);
  if (typeof proxy !== "string") return proxy;
  reader.problems.add(`${name} ${proxy}, or write off for none.`);
  return null;
}

/** Others own these variables, so one that is of no use is a warning. */
function readCommonProxy(reader: SettingsReader, protocol: string): UpstreamProxy | null {
  const names = protocol === "https:" ? ["https_proxy", "all_proxy"] : ["http_proxy", "all_proxy"];
  for (const lower of names) {
    for (const name of [lower, lower.toUpperCase()]) {
      const text = reader.text(name);
      if (text === null) continue;
      const proxy = parseProxy(text, name);
      if (typeof proxy !== "string") return proxy;
      reader.warnings.add(`${name} ${proxy} in UPSTREAM_PROXY. Until then requests go out without a proxy.`);
      return null;
    }
  }
  return null;
}

/** The proxy, or what is wrong with it and what to do, without showing it. */
function parseProxy(text: string, setBy: string): UpstreamProxy | string {
  const scheme = /^([a-z][a-z0-9+.-]*):\/\//i.exec(text)?.[1]?.toLowerCase();
  if (scheme?.startsWith("socks")) {
    return "is a SOCKS proxy, which keywheel does not speak. Use the address of an HTTP proxy, such as http://proxy.example.com:3128";
  }
  const url = urlOrNull(scheme === undefined ? `http://${text}` : text);
  const isWhole =
    url !== null &&
    !/%(?![0-9a-f]{2})/i.test(url.username + url.password) &&
    /^https?:$/.test(url.protocol) &&
    url.hostname !== "";
  if (!isWhole || /\s/.test(text) || !/^\/?$/.test(url.pathname) || url.search !== "" || url.hash !== "") {
    return "is not the address of a proxy. Use one such as http://proxy.example.com:3128 or http://user:password@proxy.example.com:3128";
  }
  const port = url.port || (url.protocol === "https:" ? "443" : "80");
  return { address: new Secret(url.href.replace(/\/$/, "")), host: `${url.hostname}:${port}`, setBy };
}

/** Whether this host name is this machine's, whatever its network. */
export function isThisMachine(hostname: string): boolean {
  const host = hostname.toLowerCase().replace(/\.$/, "");
  if (host === "localhost" || host.endsWith(".localhost")) return true;
  return host === "[::1]" || host === "[::]" || host === "0.0.0.0" || /^127(?:\.\d+){3}$/.test(host);
}

// ------------------------------------------------------------------------------------------ NO_PROXY

function exemptions(reader: SettingsReader): string[] {
  const text = reader.text("no_proxy") ?? reader.text("NO_PROXY") ?? "";
  return text.split(/[\s,]+/).filter((entry) => entry !== "");
}

/**
 * Whether one of the entries stands for the host of `url`: `*`, a name (its subdomains too, with or without a dot or
 * `*.` before it), an address, a network (`10.0.0.0/8`), each with a port or without.
 */
export function isExempt(url: URL, entries: readonly string[]): boolean {
  const host = url.hostname.toLowerCase().replace(/\.$/, "");
  const port = url.port || (url.protocol === "https:" ? "443" : "80");
  return entries.some((written) => {
    const entry = written.toLowerCase();
    if (entry === "*") return true;
    if (entry.includes("/")) return isWithin(host, entry);
    const [, name = entry, onlyPort] = /^(\[[^\]]*\]|[^:]*)(?::(\d+))?$/.exec(entry) ?? [];
    if (onlyPort !== undefined && onlyPort !== port) return false;
    return isNamedBy(host, name);
  });
}

function isNamedBy(host: string, name: string): boolean {
  const address = bitsOf(host);
  if (address !== null) return bitsOf(name)?.join("") === address.join("");
  const domain = name.replace(/^\*?\.+/, "").replace(/\.$/, "");
  return domain !== "" && (host === domain || host.endsWith(`.${domain}`));
}

/** `network`: `10.0.0.0/8`, `fd00::/8`. */
function isWithin(host: string, network: string): boolean {
  const [, start = "", digits = ""] = /^(.*)\/(\d{1,3})$/.exec(network) ?? [];
  const [address, first, size] = [bitsOf(host), bitsOf(start), Number(digits)];
  if (address === null || first === null || address.length !== first.length) return false;
  return (
    digits !== "" && size <= first.length && address.slice(0, size).join("") === first.slice(0, size).join("")
  );
}

/** The 32 or 128 bits of an address, most significant first; null: it is a name. */
function bitsOf(text: string): number[] | null {
  const host = text.replace(/^\[(.*)\]$/, "$1").replace(/%.*$/, "");
  if (/^\d{1,3}(?:\.\d{1,3}){3}$/.test(host)) return toBits(host.split(".").map(Number), 8);
  if (!host.includes(":")) return null;
  // The URL standard writes every IPv6 address in one way.
  const [head = "", tail] = (urlOrNull(`http://[${host}]`)?.hostname.slice(1, -1) ?? "").split("::");
  const groups = (part: string) => (part === "" ? [] : part.split(":").map((group) => parseInt(group, 16)));
  const [left, right] = [groups(head), groups(tail ?? "")];
  const gap = tail === undefined ? 0 : 8 - left.length - right.length;
  const all = [...left, ...new Array<number>(Math.max(0, gap)).fill(0), ...right];
  return all.length === 8 ? toBits(all, 16) : null;
}

function toBits(numbers: readonly number[], width: number): number[] {
  return numbers.flatMap((number) =>
    Array.from({ length: width }, (_, bit) => (number >> (width - 1 - bit)) & 1),
  );
}
