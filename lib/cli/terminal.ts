/**
 * The terminal, or the pipes, that a command talks to: words out, a secret in.
 *
 * Only commands that end use this; the proxy itself never loads `process.stdin`.
 */

export interface Terminal {
  /** What was asked for: standard output, as it is. */
  write(text: string): void;
  /** What is said beside it: problems, progress. */
  writeError(text: string): void;
  /** Standard output is a terminal: somebody reads it now. */
  readonly isTerminal: boolean;
  /** Standard error is one: progress may be shown, and wiped out. */
  readonly showsProgress: boolean;
  /** How wide lines may be; Infinity where nobody reads them on a terminal. */
  readonly columns: number;
  /**
   * A line that is not shown while it is typed, or from a pipe its first line; without its line break. Null: there
   * was none, or the person thought better of it (Ctrl-C, Ctrl-D).
   */
  readSecret(question: string): Promise<string | null>;
}

/** The process's own. */
export function openTerminal(): Terminal {
  const { stdin, stdout, stderr } = process;
  return {
    // `console.log` waits for a slow pipe: what a command says must be out before it exits.
    write: (text) => console.log(text.replace(/\n$/, "")),
    // On a terminal `console.error` writes in red (Bun 1.4.5), and not everything that is said here is an error.
    writeError: (text) =>
      stderr.isTTY === true ? void stderr.write(text) : console.error(text.replace(/\n$/, "")),
    isTerminal: stdout.isTTY === true,
    showsProgress: stderr.isTTY === true,
    columns: stdout.isTTY === true ? (stdout.columns ?? 80) : Infinity,
    readSecret: (question) => (stdin.isTTY === true ? askSecret(question) : readFirstLine()),
  };
}

/** Raw mode: the terminal echoes nothing, and passes on Ctrl-C as a character, so the mode is always restored. */
async function askSecret(question: string): Promise<string | null> {
  const { stdin, stderr } = process;
  stderr.write(question);
  stdin.setRawMode(true);
  const line = new SecretLine();
  try {
    for await (const bytes of stdin) {
      const typed = line.type(Buffer.from(bytes).toString("utf8"));
      if (typed !== "more") return typed === "entered" ? line.text : null;
    }
    return null;
  } finally {
    stdin.setRawMode(false);
    stdin.pause();
    stderr.write("\n");
  }
}

/** What is typed into a line without echo. Pure. */
export class SecretLine {
  text = "";

  /** Takes characters as the terminal sends them. */
  type(characters: string): "more" | "entered" | "given_up" {
    // Arrow keys and the like, and the marks around a paste, are no part of a key.
    for (const character of characters.replace(/\u001b(?:\[[0-9;]*[A-Za-z~]|O[A-Z])/g, "")) {
      switch (character) {
        case "\r":
        case "\n":
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

/** Longer is no key. */
const LONGEST_LINE = 100_000;

async function readFirstLine(): Promise<string | null> {
  const decoder = new TextDecoder();
  let text = "";
  for await (const bytes of Bun.stdin.stream()) {
    text += decoder.decode(bytes, { stream: true });
    if (text.includes("\n") || text.length > LONGEST_LINE) break;
  }
  const [line = ""] = text.split(/\r?\n/, 1);
  return line === "" ? null : line;
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
}

const GAP = "  ";

/**
 * The rows as lines, with headings, each at most `width` wide. A column that is empty in every row is left out; of
 * the others the most expendable are, until the rest fits, and then the last cell of a line is cut.
 */
export function table<Row>(columns: readonly Column<Row>[], rows: readonly Row[], width = Infinity): string {
  let filled = columns.map((column) => layOut(column, rows)).filter(({ cells }) => cells.some(Boolean));
  while (widthOf(filled) > width) {
    const least = Math.max(...filled.map(({ expendable }) => expendable));
    if (least <= 0) break;
    filled = filled.filter(({ expendable }) => expendable !== least);
  }
  const lines = ["", ...rows].map((_, line) =>
    filled.map((column) => padded(line === 0 ? column.title : column.cells[line - 1]!, column)).join(GAP),
  );
  return lines.map((line) => cutTo(line.trimEnd(), width)).join("\n");
}

interface LaidOut {
  title: string;
  cells: string[];
  width: number;
  align: "left" | "right";
  expendable: number;
}

function layOut<Row>(
  { title, of, align = undefined, expendable = 0 }: Column<Row>,
  rows: readonly Row[],
): LaidOut {
  const cells = rows.map((row) => oneLine(of(row)));
  const width = Math.max(...[title, ...cells].map((cell) => Bun.stringWidth(cell)));
  return { title, cells, width, align: align ?? "left", expendable };
}

function widthOf(columns: readonly LaidOut[]): number {
  return columns.reduce((sum, { width }) => sum + width + GAP.length, -GAP.length);
}

function padded(cell: string, { width, align }: LaidOut): string {
  const blank = " ".repeat(width - Bun.stringWidth(cell));
  return align === "right" ? blank + cell : cell + blank;
}

/** What upstream or a file says may hold control characters, which some terminals obey. */
export function oneLine(text: string): string {
  return text.replace(/[\x00-\x1f\x7f-\x9f]+/g, " ").trim();
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
