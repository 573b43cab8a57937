/**
 * What the engine needs of the runtime it runs on, and nothing else of it may know which one that is.
 *
 * Two implementations: `runtime-bun.ts` (the executable, `bun proxy.ts`) and `runtime-node.ts` (the npm package, on
 * Node, Deno and Bun). Which one `#runtime` stands for is said in `package.json` under `imports`, so the other one is
 * not even loaded. What differs by the place and not by the runtime (the way to the provider, the client's end of a
 * request) is handed in: `UpstreamConnections` here, `ClientEnd` in `lib/routing/engine.ts`.
 */

/** What `#runtime` exports. All are called in the path of requests. */
export interface Runtime {
  /** SHA-256 of a text in UTF-8: 32 bytes. */
  sha256(text: string): Uint8Array;
  /** xxHash32 of bytes, or of a text in UTF-8. `seed`: 0 unless told. The same on every runtime. */
  hash32(data: string | Uint8Array, seed?: number): number;
  /** A part of some bytes as text in UTF-8, without a view or a copy of them. */
  textBetween(bytes: Uint8Array, start: number, end: number): string;
  /** Unpacks a gzip in one go, and ignores what stands behind its end. Throws where it is none. */
  gunzip(bytes: Uint8Array<ArrayBuffer>): Uint8Array<ArrayBuffer>;
  /**
   * Gives the memory that these bytes are in back at once, where the runtime can: its collector comes by when as much
   * again has been taken up. Nobody may read them any more.
   */
  free(bytes: Uint8Array<ArrayBuffer>): void;
  /**
   * A stream of these parts, handed out in pieces when they are asked for, which `fetch` sends with the
   * `content-length` that it is given, and without a copy. `onOver`: the last one was handed out, or no more are
   * wanted. Null: this runtime's `fetch` sends streams in chunks only.
   */
  readonly inPieces:
    | ((
        parts: readonly Uint8Array<ArrayBuffer>[],
        onOver: () => void,
      ) => ReadableStream<Uint8Array<ArrayBuffer>>)
    | null;
  /** Unpacks piece by piece; null: this runtime cannot undo the format. */
  decompressor(format: CompressionName): Decompressor | null;
}

/** Formats of compression, as `DecompressionStream` calls them. */
export type CompressionName = "gzip" | "deflate" | "deflate-raw" | "brotli" | "zstd";

export interface Decompressor {
  readonly readable: ReadableStream<Uint8Array<ArrayBuffer>>;
  readonly writable: WritableStream<Uint8Array<ArrayBuffer>>;
}

/** A request on its way to a provider, as the standard's `fetch` takes it, and what only some runtimes know. */
export interface UpstreamRequest {
  readonly method: string;
  readonly headers: Headers;
  readonly body?: Uint8Array<ArrayBuffer> | ReadableStream<Uint8Array<ArrayBuffer>> | null;
  /** A followed redirect would carry the key elsewhere. */
  readonly redirect: "manual";
  /** Set: the bytes of the answer stay as they were sent, where the runtime can. */
  readonly decompress?: false;
  /** The address of an HTTP proxy; undefined: none. */
  readonly proxy: string | undefined;
  readonly signal: AbortSignal;
}

/** A question about a key, whose answer is only read. */
export type UpstreamQuestion = Pick<
  UpstreamRequest,
  "method" | "headers" | "redirect" | "proxy" | "signal"
> & {
  readonly body: string | null;
};

/** An answer of a provider, as far as it is used. Its headers can be changed; they describe the bytes of its body. */
export interface UpstreamResponse {
  readonly status: number;
  readonly headers: Headers;
  readonly body: ReadableStream<Uint8Array<ArrayBuffer>> | null;
  /** All of the body. */
  bytes(): Promise<Uint8Array>;
}

/** The way to one provider. */
export interface UpstreamConnections {
  /** Sends a request. `isReplay`: one like it has just found its connection dead, so this one needs a fresh one. */
  send(url: string, request: UpstreamRequest, isReplay: boolean): Promise<UpstreamResponse>;
  /** Drops the connections that are idle: one of their like was found dead. */
  dropIdle(): void;
}
