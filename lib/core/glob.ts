/**
 * Names with `*` in them, which stands for any text, also for none. Pure, and linear but for the number of stars.
 */

/** Whether a name is a pattern. */
export function isGlob(name: string): boolean {
  return name.includes("*");
}

/** Whether `text` is what `glob` describes. Case matters. */
export function matchesGlob(glob: string, text: string): boolean {
  const [start = "", ...parts] = glob.split("*");
  const end = parts.pop();
  if (end === undefined) return text === glob;
  if (!text.startsWith(start) || !text.endsWith(end) || text.length < start.length + end.length) return false;
  // The leftmost place of each part leaves the most room for those behind it.
  let at = start.length;
  for (const part of parts) {
    const found = text.indexOf(part, at);
    if (found < 0) return false;
    at = found + part.length;
  }
  return at <= text.length - end.length;
}
