/**
 * What an operator is told of a change, in words, and how each service wants to be given them. Pure.
 *
 * There is no key in it. What upstream said is quoted, so nothing of it may work as markup or call everyone in a
 * channel.
 */
import { formatDuration } from "../core/clock.ts";
import type { KeyEvent } from "../core/events.ts";

/** Something worth telling a person who is not looking. */
export interface Notice {
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
  const key = event.key === null ? provider : `Key [${event.key}] of ${provider}`;
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
export interface WebhookRequest {
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

/** An event for programs, with the names of the contract. */
function shownEvent({ at, provider, key, keyId, kind, model, reason, until, said }: KeyEvent): object {
  return {
    time: new Date(at).toISOString(),
    kind,
    provider,
    key,
    key_id: keyId,
    model,
    reason,
    until: until === null ? null : new Date(until).toISOString(),
    said,
  };
}
