/**
 * The page under `/admin`: one document, embedded in the executable, with the strictest rules a browser keeps.
 *
 * Its own scripts and styles are allowed by their hashes, computed from the document itself, so nothing that gets
 * into the page by a mistake of ours (a key's account with a `<script>` in it) is ever run.
 */
import document from "./dashboard.html" with { type: "text" };

/** Answers with the page, compressed where `acceptEncoding` allows it. */
export function createPage(): (acceptEncoding: string) => Response {
  let prepared: Prepared | null = null;
  return (acceptEncoding) => {
    // `String`: the compiler takes every *.html for a bundle, whatever it is imported as (bun-types 1.4.5).
    prepared ??= prepare(String(document));
    const isZipped = acceptsGzip(acceptEncoding);
    const headers = new Headers(prepared.headers);
    if (isZipped) headers.set("content-encoding", "gzip");
    return new Response(isZipped ? prepared.zipped : prepared.plain, { headers });
  };
}

interface Prepared {
  plain: Uint8Array<ArrayBuffer>;
  zipped: Uint8Array<ArrayBuffer>;
  headers: Record<string, string>;
}

/** Done once, at the first visit. */
function prepare(html: string): Prepared {
  const plain = new TextEncoder().encode(html);
  const headers = {
    "cache-control": "no-store",
    "content-security-policy": contentPolicy(html),
    "content-type": "text/html; charset=utf-8",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    vary: "accept-encoding",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
  };
  return { plain, zipped: Bun.gzipSync(plain), headers };
}

/** The `content-security-policy` of a document: only its own inline scripts and styles, only its own server. */
export function contentPolicy(html: string): string {
  return [
    "default-src 'none'",
    `script-src ${hashesOf("script", html)}`,
    `style-src ${hashesOf("style", html)}`,
    "img-src data:",
    "connect-src 'self'",
    "form-action 'none'",
    "base-uri 'none'",
    "frame-ancestors 'none'",
  ].join("; ");
}

/** A browser hashes what stands between the tags, after it has made every line end a line feed (HTML 13.2.3.5). */
function hashesOf(element: "script" | "style", html: string): string {
  const contents = html
    .replace(/\r\n?/g, "\n")
    .matchAll(new RegExp(`<${element}\\b[^>]*>(.*?)</${element}\\s*>`, "gis"));
  const hashes = [...contents].map(
    ([, text = ""]) => `'sha256-${new Bun.CryptoHasher("sha256").update(text).digest("base64")}'`,
  );
  return hashes.length === 0 ? "'none'" : hashes.join(" ");
}

function acceptsGzip(acceptEncoding: string): boolean {
  const [, weight = "1"] = /(?:^|[\s,])gzip\s*(?:;\s*q=([\d.]+))?\s*(?:,|$)/i.exec(acceptEncoding) ?? [, "0"];
  return Number(weight) > 0;
}
