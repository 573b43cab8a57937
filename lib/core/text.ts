/**
 * Text of others on its way to people.
 */

/** Line ends, as bytes. */
export const LF = 0x0a;
export const CR = 0x0d;

/**
 * Characters that turn or break a line, or cannot be seen: controls above ASCII, which some terminals obey, marks of
 * direction, separators of lines, and letters without width. Of those below, who writes lines takes care.
 */
const UNSEEN = /[\u007f-\u009f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]/g;

/** The text with such characters written as `\u202e`; the same string where there are none. JSON stays what it says. */
export function visible(text: string): string {
  return text.replace(UNSEEN, (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`);
}
