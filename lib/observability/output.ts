/**
 * Standard output that never holds up the proxy: what nobody reads waits up to a bound, then lines are dropped, and
 * how many is said once reading goes on.
 *
 * `console.log` waits for a full pipe, and with it every request (Bun 1.4.5). A file sink on descriptor 1 does not;
 * on a terminal it does (Ctrl-S), so there each write goes through a thread. `process.stdout` would do for both, for
 * 2 MB of memory.
 */
import { codeOf } from "../core/json.ts";

/** Text on its way out in the background. */
export interface BoundedWriter {
  /** Never waits and never throws. */
  write(text: string): void;
  /** Resolves when nothing is pending; at once where the reader is gone for good. */
  flushed(): Promise<void>;
}

/** Takes a text; a promise where it takes its time. Rejects or throws where the text was not (wholly) written. */
export type Send = (text: string) => void | Promise<unknown>;

/** What may be pending, the write under way included, in UTF-16 units: mostly bytes. */
const MOST_PENDING = 1_000_000;

/** The reader, or the terminal, is gone: nothing that is written will ever be read. */
const GONE: ReadonlySet<string> = new Set(["EPIPE", "EIO", "EBADF", "ECONNRESET", "ENXIO"]);

/**
 * Writes in order, one write at a time, what came meanwhile together. `sayDropped` makes the line that tells how
 * many lines were dropped. `mostPending` bounds the memory.
 */
export function createBoundedWriter(
  send: Send,
  sayDropped: (lines: number) => string,
  mostPending = MOST_PENDING,
): BoundedWriter {
  let pending: string[] = [];
  /** Of what is pending and what is being sent. */
  let length = 0;
  let dropped = 0;
  let sending: Promise<void> | null = null;
  let isGone = false;

  const next = () => {
    if (dropped > 0) pending.push(sayDropped(dropped));
    const text = pending.join("");
    pending = [];
    length = text.length;
    dropped = 0;
    return text;
  };
  const failed = (text: string, error: unknown) => {
    if (GONE.has(codeOf(error))) isGone = true;
    else dropped += lineCount(text); // a full disk may have room again
  };
  const sendOn = async (first: string, underWay: Promise<unknown>) => {
    let text = first;
    let written = underWay;
    for (;;) {
      const isWritten = await written.then(
        () => true,
        (error) => (failed(text, error), false),
      );
      if (isGone || (pending.length === 0 && !(isWritten && dropped > 0))) break;
      text = next();
      written = attemptToSend(send, text);
    }
    pending = [];
    sending = null;
  };

  return {
    write(text) {
      if (isGone || text === "") return;
      if (sending !== null && length + text.length > mostPending) {
        dropped += lineCount(text);
        return;
      }
      pending.push(text);
      length += text.length;
      if (sending !== null) return;
      const whole = next();
      try {
        const written = send(whole);
        if (written instanceof Promise) sending = sendOn(whole, written);
      } catch (error) {
        failed(whole, error);
      }
    },
    flushed: () => sending ?? Promise.resolve(),
  };
}

/** As a promise, whether it throws or rejects. */
async function attemptToSend(send: Send, text: string): Promise<void> {
  await send(text);
}

function lineCount(text: string): number {
  return text.split("\n").length - 1;
}

/** Sends to descriptor 1, by the way that does not wait. `isTerminal`: see `writesToTerminal`. */
export function sendToStdout(isTerminal: boolean): Send {
  return isTerminal ? sendByThread() : sendBySink();
}

/** Pipes, sockets (the journal's) and files. The sink makes pipes and sockets non-blocking. */
function sendBySink(): Send {
  let sink: Bun.FileSink | null = null;
  return (text) => {
    const current = (sink ??= Bun.file(1).writer());
    // After a failure a sink takes everything and writes nothing: the next write opens another.
    const failed = (error: unknown) => {
      if (sink === current) sink = null;
      throw error;
    };
    try {
      const written = current.write(text);
      const flushed = current.flush();
      // Both must be listened to: each rejects.
      if (written instanceof Promise || flushed instanceof Promise) {
        return Promise.all([written, flushed]).catch(failed);
      }
    } catch (error) {
      failed(error);
    }
  };
}

/** A terminal, which may be stopped or far away. `node:fs` costs 1.2 MB: somebody watches, so it is worth it. */
function sendByThread(): Send {
  return async (text) => {
    const { write } = await import("node:fs");
    const bytes = Buffer.from(text);
    const writeFrom = (at: number) =>
      new Promise<number>((resolve, reject) => {
        write(1, bytes, at, bytes.length - at, null, (error, count) =>
          error === null ? resolve(count) : reject(error),
        );
      });
    for (let at = 0; at < bytes.length;) at += await writeFrom(at);
  };
}
