/**
 * The opening of an upstream's answer: what it is, found out before any of it goes on to the client.
 *
 * As long as nothing has gone out, another key can still be tried unseen. So a short answer is read whole, a stream
 * up to its first event (an error may stand in its place), an error to its end; and the key that an error may echo
 * is taken out before anybody reads it.
 */
import type { Clock } from "./clock.ts";
import type { Failure, Unreachable } from "./decision.ts";
import {
  decoded,
  decodedSoFar,
  discard,
  evidenceOf,
  isJson,
  joined,
  readerOf,
  readUpTo,
  textOf,
  withoutSecret,
} from "./evidence.ts";
import type { ByteReader, Bytes, ReadResult } from "./evidence.ts";
import { classify, classifyStreamError } from "./providers.ts";
import type { Dialect, Verdict } from "./providers.ts";
import { redact, unmask } from "./secret.ts";
import type { Secret } from "./secret.ts";
import { firstEventStart, isStream } from "./stream.ts";
import type { StreamDialect } from "./stream.ts";

/** A whole answer in memory. */
export interface WholeAnswer {
  readonly kind: "whole";
  readonly status: number;
  readonly headers: Headers;
  readonly body: Bytes | null;
  /** What the pool is told when it goes out: an error that is passed on is still the upstream's failure. */
  readonly outcome: Verdict;
}

/** An answer whose beginning has been read, and where the rest of it comes from. */
export interface OpenAnswer {
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
  readonly answer: WholeAnswer | null;
  /** What the pool is told, where that is something else: a status that only the client wants retried. */
  readonly verdict: Verdict | null;
}

export type Attempted = WholeAnswer | OpenAnswer | Failed;

/** What is known of the request when its answer comes. */
export interface Asked {
  readonly method: string;
  readonly streamDialect: StreamDialect;
  readonly dialect: Dialect;
  /** The key it was made with. */
  readonly secret: Secret;
  /** Statuses that this request wants retried, and those of the settings. */
  readonly retryStatus: ReadonlySet<number>;
  readonly usualRetryStatus: ReadonlySet<number>;
  readonly clock: Clock;
}

/**
 * Answers up to this length are read whole: cheaper than a stream, and one that is cut can be asked for again. Their
 * last byte has to come within the first-byte time after the head: while Bun reads, nobody sees the bytes before it.
 */
const WHOLE_BYTES = 256 * 1024;
/** An error is read whole, to be judged and cleaned; no provider writes one that is longer. */
const REFUSAL_BYTES = 8 * 1024 * 1024;
/** How much of a stream is read at most to see its first event. */
const FIRST_EVENT_BYTES = 64 * 1024;
/** How long what comes before a stream's first whole event is held back. */
const HELD_BACK_MS = 15_000;

const SERVED: Verdict = { kind: "served" };
const NO_BYTES: Bytes = new Uint8Array();

/** Reads an answer as far as it must be known. Throws what a read throws: the connection broke, or was aborted. */
export async function readOpening(response: Response, asked: Asked): Promise<Attempted> {
  const { status, headers } = response;
  if (status < 200 || status > 599) return failed(protocolError(`its status is ${status}`));
  if (status >= 400) return readRefusal(response, asked);
  if (isBodiless(status, asked.method)) return whole(response, null);
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
  if (status < 200 || status >= 400 || isBodiless(status, method)) return false;
  return !isStream(headers.get("content-type") ?? "");
}

/** A short answer may still be an error that a gateway put in an answer's place. */
export function judgeShort(response: Response, body: Bytes, asked: Asked): Attempted {
  if (!mayBeError(body)) return whole(response, body);
  return judgeInPlace(response, body, textOf(body), asked) ?? whole(response, body);
}

/** Nearly every answer begins with its `id`; an answer that is no JSON object is no error. */
function mayBeError(body: Bytes): boolean {
  const start = body[0] === 0x7b /* { */ ? 1 : body.findIndex((byte) => byte > 0x20);
  if (start === 1 && body[1] === 0x22 /* " */ && body[2] === 0x69 /* i */ && body[3] === 0x64 /* d */)
    return false;
  return body[start] === 0x7b || body[start] === 0x5b || start === 1;
}

/** Judges what came with a good status in an answer's place; null: it is no error. */
function judgeInPlace(
  response: Response,
  bytes: Bytes,
  text: string,
  { dialect, secret, clock }: Asked,
): WholeAnswer | Failed | null {
  const found = classifyStreamError(dialect, redact(text, [secret]), clock.now());
  if (found === null) return null;
  const verdict = withoutMasks(found);
  const isPlain = !response.headers.has("content-encoding");
  const answer = whole(
    response,
    isPlain ? withoutSecret(bytes, bytes, response.headers, secret) : bytes,
    verdict,
  );
  const setback = setbackOf(verdict, "usual");
  return setback === null ? answer : failed(setback, answer);
}

/**
 * JSON of unknown length: read whole where it is short, because it may be an error, and because where only the
 * connection's end frames it a reset looks like an end, and the JSON itself must tell.
 */
async function readJson(response: Response, reader: ByteReader, asked: Asked): Promise<Attempted> {
  const isFramed = response.headers.has("transfer-encoding");
  const { done, value } = await reader.read();
  if (done) return whole(response, NO_BYTES);
  if (isFramed && !mayBeError(value))
    return open(response, { first: value, reader, pending: null, begun: true });
  const { bytes, isWhole } = await readUpTo(reader, WHOLE_BYTES, value);
  if (!isWhole) return open(response, { first: bytes, reader, pending: null, begun: true });
  const isPlain = !response.headers.has("content-encoding");
  if (!isFramed && isPlain && !isJson(bytes)) return failed(protocolError("it was cut short"));
  return judgeShort(response, bytes, asked);
}

/**
 * Reads a stream up to its first whole event, so that an error in its place can still be answered with another key.
 * Comments before it, and the parts of it, are held back, but not for ever.
 */
async function readFirstEvent(response: Response, reader: ByteReader, asked: Asked): Promise<Attempted> {
  const { clock, streamDialect } = asked;
  const encoding = response.headers.get("content-encoding");
  let first: Bytes | null = null;
  let holdUntil = Infinity;
  for (;;) {
    const pending = reader.read();
    const result: ReadResult | null =
      first === null ? await pending : await readBefore(pending, holdUntil, clock);
    const plain = first === null || encoding === null ? first : await decodedSoFar(first, encoding);
    const begun = plain !== null && firstEventStart(plain) >= 0;
    if (result === null) return open(response, { first, reader, pending, begun });
    if (result.done) {
      if (first === null || plain === null || !begun) return endedEarly(response, first, streamDialect);
      return judgeInPlace(response, first, textOf(plain), asked) ?? ended(response, first, reader);
    }
    if (first === null) holdUntil = clock.now() + HELD_BACK_MS;
    first = first === null ? result.value : joined([first, result.value]);
    const seen = encoding === null ? first : await decodedSoFar(first, encoding);
    const start = firstEventStart(seen);
    if (start < 0 || !holdsWholeEvent(seen.subarray(start), streamDialect)) {
      if (first.length < FIRST_EVENT_BYTES) continue;
      return open(response, { first, reader, pending: null, begun: start >= 0 });
    }
    const judged = judgeInPlace(response, first, textOf(seen), asked);
    if (judged?.kind === "failed") discard(reader);
    if (judged?.kind === "failed") return judged;
    return open(response, { first: judged?.body ?? first, reader, pending: null, begun: true });
  }
}

/** Whether the first event is there whole. JSON in its place is whole when it can be parsed. */
function holdsWholeEvent(bytes: Uint8Array, dialect: StreamDialect): boolean {
  if (bytes[0] === 0x7b /* { */ || bytes[0] === 0x5b /* [ */) {
    return (dialect === "ollama" && bytes.includes(0x0a)) || isJson(bytes);
  }
  return /(?:\n\n|\r\r|\r\n\r\n)/.test(textOf(bytes));
}

/** A stream that ended before its first event. Not an answer, unless nobody knows what it should have been. */
function endedEarly(response: Response, first: Bytes | null, dialect: StreamDialect): Attempted {
  if (dialect === "other") return whole(response, first ?? NO_BYTES);
  return failed(protocolError("the stream ended before its first event"));
}

/** A stream that is over already: its passage will find that out, and whether it was complete. */
function ended(response: Response, first: Bytes, reader: ByteReader): OpenAnswer {
  return open(response, { first, reader, pending: Promise.resolve({ done: true }), begun: true });
}

/** The result of a read, or null when `deadline` (epoch ms) comes first; the read goes on. */
function readBefore(read: Promise<ReadResult>, deadline: number, clock: Clock): Promise<ReadResult | null> {
  const { promise, resolve, reject } = Promise.withResolvers<ReadResult | null>();
  const cancel = clock.after(deadline - clock.now(), () => resolve(null));
  read.then(resolve, reject).finally(cancel);
  return promise;
}

/** An answer of 400 and above, and what it means. */
async function readRefusal(response: Response, asked: Asked): Promise<Attempted> {
  const { status, headers } = response;
  const reader = asked.method === "HEAD" ? null : readerOf(response);
  const { bytes, isWhole } = reader
    ? await readUpTo(reader, REFUSAL_BYTES)
    : { bytes: NO_BYTES, isWhole: true };
  if (!isWhole) return failed(protocolError("its error is too long"));
  const plain = await decoded(bytes, headers.get("content-encoding"));
  const clean = withoutSecret(bytes, plain, headers, asked.secret);
  const evidence = { status, headers, body: evidenceOf(clean === bytes ? plain : clean) };
  const verdict = withoutMasks(classify(asked.dialect, evidence, asked.clock.now()));
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

function retryWishOf(status: number, { retryStatus, usualRetryStatus }: Asked): RetryWish {
  if (retryStatus.has(status)) return "by_name";
  if (status === 429) return "usual"; // whose fault it may be, it is never passed on as a failure
  if (!usualRetryStatus.has(status)) return "none";
  return status < 500 ? "by_name" : "usual";
}

/** Why a verdict is no answer; null where it is one, or where nobody wishes this failure to be retried. */
function setbackOf(verdict: Verdict, wish: RetryWish): Failure | null {
  switch (verdict.kind) {
    case "served":
      return null;
    case "rejected": // by name: the client knows that this one passes
      return wish === "by_name"
        ? { kind: "overloaded", refusesAll: false, pauseMs: null, maybeBilled: false, said: verdict.said }
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
  answer: WholeAnswer | null = null,
  verdict: Verdict | null = null,
): Failed {
  return { kind: "failed", setback, answer, verdict };
}

export function protocolError(what: string): Unreachable {
  const message = `The provider's answer cannot be used: ${what}.`;
  return { kind: "unreachable", type: "upstream_protocol_error", message, maybeBilled: true };
}

function whole({ status, headers }: Response, body: Bytes | null, outcome = SERVED): WholeAnswer {
  return { kind: "whole", status, headers, body, outcome };
}

function open(
  { status, headers }: Response,
  opening: Pick<OpenAnswer, "first" | "reader" | "pending" | "begun">,
): OpenAnswer {
  return { kind: "open", status, headers, outcome: SERVED, ...opening };
}
