/**
 * One call of the library: what the server's connection is to a request of the proxy. Its body is taken in, its answer
 * is a stream that the caller reads, and its signal ends it at once, wherever it is.
 */
import type { RequestUnderWay } from "../core/events.ts";
import { DRAINING } from "../http/error-responses.ts";
import type { ProxyError } from "../http/error-responses.ts";
import type { Bytes } from "../http/body.ts";
import { ClientShare } from "../http/load.ts";
import type { LoadLimits } from "../http/load.ts";
import { receiveCall } from "../http/request.ts";
import type { Received } from "../http/request.ts";
import type { BodySink, ClientEnd, Engine } from "../routing/engine.ts";

/** An answer that nobody reads any more is given up when the garbage collector comes by, else it would hold its key. */
const unread = new FinalizationRegistry<() => void>((leave) => leave());

export class Call implements ClientEnd {
  /** Ends the call inside the engine. */
  readonly #controller = new AbortController();
  /** The caller's own; null: none. */
  readonly #given: AbortSignal | null;
  readonly #engine: Engine;
  /** Calls share nothing: all of a limit is for whoever comes. */
  readonly share: ClientShare;
  /** What the engine knows of it; null: it has not begun. */
  context: RequestUnderWay | null = null;
  #isStreaming = false;
  /** What the body of the request broke off with; null: it did not. */
  #fault: { readonly thrown: unknown } | null = null;
  /** Ends what is there for the caller: the promise, or the body of the answer. */
  #onAbort: (reason: unknown) => void = () => {};

  constructor(given: AbortSignal | null, engine: Engine) {
    this.#given = given;
    this.#engine = engine;
    this.share = new ClientShare(engine.load);
    given?.addEventListener("abort", this.#abort, { once: true });
  }

  readonly #abort = () => {
    const reason: unknown = this.#given?.reason;
    this.#controller.abort(reason);
    this.#onAbort(reason);
  };

  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  /**
   * The answer, unless the caller's signal comes first: then its reason is thrown, as by every `fetch`. So is what the
   * caller's own body throws.
   */
  answer(run: () => Promise<Response>): Promise<Response> {
    return new Promise((resolve, reject) => {
      this.#onAbort = reject;
      run().then((response) => {
        if (this.#given?.aborted === true) return reject(this.#given.reason);
        if (!this.#isStreaming) this.#end();
        if (this.#fault !== null) return reject(this.#fault.thrown);
        resolve(response);
      }, reject);
    });
  }

  #end(): void {
    this.#given?.removeEventListener("abort", this.#abort);
    this.#onAbort = () => {};
  }

  /** The pool ends: who waits for a key need not any more. */
  drain(): void {
    const { clock } = this.#engine;
    if (this.context?.progressAt(clock.now()).phase === "waiting") this.#controller.abort(DRAINING);
  }

  /** The caller gets the very bytes. */
  readonly copiesPieces = false;

  timeout(): void {}

  receive(request: Request, share: ClientShare, limits: LoadLimits): Promise<Received | ProxyError> {
    return receiveCall(request, share, limits, (thrown) => (this.#fault = { thrown }));
  }

  startsToWait(): void {
    if (this.#engine.draining) this.#controller.abort(DRAINING);
  }

  openBody(_: Request, pass: (sink: BodySink) => Promise<void>, leave: () => void): ReadableStream<Bytes> {
    this.#isStreaming = true;
    const end = () => this.#end();
    const body = bodyOf(pass, leave, end, (abort) => (this.#onAbort = abort));
    unread.register(body, leave);
    return body;
  }
}

const encoder = new TextEncoder();

/** A standard stream that is written to: each piece is asked for before the next one is read from the provider. */
function bodyOf(
  pass: (sink: BodySink) => Promise<void>,
  leave: () => void,
  end: () => void,
  onAbort: (abort: (reason: unknown) => void) => void,
): ReadableStream<Bytes> {
  let isStarted = false;
  let isOver = false;
  /** The reader has nothing to read. */
  let isWanted = false;
  let wake: () => void = () => {};
  const finish = () => {
    isOver = true;
    end();
    wake();
  };
  let aborted: { readonly reason: unknown } | null = null;
  // Until somebody reads, nothing here may hold the stream: one that is dropped unread is given up.
  onAbort((reason) => {
    aborted = { reason };
    finish();
    leave();
  });
  const start = (controller: ReadableStreamDefaultController<Bytes>) => {
    onAbort((reason) => {
      if (isOver) return;
      finish();
      controller.error(reason);
      leave();
    });
    const sink: BodySink = {
      write(piece) {
        const bytes = typeof piece === "string" ? encoder.encode(piece) : piece;
        if (isOver || bytes.length === 0) return 0;
        isWanted = false;
        controller.enqueue(bytes); // may ask for more at once
        if (isWanted) return bytes.length;
        return new Promise((resolve) => (wake = () => resolve(bytes.length)));
      },
      close() {
        if (isOver) return;
        finish();
        controller.close();
      },
    };
    pass(sink).catch((error: unknown) => {
      if (isOver) return;
      finish();
      controller.error(new TypeError("the answer broke off", { cause: error }));
    });
  };
  return new ReadableStream<Bytes>(
    {
      pull(controller) {
        if (aborted !== null) return controller.error(aborted.reason);
        isWanted = true;
        wake();
        if (isStarted) return;
        isStarted = true;
        start(controller);
      },
      cancel() {
        finish();
        leave();
      },
    },
    { highWaterMark: 0 },
  );
}
