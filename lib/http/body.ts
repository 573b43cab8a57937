/**
 * Reading an answer far enough to judge it, and never further than is good.
 */

export type Bytes = Uint8Array<ArrayBuffer>;

/** What is read of a body: the standard's reader, as far as it is used. */
export interface ByteReader {
  read(): Promise<ReadResult>;
  cancel(): Promise<void>;
}

export type ReadResult = { done: false; value: Bytes } | { done: true; value?: Bytes | undefined };

/** How much of an error answer is looked at. */
const EVIDENCE_BYTES = 64 * 1024;

const decoder = new TextDecoder();

export function textOf(bytes: Uint8Array): string {
  return decoder.decode(bytes);
}

/** The part of an error body that is judged, as text. */
export function evidenceOf(plain: Uint8Array): string {
  return textOf(plain.subarray(0, EVIDENCE_BYTES));
}

export function isJson(bytes: Uint8Array): boolean {
  try {
    JSON.parse(textOf(bytes));
    return true;
  } catch {
    return false;
  }
}

/** Reads on from `first` until more than `limit` bytes are there or the body ends; `isWhole`: it ended. */
export async function readUpTo(
  reader: ByteReader,
  limit: number,
  first: Bytes | null = null,
): Promise<{ bytes: Bytes; isWhole: boolean }> {
  const chunks: Bytes[] = first === null ? [] : [first];
  let length = first?.length ?? 0;
  for (;;) {
    const { done, value } = await reader.read();
    if (value !== undefined) chunks.push(value);
    length += value?.length ?? 0;
    if (done || length > limit) return { bytes: joined(chunks), isWhole: done };
  }
}

export function joined(chunks: readonly Bytes[]): Bytes {
  const [only] = chunks;
  return chunks.length === 1 && only !== undefined ? only : Uint8Array.from(Buffer.concat(chunks));
}

/** A whole body. Cheaper than its buffer and a view of that; Bun's types leave open what the bytes are in (1.4.5). */
export function bytesOf(message: Request | Response): Promise<Bytes> {
  return message.bytes() as Promise<Bytes>;
}

/** A reader of an answer's body, or null where it has none. */
export function readerOf(response: Response): ByteReader | null {
  const body: ReadableStream<Bytes> | null = response.body;
  return body === null ? null : body.getReader();
}

/** Closes an answer nobody will read: unread, it would hold its socket until the garbage collector came by. */
export function discard(reader: ByteReader): void {
  reader.cancel().catch(() => {}); // closed or cut already: the same to us
}

/** Bytes that come in pieces, as one: grows by doubling, so that small pieces do not cost their square. */
export class Gathering {
  /** The first piece alone is kept as it is, not copied. */
  #bytes: Bytes = new Uint8Array();
  length = 0;

  push(piece: Bytes): void {
    const before = this.length;
    this.length += piece.length;
    if (before === 0) this.#bytes = piece;
    if (before === 0) return;
    if (this.length > this.#bytes.length) {
      const larger = new Uint8Array(Math.max(this.length, 2 * this.#bytes.length));
      larger.set(this.#bytes.subarray(0, before));
      this.#bytes = larger;
    }
    this.#bytes.set(piece, before);
  }

  /** All of it. Good until the next piece comes. */
  get bytes(): Bytes {
    return this.#bytes.subarray(0, this.length);
  }
}

/** A stream of what is here already. */
export function streamOf(bytes: Bytes): ReadableStream<Bytes> {
  return new ReadableStream({
    start(controller) {
      controller.enqueue(bytes);
      controller.close();
    },
  });
}
