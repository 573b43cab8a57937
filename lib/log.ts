/**
 * Lines for the operator: one a finished request, one a thing that happened. Text on a terminal, JSON elsewhere.
 *
 * Lines are gathered and written together a few times a second: a write a request would cost a small machine more
 * than the request. Nothing here is ever handed a key or a prompt.
 */
import type { Clock } from "./clock.ts";

export type LogLevel = "debug" | "info" | "warn" | "error";

const RANK: Record<LogLevel, number> = { debug: 0, info: 1, warn: 2, error: 3 };

/** How long a line may wait for others before all are written. */
const FLUSH_AFTER_MS = 200;

export type LogFields = Record<string, string | number | boolean | null | undefined>;

export interface Log {
  /** Whether a line of this level is written: ask before gathering costly fields. */
  enabled(level: LogLevel): boolean;
  /** `event` is a short stable word for machines; the fields say the rest. */
  line(level: LogLevel, event: string, fields?: LogFields): void;
  /** Writes what is gathered. */
  flush(): void;
}

export interface LogOptions {
  level: LogLevel;
  format: "text" | "json";
  clock: Clock;
  write(text: string): void;
}

export function createLog(options: LogOptions): Log {
  const { level, format, clock, write } = options;
  let gathered = "";
  const flush = () => {
    const text = gathered;
    gathered = "";
    if (text !== "") write(text);
  };
  return {
    enabled: (asked) => RANK[asked] >= RANK[level],
    line(asked, event, fields = {}) {
      if (RANK[asked] < RANK[level]) return;
      if (gathered === "") clock.after(FLUSH_AFTER_MS, flush);
      const at = new Date(clock.now()).toISOString();
      gathered += format === "json" ? jsonLine(at, asked, event, fields) : textLine(at, asked, event, fields);
    },
    flush,
  };
}

function jsonLine(at: string, level: LogLevel, event: string, fields: LogFields): string {
  return `${JSON.stringify({ time: at, level, event, ...fields })}\n`;
}

function textLine(at: string, level: LogLevel, event: string, fields: LogFields): string {
  let line = `${at.slice(11, 19)} ${level === "info" ? "" : `${level} `}${event}`;
  for (const [name, value] of Object.entries(fields)) {
    if (value === undefined || value === null) continue;
    line += ` ${name}=${typeof value === "string" ? quoted(value) : value}`;
  }
  return `${line}\n`;
}

/** A value as one word: quoted where it holds anything that would end the word or the line. */
function quoted(value: string): string {
  if (/^[\w./:@,+*()[\]-]+$/.test(value)) return value;
  // JSON leaves the controls above ASCII as they are, and some terminals obey them.
  return JSON.stringify(value).replace(
    /[\u007f-\u009f]/g,
    (control) => `\\u00${control.charCodeAt(0).toString(16)}`,
  );
}
