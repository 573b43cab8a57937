/**
 * The text of an env file to its variables. Pure.
 *
 * Not Bun's own reading of `.env`: that expands `$` even in single quotes and cuts at any `#` (1.4.5), so a key
 * with a `$` in it arrives shortened. Here nothing is expanded, ever. A message never shows a value, or a line
 * that could not be read: it may be a key.
 */

/** What an env file says. The order of `values` is the order of the file. */
export interface EnvFile {
  values: Map<string, string>;
  /** One sentence a line that cannot be read; each begins with `Line <number>`. */
  problems: string[];
  warnings: string[];
}

/** One assignment, or why there is none. `lines` is how many lines it takes up. */
export type Statement =
  { kind: "blank"; lines: 1 } | Assignment | { kind: "unreadable"; because: string; lines: 1 };

export interface Assignment {
  kind: "assignment";
  name: string;
  value: string;
  lines: number;
  /** How it is written: `before`, the value between two `quote`, `after`. */
  before: string;
  quote: Quote | "";
  after: string;
}

export type Quote = '"' | "'";

/**
 * Reads `NAME=value` lines: an optional `export`, comments, single and double quotes (a quoted value may go over
 * several lines). Backslash escapes hold in double quotes only.
 */
export function parseEnvFile(text: string): EnvFile {
  const file: EnvFile = { values: new Map(), problems: [], warnings: [] };
  if (text.includes("\0")) {
    // Windows tools write UTF-16, in which every other byte of plain English is zero.
    file.problems.push("Line 1 is not text in UTF-8. Save the file as UTF-8.");
    return file;
  }
  const lineOf = new Map<string, number>();
  let line = 1;
  for (const statement of statementsOf(text.replace(/^\uFEFF/, "").split(LINE_END))) {
    if (statement.kind === "unreadable") file.problems.push(`Line ${line} ${statement.because}`);
    if (statement.kind === "assignment") {
      const { name, value } = statement;
      const earlier = lineOf.get(name);
      // A name with a dot or a dash cannot be ours, but it can be a key that got here by mistake: never shown.
      if (earlier !== undefined && /^\w+$/.test(name)) {
        file.warnings.push(
          `Line ${line} sets ${name} again, after line ${earlier}. The last one counts; remove the other.`,
        );
      }
      file.values.set(name, value);
      lineOf.set(name, line);
    }
    line += statement.lines;
  }
  return file;
}

export const LINE_END = /\r\n|\n|\r/;

/** The statements in these lines, in order; together they take up all of them. */
export function statementsOf(lines: readonly string[]): Statement[] {
  const statements: Statement[] = [];
  let index = 0;
  while (index < lines.length) {
    const statement = readStatement(lines, index);
    statements.push(statement);
    index += statement.lines;
  }
  return statements;
}

function readStatement(lines: readonly string[], index: number): Statement {
  const line = lines[index] ?? "";
  if (/^\s*(?:#|$)/.test(line)) return { kind: "blank", lines: 1 };
  const [, head, name, rest] = /^(\s*(?:export\s+)?([A-Za-z_][\w.-]*)\s*=)(.*)$/s.exec(line) ?? [];
  if (head === undefined || name === undefined || rest === undefined) {
    return unreadable(
      "is not NAME=value. Correct it, or put # before it; a value of several lines needs quotation marks.",
    );
  }
  const begun = rest.trimStart();
  const before = head + rest.slice(0, rest.length - begun.length);
  const quote = begun[0];
  if (quote !== '"' && quote !== "'") return unquoted(name, head, rest);
  const body = [begun.slice(1), ...lines.slice(index + 1)].join("\n");
  const end = closingQuote(body, quote);
  const inside = body.slice(0, end ?? 0);
  if (end === null || swallowsAssignment(inside)) {
    return unreadable(`opens a quotation mark (${quote}) that is not closed. Close it, or remove it.`);
  }
  const [after = ""] = body.slice(end + 1).split("\n", 1);
  if (!/^\s*(?:#|$)/.test(after)) {
    return unreadable(
      `has text after the closing quotation mark (${quote}). Quote the whole value, or write # before a comment.`,
    );
  }
  const value = quote === '"' ? unescaped(inside) : inside;
  return { kind: "assignment", name, value, lines: inside.split("\n").length, before, quote, after };
}

function unquoted(name: string, head: string, rest: string): Assignment {
  const value = rest.replace(/\s#.*$/s, "").trim();
  const start = value === "" ? 0 : rest.indexOf(value);
  const before = head + rest.slice(0, start);
  const after = rest.slice(start + value.length);
  return { kind: "assignment", name, value, lines: 1, before, quote: "", after };
}

function unreadable(because: string): Statement {
  return { kind: "unreadable", because, lines: 1 };
}

/** Where the quotation ends, or null. */
function closingQuote(body: string, quote: string): number | null {
  for (let at = 0; at < body.length; at += 1) {
    if (body[at] === quote) return at;
    if (body[at] === "\\" && quote === '"') at += 1;
  }
  return null;
}

/** A quotation mark left open runs on to the next one, and would take the settings between them with it. */
function swallowsAssignment(inside: string): boolean {
  return /\n\s*(?:export\s+)?[A-Z][A-Z0-9_]*=[^=]/.test(inside);
}

const ESCAPES: Record<string, string> = { n: "\n", r: "\r", t: "\t", "\n": "" };

/** An escape that is none (`C:\keys`) stays as it is written. */
function unescaped(text: string): string {
  return text.replace(/\\([nrt\n"'\\$`])/g, (_, character: string) => ESCAPES[character] ?? character);
}
