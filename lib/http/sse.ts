/**
 * Streams of events as they come in pieces: where an event begins and ends, whether the stream said that it was
 * complete, and whether it said that it failed.
 *
 * A stream is complete when an event said so; a clean end of the connection is not enough (a gateway that times out
 * ends cleanly too). A follower keeps only what it needs to judge at the end: the last few kilobytes, and the last
 * event. Per chunk it looks at the last bytes, and for one word.
 */
import { encodingsOf, Gathering, joined, NO_BYTES, unpack } from "./body.ts";
import type { Bytes } from "./body.ts";
import type { TokenUsage } from "../core/events.ts";
import { asBuffer } from "../core/json.ts";
import { CR, LF } from "../core/text.ts";
import { usageOfBody, usageOfEvents } from "../providers/token-usage.ts";
import { holdsError, OVERLAP_BYTES, seam, tail } from "./error-words.ts";
import { JsonFollower } from "./json-follower.ts";
import { PackedFollower } from "./packed-follower.ts";
import type { StreamEnd, StreamFollower } from "./stream-follower.ts";
import { dialectOfLine, laterMark, markOfLine } from "./stream-dialect.ts";
import type { Mark, StreamDialect } from "./stream-dialect.ts";

/** How a body is to be read. */
export type Framing =
  /** Server-sent events. */
  | "events"
  /** JSON, a value a line. */
  | "lines"
  | "json"
  /** A long error, of which only the keys in it are of interest. */
  | "error"
  | "other";

/** By its content type, however that is written. */
export function framingOf(headers: Headers): Framing {
  const type = headers.get("content-type");
  // The usual ones are found without taking them apart.
  if (type === "application/json") return "json";
  if (type === "text/event-stream") return "events";
  if (type === null) return "other";
  const [name = ""] = type.split(";", 1);
  const essence = name.trim().toLowerCase();
  if (essence === "text/event-stream") return "events";
  if (LINES_TYPES.has(essence)) return "lines";
  return essence === "application/json" || essence.endsWith("+json") ? "json" : "other";
}

const LINES_TYPES: ReadonlySet<string> = new Set([
  "application/x-ndjson",
  "application/ndjson",
  "application/jsonl",
  "application/x-jsonlines",
  "application/stream+json",
]);

/** Whether a body is a stream of events although its type does not say so: its first bytes are those of one. */
export function beginsWithEvent(body: Bytes): boolean {
  return FIRST_LINE.test(asBuffer(body).toString("latin1", 0, FIRST_LINE_BYTES));
}

const FIRST_LINE = /^(?:\uFEFF|\u00EF\u00BB\u00BF)?(?:data|event): ?[^ ]/;
const FIRST_LINE_BYTES = 16;

// ---------------------------------------------------------------- one event after the other

/**
 * Finds where events begin and end, as bytes come in. Every byte is looked at once, in however many pieces they come.
 *
 * Comments and fields without data (`retry: 3000`) are no event. In the place of an event may stand JSON, as an error
 * or as a line of its own: it is whole when its brackets are closed.
 */
export class EventScanner {
  readonly #seen = new Gathering();
  /** So far it was looked. */
  #at = 0;
  #begin = 0;
  #within: "no_line" | "comment" | "event" | "json" = "no_line";
  #previous = 0;
  /** Whether the line has nothing in it so far, and whether one before it had data. */
  #isLineEmpty = true;
  #hasData = false;
  #depth = 0;
  #isInString = false;
  #isEscaped = false;
  /** Something else than comments has come. */
  hasBegun = false;
  /** All of the present event is here. */
  isWhole = false;

  push(piece: Bytes): void {
    this.#seen.push(piece);
    this.#scan();
  }

  /** Goes on to the event behind one that is whole. */
  next(): void {
    this.isWhole = false;
    this.#within = "no_line";
    this.#hasData = false;
    this.#begin = this.#at;
    this.#scan();
  }

  /** All that has come. */
  get bytes(): Bytes {
    return this.#seen.bytes;
  }

  /** The present event, with the comments before it; as long as it is not whole, all behind the one before. */
  get event(): Bytes {
    return this.bytes.subarray(this.#begin, this.isWhole ? this.#at : undefined);
  }

  #scan(): void {
    const { bytes } = this.#seen;
    while (this.#at < bytes.length && !this.isWhole) {
      const byte = bytes[this.#at]!;
      this.#step(byte);
      this.#previous = byte;
      this.#at += 1;
    }
  }

  #step(byte: number): void {
    switch (this.#within) {
      case "no_line":
        if (byte !== LF && byte !== CR) this.#startLine(byte);
        return;
      case "comment":
        if (byte === LF) this.#within = "no_line";
        return;
      case "event":
        return this.#stepInEvent(byte);
      case "json":
        return this.#stepInJson(byte);
    }
  }

  #startLine(byte: number): void {
    if (byte === 0x3a /* : */) {
      this.#within = "comment";
      return;
    }
    this.hasBegun = true;
    this.#within = byte === 0x7b /* { */ || byte === 0x5b /* [ */ ? "json" : "event";
    this.#isLineEmpty = true;
    this.#step(byte);
  }

  /** An event ends with an empty line; its lines end with CR, LF or both. */
  #stepInEvent(byte: number): void {
    if (byte === LF && this.#previous === CR) return;
    if (byte !== LF && byte !== CR) {
      if (this.#isLineEmpty && byte === 0x64 /* d, of data */) this.#hasData = true;
      this.#isLineEmpty = false;
      return;
    }
    if (!this.#isLineEmpty) this.#isLineEmpty = true;
    else if (this.#hasData) this.isWhole = true;
    else this.#within = "no_line";
  }

  #stepInJson(byte: number): void {
    if (this.#isInString) {
      if (this.#isEscaped) this.#isEscaped = false;
      else if (byte === 0x5c /* \ */) this.#isEscaped = true;
      else if (byte === 0x22 /* " */) this.#isInString = false;
      return;
    }
    if (byte === 0x22) this.#isInString = true;
    else if (byte === 0x7b || byte === 0x5b) this.#depth += 1;
    else if (byte === 0x7d || byte === 0x5d) this.#depth -= 1;
    if (this.#depth === 0) this.isWhole = true;
  }
}

// ---------------------------------------------------------------- to the end

/** What is known of a body that is to be followed. */
export interface Followed {
  readonly dialect: StreamDialect;
  readonly framing: Framing;
  readonly headers: Headers;
  /** Takes what must not go out, such as keys, out of a text; the same text where there is none. */
  readonly clean: (text: string) => string;
  /** Whether the tokens that it names are wanted. */
  readonly countsTokens: boolean;
}

/** A follower for an answer; null where the framing of HTTP tells whether it is whole, and nobody asks for more. */
export function followerOf({
  dialect,
  framing,
  headers,
  clean,
  countsTokens,
}: Followed): StreamFollower | null {
  const encoding = headers.get("content-encoding");
  const isPacked = encoding !== null && encoding !== "identity";
  switch (framing) {
    case "other":
      return null;
    case "error":
      return new ErrorFollower(clean);
    case "json": {
      const isFramed = headers.has("content-length") || isPacked;
      if (isFramed && !countsTokens) return null;
      const follow = (cleanText: typeof clean) => new JsonFollower(dialect, isFramed, cleanText);
      return isPacked ? PackedFollower.of(encoding, follow, clean, isFramed) : follow(clean);
    }
    case "events":
    case "lines":
      const follow = (cleanText: typeof clean) => new PlainFollower(dialect, framing, cleanText);
      return isPacked ? PackedFollower.of(encoding, follow, clean, false) : follow(clean);
  }
}

/** Takes out of a long error what must not go out, as it goes by. */
class ErrorFollower implements StreamFollower {
  readonly isPlain = false;
  readonly atEdge = true;
  readonly dialect = "other";
  readonly failure = "";
  searchedBytes = 0;
  readonly #clean: (text: string) => string;
  /** A character a byte. */
  #held = "";

  constructor(clean: (text: string) => string) {
    this.#clean = clean;
  }

  push(chunk: Bytes): Bytes | null {
    this.#held += asBuffer(chunk).toString("latin1");
    return this.#held.length < HELD_BYTES ? null : this.#release(-OVERLAP_BYTES);
  }

  rest(): Bytes | null {
    return this.#held === "" ? null : this.#release();
  }

  /** Lets all go but what may hold the beginning of a key. */
  #release(end?: number): Bytes {
    const clean = this.#clean(this.#held);
    this.searchedBytes += this.#held.length;
    this.#held = end === undefined ? "" : clean.slice(end);
    return new Uint8Array(Buffer.from(clean.slice(0, end), "latin1"));
  }

  end(): "complete" {
    return "complete";
  }

  isOver(): boolean {
    return false;
  }

  tokens(): null {
    return null;
  }
}

/** At least this much of a stream's end is kept: a last chunk with its usage and the end mark fit in. */
const TAIL_BYTES = 2048;
/** A last event is kept whole up to this length; of a longer one its beginning tells what it is. */
const LAST_EVENT_BYTES = 32 * 1024;
/** So much of a stream's start is kept: Anthropic's first event, which names the input. */
const START_BYTES = 2048;
/** How much of such an event's beginning is kept: its name and its type stand there. */
const EVENT_HEAD_BYTES = 512;
/** A chunk up to this length is kept as it is; of a longer one a copy of what is needed, so that it can be let go. */
const SMALL_CHUNK_BYTES = 4096;
/** An event that may be an error is held back up to this length; then its beginning goes on. */
const HELD_BYTES = 256 * 1024;

/** Follows a stream that is not compressed. */
class PlainFollower implements StreamFollower {
  readonly isPlain = true;
  dialect: StreamDialect;
  failure = "";
  searchedBytes = 0;
  readonly #isLines: boolean;
  readonly #clean: (text: string) => string;
  /** The last chunks, as far as they are needed: those that the last event is made of, and some bytes before. */
  #kept: Bytes[] = [];
  #keptBytes = 0;
  /** Whether what is kept begins at the beginning of a line. */
  #keptFromLine = true;
  /** In which of the kept chunks the last event began. */
  #lastEventAt = 0;
  /** The beginning of a last event that is too long to be kept whole. */
  #longEventHead: Uint8Array | null = null;
  #atEdge = true;
  /** Ends with the last four bytes that came. */
  #last: Uint8Array = NO_BYTES;
  #held: Gathering | null = null;
  /** What went out of the event that is looked at, before it was seen that it may be an error. */
  #begun = "";
  #hasFailed = false;
  #start: Bytes = NO_BYTES;
  /** All that is kept, once it was looked at. */
  #end: Uint8Array | null = null;
  /** Whether the first event, which may name tokens, has not come to its end. */
  #isStarting: boolean;

  constructor(dialect: StreamDialect, framing: "events" | "lines", clean: (text: string) => string) {
    this.dialect = dialect;
    this.#isLines = framing === "lines";
    this.#clean = clean;
    this.#isStarting = dialect === "anthropic" || dialect === "other";
  }

  get atEdge(): boolean {
    return this.#atEdge;
  }

  get isHolding(): boolean {
    return this.#held !== null;
  }

  push(chunk: Bytes): Bytes | null {
    if (chunk.length === 0) return chunk;
    if (this.#isStarting) this.#keepStart(chunk);
    const beganEvent = this.#atEdge;
    const previous = this.#last;
    this.#atEdge = this.#endsEvent(previous, chunk);
    // A view of a chunk would cost more than all the rest; a large one has to be let go.
    if (chunk.length < 4) this.#last = tail(previous, chunk);
    else this.#last = chunk.length > SMALL_CHUNK_BYTES ? chunk.slice(-4) : chunk;
    const mayFail =
      this.#held === null && (holdsError(chunk) || (!beganEvent && holdsError(seam(previous, chunk))));
    if (mayFail) this.#begun = beganEvent ? "" : this.#lastEventSoFar();
    this.#keep(chunk, beganEvent, previous);
    if (this.#held !== null) {
      this.#held.push(chunk);
      // Searched again only where an event has come to its end: many small pieces must not cost their square.
      const mayGo = this.#atEdge || this.#held.length > HELD_BYTES || this.#holdsEdge(previous, chunk);
      return mayGo ? this.#release(this.#held.bytes) : null;
    }
    return mayFail ? this.#release(chunk) : chunk;
  }

  #keepStart(chunk: Bytes): void {
    const start = joined([this.#start, chunk.subarray(0, START_BYTES - this.#start.length)]);
    this.#isStarting = start.length < START_BYTES && this.#lastEdge(start) === 0;
    this.#start = start;
  }

  /** Of bytes that may hold an error: what can go on, cleaned; null: nothing yet. */
  #release(bytes: Bytes): Bytes | null {
    const end = this.#atEdge ? bytes.length : this.#lastEdge(bytes);
    if (bytes.length - end > HELD_BYTES) return this.#releaseLong(bytes);
    const rest = bytes.subarray(end);
    // Where no event ended, these bytes go on with the one that holds a word of an error, maybe cut in two.
    const isHeld = rest.length > 0 && (end === 0 || holdsError(rest));
    this.#held = null;
    if (isHeld) this.#hold(rest);
    const whole = bytes.subarray(0, end);
    const cleaned = whole.length === 0 ? whole : this.#cleaned(whole);
    if (isHeld) return cleaned.length === 0 ? null : cleaned;
    return cleaned === whole ? bytes : joined([cleaned, rest]);
  }

  #releaseLong(bytes: Bytes): Bytes {
    const cleaned = this.#cleaned(bytes);
    this.#hold(cleaned.subarray(-OVERLAP_BYTES));
    return cleaned.subarray(0, -OVERLAP_BYTES);
  }

  #hold(bytes: Bytes): void {
    this.#held = new Gathering();
    this.#held.push(bytes.slice());
  }

  /** Events that may be errors, without what must not go out; the same bytes where nothing of it is there. */
  #cleaned(events: Bytes): Bytes {
    this.searchedBytes += events.length;
    const text = asBuffer(events).toString("latin1"); // a character a byte: nothing else is changed
    const failure = failureIn(this.#begun + text, this.dialect);
    this.#begun = "";
    if (failure?.mark === "failed") this.#hasFailed = true;
    if (failure !== null) this.failure = this.#clean(Buffer.from(failure.event, "latin1").toString());
    const clean = this.#clean(text);
    return clean === text ? events : new Uint8Array(Buffer.from(clean, "latin1"));
  }

  rest(): Bytes | null {
    if (this.#held === null) return null;
    const bytes = this.#held.bytes;
    this.#held = null;
    return this.#cleaned(bytes);
  }

  #lastEventSoFar(): string {
    return Buffer.concat(this.#kept.slice(this.#lastEventAt)).toString("latin1");
  }

  #keep(chunk: Bytes, beganEvent: boolean, previous: Uint8Array): void {
    const isSmall = chunk.length <= SMALL_CHUNK_BYTES;
    // The end of an event at the chunk's end is none within it.
    const inner =
      beganEvent && isSmall ? 0 : this.#lastEdge(chunk.subarray(0, chunk.length - (this.#atEdge ? 1 : 0)));
    if (beganEvent || inner > 0 || (!this.#atEdge && this.#edgeInSeam(previous, chunk))) {
      this.#lastEventAt = this.#kept.length;
      this.#longEventHead = null;
    }
    let kept = chunk;
    if (!isSmall) {
      const from = Math.max(0, Math.min(inner, chunk.length - TAIL_BYTES));
      if (from > 0) {
        this.#kept = [];
        this.#keptBytes = 0;
        this.#lastEventAt = 0;
        this.#keptFromLine = isLineEnd(chunk[from - 1]);
      }
      kept = chunk.subarray(from);
    }
    this.#kept.push(kept);
    this.#keptBytes += kept.length;
    while (this.#lastEventAt > 0 && this.#keptBytes - (this.#kept[0]?.length ?? 0) >= TAIL_BYTES)
      this.#drop();
    if (this.#keptBytes > LAST_EVENT_BYTES) this.#shortenLastEvent();
    // Copied last, because most of it may not be needed any more.
    const at = this.#kept.length - 1;
    if (!isSmall && this.#kept[at] === kept) this.#kept[at] = kept.slice();
  }

  #drop(): void {
    const first = this.#kept.shift();
    if (first === undefined) return;
    this.#keptBytes -= first.length;
    this.#keptFromLine = isLineEnd(first.at(-1));
    this.#lastEventAt = Math.max(0, this.#lastEventAt - 1);
  }

  #shortenLastEvent(): void {
    this.#longEventHead ??= headOfLastEvent(this.#kept);
    while (this.#kept.length > 1 && this.#keptBytes - (this.#kept[0]?.length ?? 0) >= TAIL_BYTES)
      this.#drop();
    const [only] = this.#kept;
    if (this.#kept.length > 1 || only === undefined || only.length <= LAST_EVENT_BYTES) return;
    const end = only.slice(-TAIL_BYTES);
    this.#keptFromLine = isLineEnd(only[only.length - TAIL_BYTES - 1]);
    this.#kept = [end];
    this.#keptBytes = end.length;
  }

  #endsEvent(previous: Uint8Array, chunk: Uint8Array): boolean {
    const last = chunk[chunk.length - 1];
    if (!isLineEnd(last)) return false;
    if (this.#isLines) return true; // one line is one event
    if (chunk.length < 4) return EVENT_END.test(latin1(tail(previous, chunk)));
    const before = chunk[chunk.length - 2];
    if (before === last) return true;
    return before === CR && chunk[chunk.length - 3] === LF && chunk[chunk.length - 4] === CR;
  }

  /** Offset behind the last event that ends within these bytes; 0: none does. */
  #lastEdge(bytes: Bytes): number {
    const buffer = asBuffer(bytes);
    if (this.#isLines) return buffer.lastIndexOf(LF) + 1;
    return Math.max(...EDGES.map((edge) => endOfLast(buffer, edge)));
  }

  #holdsEdge(previous: Uint8Array, chunk: Bytes): boolean {
    return this.#edgeInSeam(previous, chunk) || this.#lastEdge(chunk) > 0;
  }

  /** Whether an event ends with the first bytes of a chunk. */
  #edgeInSeam(previous: Uint8Array, chunk: Bytes): boolean {
    if (this.#isLines) return false; // a line break is one byte
    const before = previous.slice(-3);
    const bytes = Buffer.concat([before, chunk.slice(0, 3)]);
    return EDGES.some((edge) => endOfLast(bytes, edge) > before.length);
  }

  end(): StreamEnd {
    if (this.#hasFailed) return "failed";
    const mark = this.#lastMark();
    if (mark === "failed") return "failed";
    return mark !== null || this.dialect === "other" ? "complete" : "cut";
  }

  isOver(): boolean {
    if (this.#hasFailed) return false;
    const mark = this.#lastMark();
    return mark === "over" || mark === "over_failed";
  }

  tokens(): TokenUsage | null {
    return usageOfEvents(this.#end ?? joined(this.#kept), this.#start);
  }

  #lastMark(): Mark | null {
    this.#end = Buffer.concat(this.#kept);
    const text = new TextDecoder().decode(this.#end);
    const lines = text.split(/\r\n|\n|\r/);
    if (!this.#keptFromLine) lines.shift();
    let mark: Mark | null = null;
    const openFrom = this.#atEdge ? lines.length : lines.lastIndexOf("", lines.length - 2);
    // The last word counts, and failures before it were seen as they went by.
    for (let index = lines.length - 1; index >= 0 && mark === null; index -= 1) {
      const line = lines[index]!;
      if (index > openFrom && line.startsWith("event:")) continue; // of an event that has not come to its end
      mark = markOfLine(line, this.dialect);
    }
    for (let index = lines.length - 1; index >= 0 && mark === null && this.dialect === "other"; index -= 1)
      this.dialect = dialectOfLine(lines[index]!) ?? "other";
    if (this.#longEventHead !== null && this.#atEdge) {
      const head = new TextDecoder().decode(this.#longEventHead);
      mark = laterMark(mark, LONG_LAST_EVENT.test(head) ? "over" : null);
      mark = laterMark(mark, LONG_FINISH.test(text) || LONG_FINISH.test(head) ? "finished" : null);
    }
    if (this.failure === "" && mark !== "over" && mark !== "finished")
      this.failure = this.#clean(lastEventOf(text));
    return mark;
  }
}

function latin1(bytes: Uint8Array): string {
  return String.fromCharCode(...bytes);
}

/** The first of these events that says that upstream failed; null: none does. */
function failureIn(text: string, dialect: StreamDialect): { event: string; mark: Mark } | null {
  for (const event of text.split(EVENT_BOUNDARY)) {
    if (!event.includes("error")) continue;
    const lines = event.split(/\r\n|\n|\r/);
    for (const line of lines) {
      const mark = markOfLine(line, dialect);
      if (mark === "failed" || mark === "over_failed")
        return { event: line.startsWith("{") ? line : event, mark };
    }
  }
  return null;
}

function lastEventOf(text: string): string {
  return text.trimEnd().split(EVENT_BOUNDARY).at(-1) ?? "";
}

/** The beginning of the last event in these chunks, the first of which holds where it began. A copy. */
function headOfLastEvent([first = NO_BYTES, ...others]: readonly Bytes[]): Uint8Array {
  const near = others.map((chunk) => chunk.subarray(0, EDGE_BYTES + EVENT_HEAD_BYTES));
  const bytes = near.length === 0 ? asBuffer(first) : Buffer.concat([first, ...near]);
  // The end of the event itself, where it is here, is none that it begins behind.
  let end = Math.min(first.length + EDGE_BYTES, bytes.length);
  while (end > 0 && bytes[end - 1]! <= 0x20) end -= 1;
  const before = bytes.subarray(0, end);
  const begin = Math.max(...EDGES.map((edge) => endOfLast(before, edge)));
  return new Uint8Array(bytes.subarray(begin, begin + EVENT_HEAD_BYTES));
}

const EVENT_END = /(?:\n\n|\r\r|\r\n\r\n)$/;
const EVENT_BOUNDARY = /\n\n|\r\r|\r\n\r\n/;
/** The longest end of an event. */
const EDGE_BYTES = 4;
const EDGES = ["\n\n", "\r\r", "\r\n\r\n"].map((edge) => Buffer.from(edge));

function endOfLast(buffer: Buffer, edge: Buffer): number {
  const at = buffer.lastIndexOf(edge);
  return at < 0 ? 0 : at + edge.length;
}

/** Only Responses ends with an event that repeats the whole answer. */
const LONG_LAST_EVENT =
  /^\s*(?:(?:event|id|retry):[^\n]*\n)*data: ?\{ ?"type" ?: ?"response\.(?:completed|incomplete|done|failed)"/;

/** A finish in the last kilobytes of an event that is too long to be parsed. */
const LONG_FINISH = /"(?:finish|stop)_?[rR]eason" ?: ?"(?!error|null)\w/;

function isLineEnd(byte: number | undefined): boolean {
  return byte === LF || byte === CR;
}

/**
 * The tokens that a whole answer names; null: none. A promise where it is packed: what came in is sent on before it is
 * unpacked to be read.
 */
export function tokensOfAnswer(
  headers: Headers,
  body: Bytes,
): TokenUsage | null | Promise<TokenUsage | null> {
  if (body[0] === 0x7b /* { */) return usageOfBody(body); // plain JSON needs no look at the fields
  const framing = framingOf(headers);
  if (framing === "other") return null;
  const read = (plain: Bytes) =>
    framing === "json" ? usageOfBody(plain) : usageOfEvents(plain, plain.subarray(0, START_BYTES));
  const encodings = encodingsOf(headers);
  return encodings.length === 0 ? read(body) : unpack(body, encodings).then(({ plain }) => read(plain));
}
