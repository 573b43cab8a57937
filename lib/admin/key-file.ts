/**
 * The text of a key file, edited: a key a line, comments and all else left as they are. Pure.
 *
 * What is a key in it is decided by the rules of `splitKeyFile`; here only where the keys stand is known.
 */

/** One line: its keys as they are written, and the comment behind them with the space before it. */
interface KeyLine {
  keys: string[];
  /** What goes before the first key: nothing, or a byte order mark. */
  before: string;
  text: string;
  comment: string;
}

function linesOf(text: string): KeyLine[] {
  return text.split(/\r\n|\n|\r/).map((line) => {
    const before = line.startsWith("\uFEFF") ? "\uFEFF" : "";
    const body = line.slice(before.length);
    const commentAt = body.search(/(?:^|\s)#/);
    const head = commentAt === -1 ? body : body.slice(0, commentAt);
    const keys = head.split(/[\s,]+/).filter((key) => key !== "");
    return { keys, before, text: body, comment: body.slice(head.length) };
  });
}

function textOf(lines: readonly KeyLine[], like: string): string {
  const lineEnd = like.includes("\r\n") ? "\r\n" : "\n";
  return lines.map(({ before, text }) => before + text).join(lineEnd);
}

/** Puts a key (`[account@]key[:daily]`) at the end. */
export function withKey(text: string, written: string): string {
  const lineEnd = text.includes("\r\n") ? "\r\n" : "\n";
  const isLineOpen = text !== "" && !/[\r\n]$/.test(text);
  return `${text}${isLineOpen ? lineEnd : ""}${written}${lineEnd}`;
}

/** Takes out the keys that are `gone`; a line that has no other goes with its comment. */
export function withoutKeys(text: string, gone: (written: string) => boolean): string {
  const lines = linesOf(text).flatMap((line): KeyLine[] => {
    const kept = line.keys.filter((key) => !gone(key));
    if (kept.length === line.keys.length) return [line];
    if (kept.length === 0) return line.before === "" ? [] : [{ ...line, text: "" }];
    return [{ ...line, text: kept.join(",") + line.comment }];
  });
  return textOf(lines, text);
}

/**
 * Puts the keys into another order. `rankOf`: the lower, the earlier. A key takes the comment behind it along; where
 * a line holds several, comments stay where they are.
 */
export function withKeysInOrder(text: string, rankOf: (written: string) => number): string {
  const lines = linesOf(text);
  const filled = lines.filter(({ keys }) => keys.length > 0);
  if (filled.every(({ keys }) => keys.length === 1)) {
    const rank = ({ keys: [key = ""] }: KeyLine) => rankOf(key);
    const sorted = filled.toSorted((a, b) => rank(a) - rank(b));
    return textOf(
      lines.map((line) => (line.keys.length === 0 ? line : { ...line, text: sorted.shift()?.text ?? "" })),
      text,
    );
  }
  const sorted = filled.flatMap(({ keys }) => keys).toSorted((a, b) => rankOf(a) - rankOf(b));
  return textOf(
    lines.map((line) => {
      if (line.keys.length === 0) return line;
      return { ...line, text: sorted.splice(0, line.keys.length).join(",") + line.comment };
    }),
    text,
  );
}
