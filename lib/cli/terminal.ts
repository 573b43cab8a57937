/**
 * The terminal, or the pipes, that a command talks to: words out, lines in.
 *
 * Only commands that end use this; the proxy itself never loads `process.stdin`.
 */
import { visible } from "../core/text.ts";

export interface Terminal {
  /** What was asked for: standard output, as it is. */
  write(text: string): void;
  /** What is said beside it: questions, problems, progress. */
  writeError(text: string): void;
  /** Standard output is a terminal: somebody reads it now. */
  readonly isTerminal: boolean;
  /** Standard input is one: somebody can be asked. */
  readonly canAsk: boolean;
  /** Standard error is one: progress may be shown, and wiped out. */
  readonly showsProgress: boolean;
  /** Colours may be used: on a terminal, unless NO_COLOR is set. */
  readonly hasColours: boolean;
  /** How wide lines may be. */
  readonly columns: number;
  /**
   * A line that is typed, or the next one of a pipe; without its line break. Null: there is none, or the person thought
   * better of it (Ctrl-C, Ctrl-D). `hidden`: it is not shown while it is typed.
   */
  readLine(question: string, options?: { hidden?: boolean }): Promise<string | null>;
}

/** What a pipe, or somebody who reads no terminal, gets. */
const USUAL_COLUMNS = 80;

/** The process's own. `environment`: what tells whether colours are wanted. */
export function openTerminal(environment: Readonly<Record<string, string | undefined>>): Terminal {
  const { stdin, stdout, stderr } = process;
  const isTerminal = stdout.isTTY === true;
  const canAsk = stdin.isTTY === true;
  const input = new Input(stdin);
  return {
    // `console.log` waits for a slow pipe: what a command says must be out before it exits.
    write: (text) => console.log(visible(text.replace(/\n$/, ""))),
    // On a terminal `console.error` writes in red (Bun 1.4.5), and not everything that is said here is an error.
    writeError: (text) =>
      stderr.isTTY === true
        ? void stderr.write(visible(text))
        : console.error(visible(text.replace(/\n$/, ""))),
    isTerminal,
    canAsk,
    showsProgress: stderr.isTTY === true,
    hasColours: isTerminal && !environment["NO_COLOR"] && environment["TERM"] !== "dumb",
    columns: isTerminal ? (stdout.columns ?? USUAL_COLUMNS) : USUAL_COLUMNS,
    async readLine(question, { hidden = false } = {}) {
      if (!canAsk) return input.line();
      stderr.write(question);
      if (!hidden) return input.line();
      // Raw mode echoes nothing, and passes on Ctrl-C as a character, so the mode is always restored.
      stdin.setRawMode(true);
      try {
        return await input.hiddenLine();
      } finally {
        stdin.setRawMode(false);
        stderr.write("\n");
      }
    },
  };
}

/** Longer is no key. */
const LONGEST_LINE = 100_000;

/** Standard input, line by line: what came beyond a line is kept for the next one. */
class Input {
  readonly #stream: NodeJS.ReadStream;
  #text = "";
  #hasEnded = false;
  #isOpen = false;
  #wake = () => {};

  constructor(stream: NodeJS.ReadStream) {
    this.#stream = stream;
  }

  async line(): Promise<string | null> {
    while (!this.#text.includes("\n") && this.#text.length < LONGEST_LINE) {
      if (!(await this.#more())) break;
    }
    if (this.#text === "" && this.#hasEnded) return null;
    const end = this.#text.indexOf("\n");
    const line = end === -1 ? this.#text : this.#text.slice(0, end);
    this.#text = end === -1 ? "" : this.#text.slice(end + 1);
    return line.replace(/\r$/, "");
  }

  async hiddenLine(): Promise<string | null> {
    const line = new SecretLine();
    for (;;) {
      const typed = line.type(this.#text);
      this.#text = line.rest;
      if (typed !== "more") return typed === "entered" ? line.text : null;
      if (!(await this.#more())) return null;
    }
  }

  /** Waits for more; false: there is none. */
  async #more(): Promise<boolean> {
    if (this.#hasEnded) return false;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#wake = resolve;
    this.#open();
    await promise;
    this.#stream.pause(); // else it would keep the process alive
    return !this.#hasEnded;
  }

  #open(): void {
    this.#stream.resume();
    if (this.#isOpen) return;
    this.#isOpen = true;
    const decoder = new TextDecoder();
    this.#stream.on("data", (bytes: Uint8Array) => {
      this.#text += decoder.decode(bytes, { stream: true });
      this.#wake();
    });
    for (const end of ["end", "error", "close"]) {
      this.#stream.on(end, () => {
        this.#hasEnded = true;
        this.#wake();
      });
    }
  }
}

/** What is typed into a line without echo. Pure. */
export class SecretLine {
  text = "";
  /** What came behind the end of the line: a paste may hold several. */
  rest = "";

  /** Takes characters as the terminal sends them. */
  type(characters: string): "more" | "entered" | "given_up" {
    // Arrow keys and the like, and the marks around a paste, are no part of a key.
    const plain = [...characters.replace(/\u001b(?:\[[0-9;]*[A-Za-z~]|O[A-Z])/g, "").replace(/\r\n/g, "\n")];
    this.rest = "";
    for (const [index, character] of plain.entries()) {
      switch (character) {
        case "\r":
        case "\n":
          this.rest = plain.slice(index + 1).join("");
          return "entered";
        case "\u0003": // Ctrl-C
          return "given_up";
        case "\u0004": // Ctrl-D
          return this.text === "" ? "given_up" : "entered";
        case "\u007f": // backspace
        case "\b":
          this.text = [...this.text].slice(0, -1).join("");
          break;
        case "\u0015": // Ctrl-U
          this.text = "";
          break;
        default:
          this.text += character;
      }
    }
    return "more";
  }
}

// ── Colours ───────────────────────────────────────────────────────────────────────────────────────────────────────

/** Those of the terminal's own palette, so that they fit its background. */
const COLOURS = { green: 32, yellow: 33, red: 31, grey: 90, bold: 1 } as const;

export type Colour = keyof typeof COLOURS;

/** `text` in a colour, where there are colours; null: as it is. */
export function painted(
  text: string,
  colour: Colour | null,
  { hasColours }: Pick<Terminal, "hasColours">,
): string {
  return colour === null || !hasColours || text === "" ? text : `\u001b[${COLOURS[colour]}m${text}\u001b[0m`;
}

// ── Tables ────────────────────────────────────────────────────────────────────────────────────────────────────────

/** How a column is written. */
export interface Column<Row> {
  /** Its heading, in capitals as `docker` and `kubectl` have it. */
  title: string;
  /** The cell of a row; empty: nothing is known. */
  of(row: Row): string;
  /** Numbers stand under each other by their last digit. */
  align?: "right";
  /** Left out of narrow terminals: the highest number goes first; without one it always stays. */
  expendable?: number;
  /** The last column: what does not fit goes on in further lines. */
  wraps?: true;
  /** null: as it is. */
  colour?(row: Row): Colour | null;
}

const GAP = "  ";
/** A narrower rest of a line is not worth wrapping into. */
const LEAST_WRAPPED = 16;

/** Where a table is written. */
interface TableOptions {
  /** How wide a line may be. */
  width?: number;
  hasColours?: boolean;
}

/**
 * The rows as lines, with headings, each at most `width` wide. A column that is empty in every row is left out; of
 * the others the most expendable are, until the rest fits; then the last one is wrapped, or a line is cut.
 */
export function table<Row>(
  columns: readonly Column<Row>[],
  rows: readonly Row[],
  { width = Infinity, hasColours = false }: TableOptions = {},
): string {
  let filled = columns.map((column) => layOut(column, rows)).filter(({ cells }) => cells.some(Boolean));
  while (leastWidthOf(filled) > width) {
    const least = Math.max(...filled.map(({ expendable }) => expendable));
    if (least <= 0) break;
    filled = filled.filter(({ expendable }) => expendable !== least);
  }
  const last = filled.at(-1);
  const before = filled.slice(0, -1);
  const indent = before.length === 0 ? 0 : widthOf(before) + GAP.length;
  return ["", ...rows]
    .flatMap((_, line) => {
      const cellOf = ({ title, cells }: LaidOut) => (line === 0 ? title : (cells[line - 1] ?? ""));
      const start = before.map((column) => padded(cellOf(column), column)).join(GAP);
      const wrapped =
        last === undefined
          ? []
          : last.wraps
            ? wrap(cellOf(last), width - indent)
            : [padded(cellOf(last), last)];
      const lines = wrapped.map((text, part) =>
        `${part > 0 ? " ".repeat(indent) : before.length === 0 ? "" : start + GAP}${text}`.trimEnd(),
      );
      if (!hasColours || line === 0 || lines.some((text) => Bun.stringWidth(text) > width)) {
        return lines.map((text) => cutTo(text, width));
      }
      const parts = before.map((column) => paintedCell(padded(cellOf(column), column), column, line));
      const [first = "", ...more] = wrapped;
      const end = last === undefined ? "" : paintedCell(first.trimEnd(), last, line);
      return [[...parts, end].join(GAP).trimEnd(), ...more.map((text) => " ".repeat(indent) + text)];
    })
    .join("\n");
}

function paintedCell(cell: string, { colours }: LaidOut, line: number): string {
  return painted(cell, colours[line - 1] ?? null, { hasColours: true });
}

/** `text` in lines of at most `width`, broken between words where that can be. */
export function wrap(text: string, width: number): string[] {
  if (Bun.stringWidth(text) <= width || width < LEAST_WRAPPED) return [text];
  const lines: string[] = [];
  let line = "";
  for (const word of text.split(" ")) {
    const longer = line === "" ? word : `${line} ${word}`;
    if (Bun.stringWidth(longer) <= width) {
      line = longer;
      continue;
    }
    if (line !== "") lines.push(line);
    let rest = word;
    while (Bun.stringWidth(rest) > width) {
      lines.push(rest.slice(0, width));
      rest = rest.slice(width);
    }
    line = rest;
  }
  return [...lines, line];
}

interface LaidOut {
  title: string;
  cells: string[];
  width: number;
  align: "left" | "right";
  expendable: number;
  wraps: boolean;
  /** Of each row. */
  colours: readonly (Colour | null)[];
}

function layOut<Row>(column: Column<Row>, rows: readonly Row[]): LaidOut {
  const { title, of, align = "left", expendable = 0, wraps = false } = column;
  const cells = rows.map((row) => oneLine(of(row)));
  const width = Math.max(...[title, ...cells].map((cell) => Bun.stringWidth(cell)));
  const colours = rows.map((row) => column.colour?.(row) ?? null);
  return { title, cells, width, align, expendable, wraps, colours };
}

/** How wide the columns are at least: one that wraps needs little. */
function leastWidthOf(columns: readonly LaidOut[]): number {
  return widthOf(
    columns.map((column) =>
      column.wraps ? { ...column, width: Math.min(column.width, LEAST_WRAPPED) } : column,
    ),
  );
}

function widthOf(columns: readonly LaidOut[]): number {
  return columns.reduce((sum, { width }) => sum + width + GAP.length, -GAP.length);
}

function padded(cell: string, { width, align }: LaidOut): string {
  const blank = " ".repeat(width - Bun.stringWidth(cell));
  return align === "right" ? blank + cell : cell + blank;
}

/**
 * What upstream or a file says as one line: it may hold control characters, which some terminals obey, and characters
 * that break a line or turn its order around (D10).
 */
export function oneLine(text: string): string {
  return text
    .replace(/[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]+/g, " ")
    .trim();
}

/** The beginning of a line, where it is longer than the terminal is wide. */
export function cutTo(line: string, width: number): string {
  if (Bun.stringWidth(line) <= width) return line;
  let cut = "";
  let taken = 1; // the ellipsis
  for (const character of line) {
    taken += Bun.stringWidth(character);
    if (taken > width) break;
    cut += character;
  }
  return `${cut}…`;
}

/** Says something beside what was asked for, in lines as wide as the terminal. */
export function say(message: string, terminal: Terminal): void {
  for (const line of message.split("\n")) {
    terminal.writeError(`${wrap(oneLine(line), terminal.columns).join("\n")}\n`);
  }
}
