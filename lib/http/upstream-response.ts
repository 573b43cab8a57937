/**
 * The opening of an upstream's answer: what it is, found out before any of it goes on to the client.
 *
 * As long as nothing has gone out, another key can still be tried unseen. So a short answer is read whole, a stream
 * up to its first event (an error may stand in its place), an error to its end; and the key that an error may echo
 * is taken out before anybody reads it.
 */
import type { UpstreamResponse } from "../core/runtime.ts";
import { deferred } from "../core/language.ts";
import type { Clock } from "../core/clock.ts";
import {
  charsetOf,
  discard,
  encodingsOf,
  evidenceOf,
  Gathering,
  indexOfBytes,
  NO_BYTES,
  isJson,
  readerOf,
  readUpTo,
  textOf,
  unpack,
  unpackedAlready,
  Unpacker,
} from "./body.ts";
import type { ByteReader, Bytes, ReadResult, Unpacked } from "./body.ts";
import { classify, classifyStreamError } from "../providers/classify.ts";
import type { RequestWords } from "../providers/quoted-words.ts";
import { unmask } from "../core/secret.ts";
import type { Redactor } from "../core/secret.ts";
import { beginsWithEvent, EventScanner, framingOf } from "./sse.ts";
import type { Framing } from "./sse.ts";
import { isPreamble } from "./stream-dialect.ts";
import type { StreamDialect } from "./stream-dialect.ts";
import type { Dialect, Failure, Unreachable, Verdict } from "../providers/verdict.ts";

/** A whole answer in memory. */
export interface BufferedResponse {
  readonly kind: "buffered";
  readonly status: number;
  readonly headers: Headers;
  readonly body: Bytes | null;
  /** What the pool is told when it goes out: an error that is passed on is still the upstream's failure. */
  readonly outcome: Verdict;
}

/** An answer whose beginning has been read, and where the rest of it comes from. */
export interface StreamedResponse {
  readonly kind: "streamed";
  readonly status: number;
  readonly headers: Headers;
  readonly outcome: Verdict;
  /** How its body is to be read. */
  readonly framing: Framing;
  /** Taken out when it is passed on, so that it does not live as long as the stream. */
  first: Bytes | null;
  readonly reader: ByteReader;
  /** A read that is under way already. */
  readonly pending: Promise<ReadResult> | null;
  /** Whether the first event has come; false where only comments did. */
  readonly begun: boolean;
}

/** No answer: why, and what upstream answered all the same where it did. */
export interface Failed {
  readonly kind: "failed";
  readonly setback: Failure;
  readonly answer: BufferedResponse | null;
  /** What the pool is told, where that is something else: a status that only the client wants retried. */
  readonly verdict: Verdict | null;
}

export type Attempted = BufferedResponse | StreamedResponse | Failed;

/** What is known of the request when its answer comes. */
export interface Asked {
  readonly call: {
    readonly method: string;
    readonly streamDialect: StreamDialect;
    /** Statuses that this request wants retried. */
    readonly retryStatus: ReadonlySet<number>;
    /** What the answer may quote: such words are the client's and judge nobody (P37). */
    readonly words: RequestWords;
  };
  readonly provider: {
    readonly dialect: Dialect;
    /** Those of the settings. */
    readonly retryStatus: ReadonlySet<number>;
  };
  /** Takes the keys of all providers out: an error may echo any of them. */
  readonly redactor: Redactor;
  readonly clock: Clock;
  /** The clocks of the attempt: told when the first event has come, of a stream that is still held back. */
  readonly timeouts: { streams(): void };
}

/**
 * Answers up to this length are read whole: cheaper than a stream, and one that is cut can be asked for again. Their
 * last byte has to come within the first-byte time after the head: while Bun reads, nobody sees the bytes before it.
 */
const WHOLE_BYTES = 256 * 1024;
/** An error or a redirect is read up to this length, to be judged and cleaned: many may come at once. */
const REFUSAL_BYTES = 1024 * 1024;
/** No error is longer when it is packed: what is, is not unpacked to look for one. */
const PACKED_ERROR_BYTES = 8 * 1024;
/** So much of what is packed is unpacked to see how it begins. */
const PACKED_BEGINNING_BYTES = 256;
/** How much of a stream is read at most to see its first event. */
const FIRST_EVENT_BYTES = 64 * 1024;
/** So much white space is waited through at most. */
const BEGINNING_BYTES = 4096;
/** How much of a list tells whether an error stands in it; and how it begins then. */
const LIST_BEGINNING_BYTES = 24;
const LIST_OF_ERRORS = /^\s*\[\s*(?:\{\s*"error"|$|\{\s*$)/;
/** How long what comes before a stream's content is held back. */
const HELD_BACK_MS = 15_000;

const SERVED: Verdict = { kind: "served" };

/** Reads an answer as far as it must be known. Throws what a read throws: the connection broke, or was aborted. */
export async function readOpening(response: UpstreamResponse, asked: Asked): Promise<Attempted> {
  const { status, headers } = response;
  if (status < 200 || status > 599) return failed(protocolError(`its status is ${status}`));
  if (status >= 300) return readRefusal(response, asked);
  if (isBodiless(status, asked.call.method)) return whole(response, null);
  const framing = framingOf(headers);
  const reader = readerOf(response);
  if (reader === null) return whole(response, null);
  if (framing === "events" || framing === "lines") return readStream(response, reader, framing, asked);
  if (framing === "json" && !headers.has("content-length")) return readJson(response, reader, asked);
  const { done, value } = await reader.read();
  if (done) return whole(response, NO_BYTES);
  if (framing === "other" && beginsWithEvent(value) && !headers.has("content-length"))
    return readStream(response, readingAgain(value, reader), "events", asked);
  return open(response, { framing, first: value, reader, pending: null, begun: true });
}

/** Whether HTTP says that no body follows, whatever the fields say (RFC 9110 6.4.1). */
function isBodiless(status: number, method: string): boolean {
  return method === "HEAD" || status === 204 || status === 205 || status === 304;
}

/** Whether an answer is good, known to be short, and no stream: then it is read whole and judged by `judgeShort`. */
export function isShort({ status, headers }: UpstreamResponse, method: string): boolean {
  const length = headers.get("content-length");
  if (length === null || Number(length) > WHOLE_BYTES) return false;
  if (status < 200 || status >= 300 || isBodiless(status, method)) return false;
  const framing = framingOf(headers);
  return framing !== "events" && framing !== "lines";
}

/**
 * A short answer may still be an error that a gateway put in an answer's place. A promise where it is packed, as only
 * then something has to be waited for.
 */
export function judgeShort(
  response: UpstreamResponse,
  body: Bytes,
  asked: Asked,
): Attempted | Promise<Attempted> {
  if (beginsWithId(body) && !namesFailure(body)) return whole(response, body);
  const encodings = encodingsOf(response.headers);
  if (encodings.length > 0) return judgePacked(response, body, encodings, asked);
  if (!mayBeError(body)) return whole(response, body);
  return judgeInPlace(response, body, unpackedAlready(body), asked) ?? whole(response, body);
}

/** Looks first whether it can be an error at all: only its size and its beginning are needed for that. */
async function judgePacked(
  response: UpstreamResponse,
  body: Bytes,
  encodings: readonly string[],
  asked: Asked,
): Promise<Attempted> {
  const mayBeJson = framingOf(response.headers) === "json";
  if (!mayBeJson || body.length > PACKED_ERROR_BYTES) return whole(response, body);
  if (!(await mayBePackedError(body, encodings))) return whole(response, body);
  return judgeInPlace(response, body, await unpack(body, encodings), asked) ?? whole(response, body);
}

/** JSON is packed to about a third. */
const PACKED_SHARE = 3;

async function mayBePackedError(bytes: Bytes, encodings: readonly string[]): Promise<boolean> {
  const unpacker = Unpacker.of(encodings);
  if (unpacker === null) return false;
  const beginning = await unpacker.push(bytes.subarray(0, PACKED_BEGINNING_BYTES));
  unpacker.close();
  return (
    beginning === null ||
    beginning.length === 0 ||
    (!beginsWithId(beginning, PACKED_SHARE * bytes.length) && mayBeError(beginning))
  );
}

/** Errors that begin with an `id` are shorter (Together, MiniMax), and hardly an answer is. */
const SHORT_WITH_ID_BYTES = 512;

/** Nearly every answer begins with its `id`, which no error of some length has there. */
function beginsWithId(body: Bytes, wholeLength = body.length): boolean {
  if (wholeLength < SHORT_WITH_ID_BYTES) return false;
  const start = body[0] === 0x7b /* { */ ? pastSpace(body, 1) : -1;
  return body[start] === 0x22 /* " */ && body[start + 1] === 0x69 /* i */ && body[start + 2] === 0x64; /* d */
}

/** Words in which an error says what it is even behind an `id`: gateways, and MiniMax's `base_resp`. */
const FAILURE_WORDS = ['"error"', '"base_resp"'].map((word) => new TextEncoder().encode(word));

/** Whether one of these words is in it. Good answers may hold them, too. */
function namesFailure(body: Bytes): boolean {
  return FAILURE_WORDS.some((word) => indexOfBytes(body, word) >= 0);
}

/** An answer that is no JSON object and no list is no error. */
function mayBeError(body: Bytes): boolean {
  const first = body[pastSpace(body, 0)];
  return first === 0x7b /* { */ || first === 0x5b; /* [ */
}

function pastSpace(body: Bytes, from: number): number {
  let at = from;
  while (at < body.length && body[at]! <= 0x20) at += 1;
  return at;
}

/** Judges what came with a good status in an answer's place; null: it is no error. */
function judgeInPlace(
  response: UpstreamResponse,
  sent: Bytes,
  unpacked: Unpacked,
  { call, provider: { dialect }, redactor, clock }: Asked,
  text = textOf(unpacked.plain),
): BufferedResponse | Failed | null {
  // What is fetched may be anything: a file, or a piece of work that failed. Only what is asked for is answered by it.
  if (call.method !== "POST") return null;
  const now = clock.wall();
  if (classifyStreamError(dialect, text, now) === null) return null; // spares looking for keys in all that is none
  const found = classifyStreamError(dialect, redactor.redact(text), now, call.words);
  if (found === null) return null;
  const verdict = withoutMasks(found);
  const clean = withoutKeys(sent, unpacked, response.headers, redactor);
  const answer = whole(response, clean, verdict);
  const setback = setbackOf(verdict, "usual");
  return setback === null ? answer : failed(setback, answer);
}

/** What is told of a stream that failed, where nothing better is known: the client was told so by the stream itself. */
const STREAM_FAILED: Verdict = {
  kind: "overloaded",
  refusesAll: false,
  scope: "provider",
  pauseMs: null,
  maybeBilled: true,
  said: "",
};

/**
 * What it means that a stream failed when it was too late to ask another key: the key is told all the same. `event`:
 * the event that said so, without keys; empty: none did. Null: it says nothing of a failure.
 */
export function judgeLate(
  event: string,
  { call, provider: { dialect }, clock }: Pick<Asked, "call" | "provider" | "clock">,
) {
  const verdict = event === "" ? null : classifyStreamError(dialect, event, clock.wall(), call.words);
  return verdict && withoutMasks(verdict);
}

export function lateVerdict(event: string, asked: Pick<Asked, "call" | "provider" | "clock">): Verdict {
  const verdict = judgeLate(event, asked);
  return verdict === null || verdict.kind === "served" ? STREAM_FAILED : verdict;
}

/**
 * JSON of unknown length: read whole where it is short, because it may be an error, and because where only the
 * connection's end frames it a reset looks like an end, and the JSON itself must tell.
 */
async function readJson(response: UpstreamResponse, reader: ByteReader, asked: Asked): Promise<Attempted> {
  const isFramed = response.headers.has("transfer-encoding");
  const isPlain = encodingsOf(response.headers).length === 0;
  const isGemini = asked.call.streamDialect === "gemini";
  const tells = (bytes: Bytes) => !isPlain || showsWhatItIs(bytes, isGemini);
  const { bytes: first, pending } = await readBeginning(reader, tells, asked.clock);
  const framing = "json";
  if (pending !== null) return open(response, { framing, first, reader, pending, begun: true });
  if (beginsWithEvent(first)) return readStream(response, readingAgain(first, reader), "events", asked);
  if (first.length === 0) return whole(response, NO_BYTES);
  const isNoError =
    isPlain &&
    ((beginsWithId(first) && !namesFailure(first)) ||
      !mayBeError(first) ||
      (isGemini && isAnswerList(first)));
  if (isFramed && isNoError) return open(response, { framing, first, reader, pending, begun: true });
  const { bytes, isWhole } = await readUpTo(reader, WHOLE_BYTES, first);
  if (!isWhole) return open(response, { framing, first: bytes, reader, pending, begun: true });
  if ((!isFramed || isGemini) && isPlain && !isJson(bytes)) return failed(protocolError("it was cut short"));
  return judgeShort(response, bytes, asked);
}

/** White space, which some send while they wait to keep the connection open, shows nothing; nor does half a word. */
function showsWhatItIs(bytes: Bytes, isGemini: boolean): boolean {
  if (bytes.length >= BEGINNING_BYTES) return true;
  const first = bytes[pastSpace(bytes, 0)];
  return first !== undefined && !(isGemini && first === 0x5b /* [ */ && bytes.length < LIST_BEGINNING_BYTES);
}

/** Gemini's stream as one list, an answer at a time: it is not held until its end, unless it begins with an error. */
function isAnswerList(bytes: Bytes): boolean {
  const beginning = textOf(bytes.subarray(0, LIST_BEGINNING_BYTES));
  return /^\s*\[/.test(beginning) && !LIST_OF_ERRORS.test(beginning);
}

/** Reads until what came `tells`, or was held back too long: then `pending` is the read that goes on. */
async function readBeginning(
  reader: ByteReader,
  tells: (bytes: Bytes) => boolean,
  clock: Clock,
): Promise<{ bytes: Bytes; pending: Promise<ReadResult> | null }> {
  const sent = new Gathering();
  let holdUntil = Infinity;
  for (;;) {
    const pending = reader.read();
    const result = sent.length === 0 ? await pending : await readBefore(pending, holdUntil, clock);
    if (result === null) return { bytes: sent.bytes, pending };
    if (result.done) return { bytes: sent.bytes, pending: null };
    if (sent.length === 0) {
      if (tells(result.value)) return { bytes: result.value, pending: null };
      holdUntil = clock.now() + HELD_BACK_MS;
    }
    sent.push(result.value);
    if (tells(sent.bytes)) return { bytes: sent.bytes, pending: null };
  }
}

/** A reader that gives what it has given once more. */
function readingAgain(value: Bytes, reader: ByteReader): ByteReader {
  let again: Bytes | null = value;
  return {
    read() {
      if (again === null) return reader.read();
      const result = { done: false, value: again } as const;
      again = null;
      return Promise.resolve(result);
    },
    cancel: () => reader.cancel(),
  };
}

/**
 * Reads a stream up to its first event with content, so that an error in its place can still be answered with another
 * key (P20). What comes before it is held back, but not for ever.
 */
async function readStream(
  response: UpstreamResponse,
  reader: ByteReader,
  framing: Framing,
  asked: Asked,
): Promise<Attempted> {
  const encodings = encodingsOf(response.headers);
  const unpacker = Unpacker.of(encodings);
  try {
    return await readUpToContent(
      response,
      reader,
      framing,
      asked,
      encodings.length === 0 ? "plain" : unpacker,
    );
  } finally {
    unpacker?.close();
  }
}

/** `unpacker`: null where it is packed in a way that cannot be undone here; then nothing of it is judged. */
async function readUpToContent(
  response: UpstreamResponse,
  reader: ByteReader,
  framing: Framing,
  asked: Asked,
  unpacker: Unpacker | "plain" | null,
): Promise<Attempted> {
  const { clock } = asked;
  const sent = new Gathering();
  const scanner = new EventScanner();
  let isReadable = unpacker !== null;
  let hasEvent = false;
  let holdUntil = Infinity;
  const openWith = (pending: Promise<ReadResult> | null) =>
    open(response, { framing, first: sent.bytes, reader, pending, begun: scanner.hasBegun || !isReadable });
  for (;;) {
    const pending = reader.read();
    const result = sent.length === 0 ? await pending : await readBefore(pending, holdUntil, clock);
    if (result === null) return openWith(pending);
    if (result.done) {
      if (isReadable && !scanner.hasBegun) return endedEarly(response, sent.bytes, asked.call.streamDialect);
      const judged = judgeEvent(response, sent.bytes, scanner, asked, textOf(scanner.event));
      if (judged !== null) return judged;
      if (hasEvent && isReadable) return failed(protocolError("the stream ended before its content"));
      return openWith(Promise.resolve({ done: true })); // its passage finds out whether it was complete
    }
    if (sent.length === 0) holdUntil = clock.now() + HELD_BACK_MS;
    sent.push(result.value);
    const plain = unpacker instanceof Unpacker ? await unpacker.push(result.value) : result.value;
    isReadable &&= plain !== null;
    if (plain !== null && isReadable) scanner.push(plain);
    let judged: BufferedResponse | Failed | null = null;
    while (isReadable && scanner.isWhole) {
      const text = textOf(scanner.event);
      judged = judgeEvent(response, sent.bytes, scanner, asked, text);
      if (judged !== null) break;
      if (!isPreamble(text)) return openWith(null);
      if (!hasEvent) asked.timeouts.streams();
      hasEvent = true;
      scanner.next();
    }
    if (judged === null) {
      if (isReadable && sent.length < FIRST_EVENT_BYTES) continue;
      return openWith(null);
    }
    // What had to be cleaned of a packed stream goes out unpacked: its rest would not fit.
    if (judged.kind === "buffered" && (judged.body === sent.bytes || unpacker === "plain"))
      return open(response, { framing, first: judged.body, reader, pending: null, begun: true });
    discard(reader);
    return judged;
  }
}

function judgeEvent(
  response: UpstreamResponse,
  sent: Bytes,
  scanner: EventScanner,
  asked: Asked,
  text: string,
) {
  return judgeInPlace(response, sent, unpackedAlready(scanner.bytes), asked, text);
}

/** A stream that ended before its first event. Not an answer, unless nobody knows what it should have been. */
function endedEarly(response: UpstreamResponse, sent: Bytes, dialect: StreamDialect): Attempted {
  if (dialect === "other") return whole(response, sent);
  return failed(protocolError("the stream ended before its first event"));
}

/** The result of a read, or null when `deadline` (epoch ms) comes first; the read goes on. */
function readBefore(read: Promise<ReadResult>, deadline: number, clock: Clock): Promise<ReadResult | null> {
  const { promise, resolve, reject } = deferred<ReadResult | null>();
  const cancel = clock.after(deadline - clock.now(), () => resolve(null));
  read.then(resolve, reject).finally(cancel);
  return promise;
}

/** An error, or a redirect: its address may hold the key. And what it means. */
async function readRefusal(response: UpstreamResponse, asked: Asked): Promise<Attempted> {
  const { status, headers } = response;
  cleanFields(headers, asked.redactor); // what they say is judged, too
  const reader = isBodiless(status, asked.call.method) ? null : readerOf(response);
  const { bytes, isWhole } = reader
    ? await readUpTo(reader, REFUSAL_BYTES)
    : { bytes: NO_BYTES, isWhole: true };
  const unpacked = isWhole ? await unpack(bytes, encodingsOf(headers)) : NOT_READ;
  const charset = charsetOf(headers, isWhole ? unpacked.plain : bytes);
  const readable = isWhole ? unpacked.plain : encodingsOf(headers).length === 0 ? bytes : NO_BYTES;
  const said = asked.redactor.redact(evidenceOf(readable, charset));
  const evidence = { status, headers, body: said };
  const verdict = withoutMasks(
    classify(asked.provider.dialect, evidence, asked.clock.wall(), asked.call.words),
  );
  const setback = setbackOf(verdict, retryWishOf(status, asked));
  if (!isWhole && reader !== null) {
    // One that nobody retries goes on as it comes, cleaned on its way, where it is a text that can be read so.
    if (
      setback === null &&
      charset === null &&
      said !== "" &&
      !UNREADABLE_SIGNS.test(said.slice(0, -SIGN_BYTES))
    ) {
      describeAnew(headers);
      return open(response, { framing: "error", first: bytes, reader, pending: null, begun: true }, verdict);
    }
    discard(reader);
  }
  const clean = withoutKeys(bytes, unpacked, headers, asked.redactor);
  const answer = whole(response, reader === null ? null : clean, verdict);
  return setback === null ? answer : failed(setback, answer, verdict);
}

/** What is no text has these; so has the last character of a part of one, which is no longer than this. */
const UNREADABLE_SIGNS = /[\0\uFFFD]/;
const SIGN_BYTES = 4;

/** An error of which only the beginning was read. */
const NOT_READ: Unpacked = { plain: NO_BYTES, extent: "none" };

/** What upstream said, without what is left of a key that it masked itself. */
function withoutMasks(verdict: Verdict): Verdict {
  return verdict.kind === "served" ? verdict : { ...verdict, said: unmask(verdict.said) };
}

/** Whether a status is to be retried: not at all, as failures of the upstream are, or by its very name. */
type RetryWish = "none" | "usual" | "by_name";

function retryWishOf(status: number, { call, provider }: Asked): RetryWish {
  if (call.retryStatus.has(status)) return "by_name";
  if (status === 429) return "usual"; // whose fault it may be, it is never passed on as a failure
  if (!provider.retryStatus.has(status)) return "none";
  return status < 500 ? "by_name" : "usual";
}

/** Why a verdict is no answer; null where it is one, or where nobody wishes this failure to be retried. */
function setbackOf(verdict: Verdict, wish: RetryWish): Failure | null {
  switch (verdict.kind) {
    case "served":
      return null;
    case "rejected": // by name: the client knows that this one passes
      return wish === "by_name"
        ? {
            kind: "overloaded",
            scope: "provider",
            refusesAll: false,
            pauseMs: null,
            maybeBilled: false,
            said: verdict.said,
          }
        : null;
    case "overloaded":
      return wish === "none" ? null : verdict;
    case "rate_limited":
    case "exhausted":
    case "revoked":
    case "unsuited":
      return verdict;
  }
}

export function failed(
  setback: Failure,
  answer: BufferedResponse | null = null,
  verdict: Verdict | null = null,
): Failed {
  return { kind: "failed", setback, answer, verdict };
}

export function protocolError(what: string): Unreachable {
  const message = `The provider's answer cannot be used: ${what}.`;
  return { kind: "unreachable", type: "upstream_protocol_error", message, maybeBilled: true };
}

function whole(
  { status, headers }: UpstreamResponse,
  body: Bytes | null,
  outcome = SERVED,
): BufferedResponse {
  return { kind: "buffered", status, headers, body, outcome };
}

function open(
  { status, headers }: UpstreamResponse,
  opening: Pick<StreamedResponse, "framing" | "first" | "reader" | "pending" | "begun">,
  outcome = SERVED,
): StreamedResponse {
  return { kind: "streamed", status, headers, outcome, ...opening };
}

// ---------------------------------------------------------------- without keys

/**
 * The body of an error without keys that upstream may have echoed (P29). `sent`: the very bytes, which are returned
 * where they are what they say and hold none. Else the body goes out unpacked. What cannot be read cannot be cleaned:
 * it does not go out at all, and a note stands in its place.
 */
function withoutKeys(sent: Bytes, unpacked: Unpacked, headers: Headers, redactor: Redactor): Bytes {
  const { plain, extent } = unpacked;
  if (extent === "none") {
    describeAnew(headers);
    headers.set("content-type", "application/json");
    return new TextEncoder().encode(UNREADABLE);
  }
  const charset = charsetOf(headers, plain);
  const text = textOf(plain, charset);
  const clean = redactor.redact(text);
  if (clean === text && extent === "whole") return sent;
  describeAnew(headers);
  if (clean === text) return plain;
  if (charset !== null)
    headers.set(
      "content-type",
      `${framingOf(headers) === "json" ? "application/json" : "text/plain"}; charset=utf-8`,
    );
  return new TextEncoder().encode(clean);
}

/** In the place of an error that cannot be read. */
const UNREADABLE = JSON.stringify({
  type: "error",
  error: {
    type: "upstream_protocol_error",
    code: "upstream_protocol_error",
    message:
      "The provider's error is too long, or packed in a way that cannot be undone. As a key may stand in it, it is left out.",
    param: null,
  },
});

/** Fields that tell something of the bytes that were sent. */
const ABOUT_BYTES = [
  "content-encoding",
  "content-length",
  "content-md5",
  "content-digest",
  "repr-digest",
  "digest",
  "etag",
];

function describeAnew(headers: Headers): void {
  for (const name of ABOUT_BYTES) headers.delete(name);
}

/** Takes keys out of the fields of any answer, in place: `location`, a cookie, or a field of a gateway may hold one. */
export function cleanFields(headers: Headers, redactor: Redactor): void {
  for (const value of headers.values()) {
    if (redactor.redactField(value) !== value) return cleanEachField(headers, redactor);
  }
}

function cleanEachField(headers: Headers, redactor: Redactor): void {
  const cookies = headers.getSetCookie();
  for (const [name, value] of [...headers]) {
    if (name !== "set-cookie") headers.set(name, redactor.redactField(value));
  }
  headers.delete("set-cookie");
  for (const cookie of cookies) headers.append("set-cookie", redactor.redactField(cookie));
}

/** Whether upstream may have got the request. */
export function mayHaveArrived(result: Attempted): boolean {
  return result.kind !== "failed" || result.setback.kind !== "unreachable" || result.setback.maybeBilled;
}
