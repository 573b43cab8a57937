/**
 * Takes the body of a request in before anything of it is sent: whole, or not at all.
 *
 * So a broken upload never reaches an upstream, and every attempt sends the same bytes (P6). What is taken in is
 * counted, all requests together, and refused where it would be too much (P26, P27): a body that says how long it is
 * before a byte of it is read, one that does not as soon as it has grown too long.
 */
import { bytesOf, joined } from "./body.ts";
import type { Bytes } from "./body.ts";
import { bodyTooLarge, BODY_BROKE_OFF, NO_ROOM } from "./error-responses.ts";
import type { ProxyError } from "./error-responses.ts";

/** What all requests together take up at this moment. */
export interface Capacity {
  /** Requests that were let in and have no end yet. */
  inFlight: number;
  /** Bytes of their bodies that are in memory, or were announced and are coming. */
  bufferedBytes: number;
}

export interface IntakeLimits {
  /** Of one request. */
  readonly maxBodyBytes: number;
  /** Of all together. */
  readonly maxInFlight: number;
  readonly maxBufferedBytes: number;
}

/** A request whose body is wanted. */
export interface Delivery {
  readonly request: Request;
  /** Of the request, as they came: not yet those that go upstream. */
  readonly headers: Headers;
  /** Where the body is put; null: the request has none. */
  body: Bytes | null;
}

/**
 * Puts the whole body into `delivery.body`. Returns why the request is refused instead, or null.
 *
 * From this call on the request counts as in flight, refused or not, and from its return on as many bytes as its body
 * has count as buffered: whoever ends the request takes both off again, once.
 */
export async function receive(
  delivery: Delivery,
  capacity: Capacity,
  limits: IntakeLimits,
): Promise<ProxyError | null> {
  const { headers } = delivery;
  const length = headers.get("content-length");
  const announced = length === null ? 0 : Number(length);
  capacity.inFlight += 1;
  if (announced > limits.maxBodyBytes) return bodyTooLarge(limits.maxBodyBytes);
  const isFull = capacity.inFlight > limits.maxInFlight;
  if (isFull || capacity.bufferedBytes + announced > limits.maxBufferedBytes) return NO_ROOM;
  try {
    if (announced > 0) {
      capacity.bufferedBytes += announced; // before it comes: many at once must not all be let in
      const body = await bytesOf(delivery.request);
      capacity.bufferedBytes += body.length - announced; // Bun drops the body of GET and HEAD
      delivery.body = body.length === 0 ? null : body;
    } else if (headers.has("transfer-encoding")) {
      const body = await receiveChunked(delivery.request, capacity, limits);
      if (!(body instanceof Uint8Array)) return body;
      delivery.body = body;
    } else if (length !== null) {
      delivery.body = NO_BYTES;
    }
  } catch {
    // Broken off, or silent for too long: nobody reads this answer.
    capacity.bufferedBytes -= announced;
    return BODY_BROKE_OFF;
  }
  return null;
}

const NO_BYTES: Bytes = new Uint8Array();

/** A body of unknown length, counted as it comes. Throws where it breaks off. */
async function receiveChunked(
  { body }: Request,
  capacity: Capacity,
  { maxBodyBytes, maxBufferedBytes }: IntakeLimits,
): Promise<Bytes | ProxyError> {
  const chunks: Bytes[] = [];
  let length = 0;
  let isTaken = false;
  try {
    for await (const chunk of body ?? []) {
      chunks.push(chunk);
      length += chunk.length;
      capacity.bufferedBytes += chunk.length;
      if (length > maxBodyBytes) return bodyTooLarge(maxBodyBytes);
      if (capacity.bufferedBytes > maxBufferedBytes) return NO_ROOM;
    }
    isTaken = true; // it stays counted until the request ends
    return joined(chunks);
  } finally {
    if (!isTaken) capacity.bufferedBytes -= length;
  }
}
