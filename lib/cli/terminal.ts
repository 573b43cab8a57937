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
