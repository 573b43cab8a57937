/**
 * The opening of an upstream's answer: what it is, found out before any of it goes on to the client.
 *
 * As long as nothing has gone out, another key can still be tried unseen. So a short answer is read whole, a stream
 * up to its first event (an error may stand in its place), an error to its end; and the key that an error may echo
 * is taken out before anybody reads it.
 */
import { withoutSecret } from "./cleaning.ts";
import type { Clock } from "../core/clock.ts";
import { discard, evidenceOf, Gathering, isJson, readerOf, readUpTo, textOf } from "./body.ts";
import type { ByteReader, Bytes, ReadResult } from "./body.ts";
import { FirstEvent } from "./first-event.ts";
import { classify, classifyStreamError } from "../providers/classify.ts";
import { redact, unmask } from "../core/secret.ts";
import type { Secret } from "../core/secret.ts";
import { isStream } from "./sse.ts";
import type { StreamDialect } from "./sse.ts";
import { encodingsOf, unpack, unpackedAlready, Unpacker } from "./unpack.ts";
import type { Unpacked } from "./unpack.ts";
import type { Dialect, Failure, Unreachable, Verdict } from "../providers/verdict.ts";

/** A whole answer in memory. */
export interface BufferedResponse {
  readonly kind: "whole";
  readonly status: number;
  readonly headers: Headers;
  readonly body: Bytes | null;
  /** What the pool is told when it goes out: an error that is passed on is still the upstream's failure. */
  readonly outcome: Verdict;
}

/** An answer whose beginning has been read, and where the rest of it comes from. */
export interface StreamedResponse {
  readonly kind: "open";
  readonly status: number;
  readonly headers: Headers;
  readonly outcome: Verdict;
  readonly first: Bytes | null;
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
    readonly model: string | null;
    readonly body: Uint8Array | null;
  };
  readonly provider: {
    readonly dialect: Dialect;
    /** Those of the settings. */
    readonly retryStatus: ReadonlySet<number>;
  };
  /** The key it was made with. */
  readonly secret: Secret;
  readonly clock: Clock;
}

/**
 * Answers up to this length are read whole: cheaper than a stream, and one that is cut can be asked for again. Their
 * last byte has to come within the first-byte time after the head: while Bun reads, nobody sees the bytes before it.
 */
const WHOLE_BYTES = 256 * 1024;
/** An error or a redirect is read whole, to be judged and cleaned; no provider writes one that is longer. */
const REFUSAL_BYTES = 8 * 1024 * 1024;
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
/** How long what comes before a stream's first whole event is held back. */
const HELD_BACK_MS = 15_000;

const SERVED: Verdict = { kind: "served" };
const NO_BYTES: Bytes = new Uint8Array();

/** Reads an answer as far as it must be known. Throws what a read throws: the connection broke, or was aborted. */
export async function readOpening(response: Response, asked: Asked): Promise<Attempted> {
  const { status, headers } = response;
  if (status < 200 || status > 599) return failed(protocolError(`its status is ${status}`));
  if (status >= 300) return readRefusal(response, asked);
  if (isBodiless(status, asked.call.method)) return whole(response, null);
  const type = headers.get("content-type") ?? "";
  const length = headers.get("content-length");
  const reader = readerOf(response);
  if (reader === null) return whole(response, null);
  if (isStream(type)) return readFirstEvent(response, reader, asked);
  if (type.startsWith("application/json") && length === null) return readJson(response, reader, asked);
  const { done, value } = await reader.read();
  return done
    ? whole(response, NO_BYTES)
    : open(response, { first: value, reader, pending: null, begun: true });
}

/** Whether HTTP says that no body follows, whatever the fields say (RFC 9110 6.4.1). */
function isBodiless(status: number, method: string): boolean {
  return method === "HEAD" || status === 204 || status === 205 || status === 304;
}

/** Whether an answer is good, known to be short, and no stream: then it is read whole and judged by `judgeShort`. */
export function isShort({ status, headers }: Response, method: string): boolean {
  const length = headers.get("content-length");
  if (length === null || Number(length) > WHOLE_BYTES) return false;
  if (status < 200 || status >= 300 || isBodiless(status, method)) return false;
  return !isStream(headers.get("content-type") ?? "");
}

/**
 * A short answer may still be an error that a gateway put in an answer's place. A promise where it is packed, as only
 * then something has to be waited for.
 */
export function judgeShort(response: Response, body: Bytes, asked: Asked): Attempted | Promise<Attempted> {
  if (beginsWithId(body)) return whole(response, body);
  const encodings = encodingsOf(response.headers);
  if (encodings.length > 0) return judgePacked(response, body, encodings, asked);
  if (!mayBeError(body)) return whole(response, body);
  return judgeInPlace(response, body, unpackedAlready(body), asked) ?? whole(response, body);
}

/** Looks first whether it can be an error at all: only its size and its beginning are needed for that. */
async function judgePacked(
  response: Response,
  body: Bytes,
  encodings: readonly string[],
  asked: Asked,
): Promise<Attempted> {
  const mayBeJson = (response.headers.get("content-type") ?? "").includes("json");
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
  response: Response,
  sent: Bytes,
  unpacked: Unpacked,
  { call, provider: { dialect }, secret, clock }: Asked,
  event = unpacked.plain,
): BufferedResponse | Failed | null {
  // What is fetched may be anything: a file, or a piece of work that failed. Only what is asked for is answered by it.
  if (call.method !== "POST") return null;
  const text = textOf(event);
  const now = clock.wall();
  if (classifyStreamError(dialect, text, now) === null) return null; // spares looking for the key in all that is none
  const found = classifyStreamError(dialect, redact(text, [secret]), now, call);
  if (found === null) return null;
  const verdict = withoutMasks(found);
  const clean = withoutSecret(sent, unpacked, response.headers, secret);
  const answer = whole(response, clean, verdict);
  const setback = setbackOf(verdict, "usual");
  return setback === null ? answer : failed(setback, answer);
}

/**
 * JSON of unknown length: read whole where it is short, because it may be an error, and because where only the
 * connection's end frames it a reset looks like an end, and the JSON itself must tell.
 */
async function readJson(response: Response, reader: ByteReader, asked: Asked): Promise<Attempted> {
  const isFramed = response.headers.has("transfer-encoding");
  const isPlain = encodingsOf(response.headers).length === 0;
  const isGemini = asked.call.streamDialect === "gemini";
  const tells = (bytes: Bytes) => !isPlain || showsWhatItIs(bytes, isGemini);
  const { bytes: first, pending } = await readBeginning(reader, tells, asked.clock);
  if (pending !== null) return open(response, { first, reader, pending, begun: true });
  if (first.length === 0) return whole(response, NO_BYTES);
  const isNoError =
    isPlain && (beginsWithId(first) || !mayBeError(first) || (isGemini && isAnswerList(first)));
  if (isFramed && isNoError) return open(response, { first, reader, pending, begun: true });
  const { bytes, isWhole } = await readUpTo(reader, WHOLE_BYTES, first);
  if (!isWhole) return open(response, { first: bytes, reader, pending, begun: true });
  if (!isFramed && isPlain && !isJson(bytes)) return failed(protocolError("it was cut short"));
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

/**
 * Reads a stream up to its first whole event, so that an error in its place can still be answered with another key.
 * Comments before it, and the parts of it, are held back, but not for ever.
 */
async function readFirstEvent(response: Response, reader: ByteReader, asked: Asked): Promise<Attempted> {
  const encodings = encodingsOf(response.headers);
  const unpacker = Unpacker.of(encodings);
  try {
    return await readUpToEvent(response, reader, asked, encodings.length === 0 ? "plain" : unpacker);
  } finally {
    unpacker?.close();
  }
}

/** `unpacker`: null where it is packed in a way that cannot be undone here; then nothing of it is judged. */
async function readUpToEvent(
  response: Response,
  reader: ByteReader,
  asked: Asked,
  unpacker: Unpacker | "plain" | null,
): Promise<Attempted> {
  const { clock, call } = asked;
  const sent = new Gathering();
  const event = new FirstEvent();
  let isReadable = unpacker !== null;
  let holdUntil = Infinity;
  const openWith = (pending: Promise<ReadResult> | null) =>
    open(response, { first: sent.bytes, reader, pending, begun: event.hasBegun || !isReadable });
  for (;;) {
    const pending = reader.read();
    const result = sent.length === 0 ? await pending : await readBefore(pending, holdUntil, clock);
    if (result === null) return openWith(pending);
    if (result.done) {
      if (!event.hasBegun && isReadable) return endedEarly(response, sent.bytes, call.streamDialect);
      // Its passage finds out whether it was complete.
      return judgeEvent(response, sent.bytes, event, asked) ?? openWith(Promise.resolve({ done: true }));
    }
    if (sent.length === 0) holdUntil = clock.now() + HELD_BACK_MS;
    sent.push(result.value);
    const plain = unpacker instanceof Unpacker ? await unpacker.push(result.value) : result.value;
    isReadable &&= plain !== null;
    if (plain !== null && isReadable) event.push(plain);
    if (isReadable && !event.isWhole && sent.length < FIRST_EVENT_BYTES) continue;
    const soFar = sent.bytes;
    const judged = event.isWhole ? judgeEvent(response, soFar, event, asked) : null;
    if (judged === null) return openWith(null);
    // What had to be cleaned of a packed stream goes out unpacked: its rest would not fit.
    if (judged.kind === "whole" && (judged.body === soFar || unpacker === "plain"))
      return open(response, { first: judged.body, reader, pending: null, begun: true });
    discard(reader);
    return judged;
  }
}

function judgeEvent(response: Response, sent: Bytes, event: FirstEvent, asked: Asked) {
  return judgeInPlace(response, sent, unpackedAlready(event.bytes), asked, event.event);
}

/** A stream that ended before its first event. Not an answer, unless nobody knows what it should have been. */
function endedEarly(response: Response, sent: Bytes, dialect: StreamDialect): Attempted {
  if (dialect === "other") return whole(response, sent);
  return failed(protocolError("the stream ended before its first event"));
}

/** The result of a read, or null when `deadline` (epoch ms) comes first; the read goes on. */
function readBefore(read: Promise<ReadResult>, deadline: number, clock: Clock): Promise<ReadResult | null> {
  const { promise, resolve, reject } = Promise.withResolvers<ReadResult | null>();
  const cancel = clock.after(deadline - clock.now(), () => resolve(null));
  read.then(resolve, reject).finally(cancel);
  return promise;
}

/** An error, or a redirect: its address may hold the key. And what it means. */
async function readRefusal(response: Response, asked: Asked): Promise<Attempted> {
  const { status, headers } = response;
  const reader = isBodiless(status, asked.call.method) ? null : readerOf(response);
  const { bytes, isWhole } = reader
    ? await readUpTo(reader, REFUSAL_BYTES)
    : { bytes: NO_BYTES, isWhole: true };
  if (!isWhole) return failed(protocolError("its error is too long"));
  const unpacked = await unpack(bytes, encodingsOf(headers));
  const clean = withoutSecret(bytes, unpacked, headers, asked.secret);
  const readable = clean === bytes || unpacked.extent === "none" ? unpacked.plain : clean;
  const evidence = { status, headers, body: evidenceOf(readable) };
  const verdict = withoutMasks(classify(asked.provider.dialect, evidence, asked.clock.wall(), asked.call));
  const answer = whole(response, reader === null ? null : clean, verdict);
  const setback = setbackOf(verdict, retryWishOf(status, asked));
  return setback === null ? answer : failed(setback, answer, verdict);
}

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

function whole({ status, headers }: Response, body: Bytes | null, outcome = SERVED): BufferedResponse {
  return { kind: "whole", status, headers, body, outcome };
}

function open(
  { status, headers }: Response,
  opening: Pick<StreamedResponse, "first" | "reader" | "pending" | "begun">,
): StreamedResponse {
  return { kind: "open", status, headers, outcome: SERVED, ...opening };
}
