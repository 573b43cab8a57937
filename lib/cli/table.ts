/**
 * Rows and columns for a terminal. Pure.
 */

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
