/**
 * `WEBHOOK_URL`: tells a chat or a phone what somebody should know who is not looking.
 *
 * A dead key is told at once. That no key can serve, or that a provider is paused, is told when it lasts: short
 * shortages are what this proxy is there to hide. What was told to be wrong is also told to be well again. However
 * much happens, few messages go out, in the background, and a service that does not take them costs no request
 * anything.
 */
import { formatDuration, instantText } from "../core/clock.ts";
import { keyName } from "../core/events.ts";
import { codeOf } from "../core/json.ts";
import type { CancelTimer, Clock } from "../core/clock.ts";
import type { KeyEvent, Log, Observer } from "../core/events.ts";
import type { Secret } from "../core/secret.ts";
import { waitUntilMs } from "../providers/retry-hints.ts";

/** How long a shortage may last before it is told. */
const LASTS_MS = 60_000;
/** A provider that is still down says so this soon after its pause, if anybody asks it. */
const PAUSE_OVER_MS = 30_000;
/** The same thing of the same key is not told again within this time. */
const SAME_AGAIN_MS = 600_000;
/** What happens together is told together. */
const GATHER_EVENTS_MS = 1000;
/** At most one message in this time; what happens meanwhile is told in the next one. */
const MESSAGE_EVERY_MS = 10_000;
/** Notices that may wait for their message; beyond, they are only counted. */
const MOST_WAITING = 50;
const ATTEMPTS = 3;
const FIRST_BACKOFF_MS = 2000;
/** A service that asks for a longer pause than this is not asked again for this message. */
const LONGEST_PAUSE_MS = 300_000;
const MESSAGE_TIMEOUT_MS = 10_000;
/** Names that are remembered for `SAME_AGAIN_MS`. */
const MOST_TOLD = 1000;

interface WebhookOptions {
  /** `WEBHOOK_URL`: whoever knows it can post, so it is never shown. */
  url: Secret;
  clock: Clock;
  /** From 0 up to 1. */
  random: () => number;
  fetch: (url: string, init: RequestInit) => Promise<Response>;
  /** Where trouble with the webhook is said. */
  log: Log;
}

/** How a message was received. */
type DeliveryResult =
  | { kind: "delivered" }
  /** `pauseMs`: how long the service asks to be left alone; null: it does not say. */
  | { kind: "failed"; why: string; canRetry: boolean; pauseMs: number | null };

export class Webhook implements Observer {
  readonly #options: WebhookOptions;
  /** What is wrong and not told yet: it has not lasted long enough, or was told not long ago. */
  readonly #held = new Map<string, { event: KeyEvent; cancel: CancelTimer }>();
  /** What was told to be wrong and is not well yet. */
  readonly #wrong = new Set<string>();
  /** When something was last told, by its name. */
  readonly #toldAt = new Map<string, number>();
  #waiting: Notice[] = [];
  #omitted = 0;
  #cancelMessage: CancelTimer | null = null;
  #isSending = false;
  /** Epoch ms. */
  #nextMessageAt = 0;
  readonly #closing = new AbortController();

  constructor(options: WebhookOptions) {
    this.#options = options;
  }

  keyChanged(event: KeyEvent): void {
    const { provider, keyId } = event;
    switch (event.kind) {
      case "disabled":
        return this.#tellWrong(`key ${provider} ${keyId}`, event);
      case "back":
      case "resumed_by_hand":
        return this.#tellWell(`key ${provider} ${keyId}`, event);
      case "pool_dry":
        return this.#shortage(`pool ${provider}`, event);
      case "pool_recovered":
        return this.#tellWell(`pool ${provider}`, event);
      case "provider_paused":
        return this.#shortage(`provider ${provider}`, event);
      case "provider_up":
        return this.#tellWell(`provider ${provider}`, event);
      case "cooled":
      case "doubted":
      case "paused_by_hand":
        return;
    }
  }

  /** Tells nothing any more; what is under way is cut. */
  close(): void {
    this.#closing.abort();
    this.#cancelMessage?.();
    for (const { cancel } of this.#held.values()) cancel();
    this.#held.clear();
    this.#waiting = [];
  }

  /** Tells of a shortage once it has lasted, or at once where it is known to. */
  #shortage(name: string, event: KeyEvent): void {
    if (event.until === null || event.until - event.at > LASTS_MS) this.#tellWrong(name, event);
    else if (!this.#wrong.has(name)) this.#hold(name, event, LASTS_MS);
  }

  #tellWrong(name: string, event: KeyEvent): void {
    if (this.#wrong.has(name)) return;
    const now = this.#options.clock.now();
    const againAt = (this.#toldAt.get(name) ?? -Infinity) + SAME_AGAIN_MS;
    // The last thing that was told is that it is well: if it is still wrong by then, that has to be said.
    if (now < againAt) return this.#hold(name, event, againAt - now);
    this.#release(name);
    this.#remember(name, now);
    this.#wrong.add(name);
    this.#tell(noticeOf(event));
  }

  /** Keeps what is wrong to itself for a time. If it is held already, that time stands: it is one and the same. */
  #hold(name: string, event: KeyEvent, delayMs: number): void {
    const held = this.#held.get(name);
    if (held !== undefined) {
      held.event = event;
      return;
    }
    if (this.#closing.signal.aborted) return;
    const cancel = this.#options.clock.after(delayMs, () => {
      const last = this.#held.get(name)?.event ?? event;
      this.#held.delete(name);
      if (!isOverPause(last, this.#options.clock.wall())) this.#tellWrong(name, last);
    });
    this.#held.set(name, { event, cancel });
  }

  #release(name: string): void {
    this.#held.get(name)?.cancel();
    this.#held.delete(name);
  }

  /** Nobody needs to hear that something is well which was never told to be wrong. */
  #tellWell(name: string, event: KeyEvent): void {
    this.#release(name);
    if (this.#wrong.delete(name)) this.#tell(noticeOf(event));
  }

  #remember(name: string, now: number): void {
    if (this.#toldAt.size >= MOST_TOLD) {
      for (const [other, at] of this.#toldAt) if (now >= at + SAME_AGAIN_MS) this.#toldAt.delete(other);
    }
    this.#toldAt.set(name, now);
  }

  #tell(notice: Notice): void {
    if (this.#closing.signal.aborted) return;
    if (this.#waiting.length < MOST_WAITING) this.#waiting.push(notice);
    else this.#omitted += 1;
    this.#sendSoon();
  }

  #sendSoon(): void {
    if (this.#cancelMessage !== null || this.#isSending) return;
    const { clock } = this.#options;
    const delayMs = Math.max(GATHER_EVENTS_MS, this.#nextMessageAt - clock.now());
    this.#cancelMessage = clock.after(delayMs, () => {
      this.#cancelMessage = null;
      void this.#send();
    });
  }

  async #send(): Promise<void> {
    const notice = combined(this.#waiting, this.#omitted);
    this.#waiting = [];
    this.#omitted = 0;
    this.#isSending = true;
    this.#nextMessageAt = this.#options.clock.now() + MESSAGE_EVERY_MS;
    await this.#deliver(notice);
    this.#isSending = false;
    if (this.#waiting.length > 0) this.#sendSoon();
  }

  /** Tries a few times, then lets it be, and says so in the log. */
  async #deliver(notice: Notice): Promise<void> {
    const { random, log } = this.#options;
    for (let attempt = 1; ; attempt += 1) {
      const delivery = await this.#post(notice);
      if (delivery.kind === "delivered" || this.#closing.signal.aborted) return;
      const backoffMs = FIRST_BACKOFF_MS * 4 ** (attempt - 1) * (0.5 + random() / 2);
      const pauseMs = Math.max(delivery.pauseMs ?? 0, backoffMs);
      if (!delivery.canRetry || attempt >= ATTEMPTS || pauseMs > LONGEST_PAUSE_MS) {
        log.line("warn", "webhook_failed", { why: delivery.why, attempts: attempt, title: notice.title });
        return;
      }
      await this.#pause(pauseMs);
    }
  }

  /** One request. Never throws, and nothing of an error's own text is kept: it holds the URL. */
  async #post(notice: Notice): Promise<DeliveryResult> {
    const { clock, fetch } = this.#options;
    const timeout = new AbortController();
    const cancel = clock.after(MESSAGE_TIMEOUT_MS, () => timeout.abort());
    const signal = AbortSignal.any([timeout.signal, this.#closing.signal]);
    try {
      const { url, headers, body } = webhookRequest(new URL(this.#options.url.reveal()), notice);
      const response = await fetch(url, { method: "POST", headers, body, redirect: "manual", signal });
      void response.body?.cancel().catch(() => {}); // whatever it says, nobody reads it
      return judgeDelivery(response, clock.wall());
    } catch (error) {
      const why = timeout.signal.aborted
        ? `no answer within ${MESSAGE_TIMEOUT_MS / 1000} s`
        : webhookFault(error);
      return { kind: "failed", why, canRetry: true, pauseMs: null };
    } finally {
      cancel();
    }
  }

  #pause(durationMs: number): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    const cancel = this.#options.clock.after(durationMs, end);
    const { signal } = this.#closing;
    signal.addEventListener("abort", end);
    return promise;
    function end() {
      cancel();
      signal.removeEventListener("abort", end);
      resolve();
    }
  }
}

/** Whether a provider's pause ended a while ago: it would have been told if it had failed since. */
function isOverPause({ kind, until }: KeyEvent, wall: number): boolean {
  return kind === "provider_paused" && until !== null && until + PAUSE_OVER_MS <= wall;
}

/** A redirect counts as a failure: followed, the message would go somewhere that nobody configured. */
function judgeDelivery({ status, headers }: Response, now: number): DeliveryResult {
  if (status >= 200 && status < 300) return { kind: "delivered" };
  const canRetry = status === 408 || status === 429 || status >= 500;
  const pauseMs = waitUntilMs(headers.get("retry-after"), now);
  return { kind: "failed", why: `status ${status}`, canRetry, pauseMs };
}

function webhookFault(error: unknown): string {
  return codeOf(error) || (error instanceof Error ? error.name : "not an Error");
}

// ── The words of a message, and how each service wants them ───────────────────────────────────────────────────────
//
// There is no key in it. What upstream said is quoted, so nothing of it may work as markup or call everyone in a
// channel.

/** Something worth telling a person who is not looking. */
interface Notice {
  /** A few words of ASCII. */
  title: string;
  /** One or two sentences. */
  message: string;
  /** Something is wrong; else it is well again. */
  isBad: boolean;
  /** What it is about; empty: several things. */
  events: readonly KeyEvent[];
}

/** The notice of a change. `at` is the event's own. */
export function noticeOf(event: KeyEvent): Notice {
  const provider = event.provider === "default" ? "the default provider" : event.provider;
  const key = event.keyId === null ? provider : `Key ${keyName(event.account, event.keyId)} of ${provider}`;
  const because = event.reason === null ? "" : ` (${event.reason})`;
  const quote = event.said === "" ? "" : ` Upstream said: "${event.said}".`;
  const { title, message, isBad } = wording(event, provider, key, because, quote);
  return { title, message, isBad, events: [event] };
}

function wording(
  event: KeyEvent,
  provider: string,
  key: string,
  because: string,
  quote: string,
): Pick<Notice, "title" | "message" | "isBad"> {
  const forMs = event.until === null ? null : Math.max(0, event.until - event.at);
  const rest = forMs === null ? "" : ` for ${formatDuration(forMs)}`;
  switch (event.kind) {
    case "disabled":
      return {
        title: `${key} is out of use`,
        message: `${key} is out of use${because}.${quote} Replace it; or, once it works again, reset it: keywheel keys reset.`,
        isBad: true,
      };
    case "pool_dry":
      return {
        title: `No key of ${provider} can serve`,
        message:
          forMs === null
            ? `No key of ${provider} can serve, and none comes back by itself.${quote} keywheel status shows each.`
            : `No key of ${provider} can serve. The first is expected back in ${formatDuration(forMs)}.${quote}`,
        isBad: true,
      };
    case "pool_recovered":
      return {
        title: `${provider} serves again`,
        message: `A key of ${provider} can serve again.`,
        isBad: false,
      };
    case "provider_paused":
      return {
        title: `${provider} is paused`,
        message: `Requests to ${provider} are paused${rest}${because}: it fails, or refuses every key alike.${quote}`,
        isBad: true,
      };
    case "provider_up":
      return { title: `${provider} is up again`, message: `${provider} answers again.`, isBad: false };
    case "back":
    case "resumed_by_hand":
      return { title: `${key} works again`, message: `${key} is in use again.`, isBad: false };
    case "cooled":
    case "doubted":
    case "paused_by_hand":
      return { title: `${key} rests`, message: `${key} rests${rest}${because}.${quote}`, isBad: true };
  }
}

/** Lines of a summary: a message is read on a phone. */
const MOST_LINES = 10;

/** Several notices in one. `omitted`: how many more there were. */
export function combined(notices: readonly Notice[], omitted: number): Notice {
  const [only] = notices;
  if (only !== undefined && notices.length === 1 && omitted === 0) return only;
  const shown = notices.slice(0, MOST_LINES);
  const more = notices.length - shown.length + omitted;
  const lines = shown.map(({ message }) => `- ${message}`);
  if (more > 0) lines.push(`- and ${more} more: keywheel status shows all.`);
  return {
    title: `${notices.length + omitted} changes`,
    message: lines.join("\n"),
    isBad: notices.some(({ isBad }) => isBad),
    events: notices.flatMap(({ events }) => events),
  };
}

/** A POST as a service wants it. */
interface WebhookRequest {
  url: string;
  headers: Record<string, string>;
  body: string;
}

/** Discord refuses more. */
const LONGEST_CONTENT = 1900;

/**
 * The request that shows `notice` at `url`. By its host: Google Chat refuses fields it does not know, ntfy shows the
 * body as it is and takes the title from a header (docs.ntfy.sh/publish), Slack wants three characters escaped.
 * All others get one object with the names that chats look for.
 */
export function webhookRequest(url: URL, notice: Notice): WebhookRequest {
  const target = new URL(url);
  const headers: Record<string, string> = {};
  if (target.username !== "" || target.password !== "") {
    // fetch refuses an address with a password in it.
    const login = `${decodeURIComponent(target.username)}:${decodeURIComponent(target.password)}`;
    headers["authorization"] = `Basic ${Buffer.from(login).toString("base64")}`;
    target.username = target.password = "";
  }
  const title = `keywheel: ${notice.title}`;
  const text = `${title}\n${notice.message}`;
  const json = (body: object): WebhookRequest => ({
    url: target.href,
    headers: { ...headers, "content-type": "application/json; charset=UTF-8" },
    body: JSON.stringify(body),
  });
  switch (serviceOf(target)) {
    case "ntfy":
      return {
        url: target.href,
        headers: {
          ...headers,
          "content-type": "text/plain; charset=UTF-8",
          title,
          tags: notice.isBad ? "warning" : "white_check_mark",
          priority: notice.isBad ? "high" : "default",
        },
        body: notice.message,
      };
    case "google_chat":
      return json({ text });
    case "slack":
      return json({ text: text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;") });
    case "discord":
      return json({ content: text.slice(0, LONGEST_CONTENT), allowed_mentions: { parse: [] } });
    case "other":
      return json({
        text,
        content: text.slice(0, LONGEST_CONTENT),
        allowed_mentions: { parse: [] },
        title,
        message: notice.message,
        level: notice.isBad ? "warning" : "info",
        events: notice.events.map(shownEvent),
      });
  }
}

type Service = "ntfy" | "slack" | "discord" | "google_chat" | "other";

function serviceOf({ hostname, pathname }: URL): Service {
  const isAt = (domain: string) => hostname === domain || hostname.endsWith(`.${domain}`);
  if (isAt("slack.com")) return "slack";
  // Discord has an endpoint that understands Slack's format; its escapes are understood there too.
  if (isAt("discord.com") || isAt("discordapp.com")) return pathname.endsWith("/slack") ? "slack" : "discord";
  if (isAt("chat.googleapis.com")) return "google_chat";
  // ntfy.sh, or one's own server under a name that says so; a topic is one segment.
  const isNamed = hostname.split(".").some((label) => label === "ntfy" || label.startsWith("ntfy-"));
  return isNamed && /^\/[^/]+\/?$/.test(pathname) ? "ntfy" : "other";
}

/** An event as JSON, for programs. */
function shownEvent({ at, provider, keyId, account, kind, model, reason, until, said }: KeyEvent): object {
  return {
    time: instantText(at),
    kind,
    provider,
    key_id: keyId,
    account,
    model,
    reason,
    until: until === null ? null : instantText(until),
    said,
  };
}
