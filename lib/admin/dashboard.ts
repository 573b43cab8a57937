/**
 * The page under `/admin`: one document, embedded in the executable, with the strictest rules a browser keeps.
 *
 * Its own scripts and styles are allowed by their hashes, computed from the document itself, so nothing that gets
 * into the page by a mistake of ours (a key's account with a `<script>` in it) is ever run.
 */
import base from "./dashboard/base.css" with { type: "text" };
import dom from "./dashboard/dom.js" with { type: "text" };
import forms from "./dashboard/forms.js" with { type: "text" };
import hero from "./dashboard/hero.js" with { type: "text" };
import keys from "./dashboard/keys.js" with { type: "text" };
import live from "./dashboard/live.css" with { type: "text" };
import main from "./dashboard/main.js" with { type: "text" };
import frame from "./dashboard/page.html" with { type: "text" };
import requests from "./dashboard/requests.js" with { type: "text" };
import server from "./dashboard/server.js" with { type: "text" };
import snippets from "./dashboard/snippets.js" with { type: "text" };
import state from "./dashboard/state.js" with { type: "text" };
import status from "./dashboard/status.js" with { type: "text" };
import toolsStyle from "./dashboard/tools.css" with { type: "text" };
import tools from "./dashboard/tools.js" with { type: "text" };
import traffic from "./dashboard/traffic.js" with { type: "text" };
import usageStyle from "./dashboard/usage.css" with { type: "text" };
import usage from "./dashboard/usage.js" with { type: "text" };
import words from "./dashboard/words.js" with { type: "text" };
import type { CancelTimer, Clock } from "../core/clock.ts";
import { shownKeyEvent, shownRequest } from "./views.ts";
import type { LiveEvent } from "./views.ts";

/** Answers with the page, compressed where `acceptEncoding` allows it. */
export function createPage(): (acceptEncoding: string) => Response {
  let prepared: Prepared | null = null;
  return (acceptEncoding) => {
    prepared ??= prepare(document());
    const isZipped = acceptsGzip(acceptEncoding);
    const headers = new Headers(prepared.headers);
    if (isZipped) headers.set("content-encoding", "gzip");
    return new Response(isZipped ? prepared.zipped : prepared.plain, { headers });
  };
}

/** What a file needs of another stands before it, so that nothing is asked for before it is there. */
const STYLES = [base, live, usageStyle, toolsStyle];
const SCRIPTS = [
  words,
  status,
  dom,
  state,
  server,
  hero,
  traffic,
  keys,
  forms,
  requests,
  snippets,
  tools,
  usage,
  main,
];

/** The whole page. Its scripts are modules that import each other; here they become one. */
export function document(): string {
  const script = SCRIPTS.map((text) =>
    text.replace(/^import\b[^;]*;\n/gm, "").replace(/^export (?=async |function |class |const |let )/gm, ""),
  ).join("\n");
  // `String`: the compiler takes every *.html for a bundle, whatever it is imported as (bun-types 1.4.5).
  return String(frame)
    .replace("<style></style>", () => `<style>\n${STYLES.join("\n")}</style>`)
    .replace('<script type="module"></script>', () => `<script type="module">\n${script}</script>`);
}

interface Prepared {
  plain: Uint8Array<ArrayBuffer>;
  zipped: Uint8Array<ArrayBuffer>;
  headers: Record<string, string>;
}

/** Done once, at the first request. */
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

// ── The live view ─────────────────────────────────────────────────────────────────────────────────────────────────
//
// One timer and one subscription serve everyone who watches, and there is neither while nobody does. Each reader has
// a bounded queue of its own; one that does not keep up is dropped, and comes back by itself.

const MOST_READERS = 16;
/** In UTF-16 units: mostly bytes. An overview of a few hundred keys fits several times. */
const MOST_QUEUED = 512 * 1024;
const LIVE_TICK_MS = 1000;
/** Shorter than any idle timer on the way, the server's own (30 s) first. */
const HEARTBEAT_MS = 15_000;
const HEARTBEAT = ":\n\n";
/** How soon a browser comes back after the stream has ended. */
const RECONNECT = "retry: 2000\n\n";

interface LiveOptions {
  clock: Clock;
  /** The overview in JSON. Asked once a second, while somebody watches. */
  overview(): string;
  subscribe(listener: (event: LiveEvent) => void): () => void;
}

/** Everyone who watches. */
export class Live {
  readonly #options: LiveOptions;
  readonly #readers = new Set<Reader>();
  #unsubscribe = () => {};
  #cancelTick: CancelTimer = () => {};
  /** The last overview that was sent, without what runs by itself. */
  #shown = "";

  constructor(options: LiveOptions) {
    this.#options = options;
  }

  /** How many watch. */
  get size(): number {
    return this.#readers.size;
  }

  /** A stream of everything from now on, or null where there are too many. `isWelcome`: asked from time to time. */
  open(isWelcome: () => boolean): ReadableStream<Uint8Array> | null {
    if (this.#readers.size >= MOST_READERS) return null;
    const { clock, overview, subscribe } = this.#options;
    const reader = new Reader(isWelcome, clock.now(), () => this.#leave(reader));
    this.#readers.add(reader);
    if (this.#readers.size === 1) {
      this.#unsubscribe = subscribe((event) => this.#tell(event));
      this.#scheduleTick();
    }
    const text = overview();
    // Those who watch already have it, or get it with the next tick.
    if (this.#readers.size === 1) this.#shown = withoutRunning(text);
    reader.send(RECONNECT + written("overview", text), clock.now());
    return reader.stream;
  }

  /** Ends every stream. */
  close(): void {
    for (const reader of [...this.#readers]) reader.end();
  }

  #leave(reader: Reader): void {
    if (!this.#readers.delete(reader) || this.#readers.size > 0) return;
    this.#unsubscribe();
    this.#cancelTick();
    this.#shown = "";
  }

  #scheduleTick(): void {
    this.#cancelTick = this.#options.clock.after(LIVE_TICK_MS, () => this.#tick());
  }

  #tick(): void {
    const now = this.#options.clock.now();
    for (const reader of [...this.#readers]) reader.beat(now);
    if (this.#readers.size === 0) return;
    this.#scheduleTick();
    const text = this.#options.overview();
    const shown = withoutRunning(text);
    if (shown === this.#shown) return;
    this.#shown = shown;
    this.#sendAll(written("overview", text));
  }

  #tell(event: LiveEvent): void {
    switch (event.kind) {
      case "request":
        return this.#sendAll(written("request", JSON.stringify(shownRequest(event.record))));
      case "key":
        return this.#sendAll(written("key", JSON.stringify(shownKeyEvent(event.event))));
    }
  }

  #sendAll(text: string): void {
    const now = this.#options.clock.now();
    for (const reader of [...this.#readers]) reader.send(text, now);
  }
}

/** JSON has no line breaks of its own, so one `data` line holds it. */
function written(event: string, json: string): string {
  return `event: ${event}\ndata: ${json}\n\n`;
}

const RUNS_BY_ITSELF =
  /"(?:now|uptime_sec|cooldown_sec|paused_sec|next_key_sec|queue_sec|wait_sec|waited_ms|total_ms)":(?:"[^"]*"|null|\d+)|"text":"(?:[^"\\]|\\.)*"/g;

/** What changes with time alone is no news: the page counts down itself. */
function withoutRunning(overview: string): string {
  return overview.replace(RUNS_BY_ITSELF, "");
}

/** One stream. The queue is ours and not the runtime's, so that dropping a reader frees it at once. */
class Reader {
  readonly stream: ReadableStream<Uint8Array>;
  readonly #isWelcome: () => boolean;
  readonly #left: () => void;
  #queue = "";
  #sentAt: number;
  #hasEnded = false;
  /** Resolves what the runtime waits for; null: it waits for nothing. */
  #wake: (() => void) | null = null;

  constructor(isWelcome: () => boolean, now: number, left: () => void) {
    this.#isWelcome = isWelcome;
    this.#left = left;
    this.#sentAt = now;
    const pull = (controller: ReadableStreamDefaultController<Uint8Array>) => this.#pull(controller);
    this.stream = new ReadableStream({ pull, cancel: () => this.end() }, { highWaterMark: 0 });
  }

  send(text: string, now: number): void {
    if (this.#hasEnded) return;
    if (this.#queue.length + text.length > MOST_QUEUED) return this.end();
    this.#queue += text;
    this.#sentAt = now;
    this.#wake?.();
  }

  /** Keeps a silent stream open, and ends one that is not welcome any more. */
  beat(now: number): void {
    if (!this.#isWelcome()) this.end();
    else if (now - this.#sentAt >= HEARTBEAT_MS) this.send(HEARTBEAT, now);
  }

  end(): void {
    if (this.#hasEnded) return;
    this.#hasEnded = true;
    this.#queue = "";
    this.#left();
    this.#wake?.();
  }

  async #pull(controller: ReadableStreamDefaultController<Uint8Array>): Promise<void> {
    if (this.#queue === "" && !this.#hasEnded) {
      const { promise, resolve } = Promise.withResolvers<void>();
      this.#wake = resolve;
      await promise;
      this.#wake = null;
    }
    if (this.#hasEnded) return controller.close();
    const bytes = new TextEncoder().encode(this.#queue);
    this.#queue = "";
    controller.enqueue(bytes);
  }
}
