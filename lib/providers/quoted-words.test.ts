import { describe, expect, test } from "bun:test";
import { withoutQuotes } from "./quoted-words.ts";

const bytes = (text: string) => new TextEncoder().encode(text);
/** What is left of a text, blanks made one. */
const left = (text: string, body: string, model: string | null = null) =>
  withoutQuotes(text, { model, body: bytes(body) })
    .replaceAll(/\s+/g, " ")
    .trim();

describe("P37 what an error quotes from the request", () => {
  test.each<[sentence: string, text: string, body: string, expected: string]>([
    [
      "a run of three words is a quotation",
      "Bad: one two three here",
      "zero one two three four",
      "Bad: here",
    ],
    ["a run of two is none", "Bad: one two here", "zero one two four", "Bad: one two here"],
    ["words in another order are none", "Bad: three two one", "one two three", "Bad: three two one"],
    ["case does not matter", "Bad: One TWO three", "one two Three", "Bad:"],
    ["signs between the words do not matter", "Bad: one, two - three", "one two three", "Bad: , -"],
    ["two words in quotation marks are one", 'Bad: "one two" here', "one two four", 'Bad: " " here'],
    ["curly marks are marks", "Bad: “one two” here", "one two four", "Bad: “ ” here"],
    ["words in marks that the request lacks stay", 'Bad: "one nine" here', "one two", 'Bad: "one nine" here'],
    [
      "words after a line break in JSON",
      "Bad: one two three",
      '{"content":"zero\\none\\ttwo three"}',
      "Bad:",
    ],
    ["escaped marks in JSON", "Bad: one two three", '{"content":"\\"one\\" two three"}', "Bad:"],
    ["letters with accents", "Bad: déjà vu encore", '{"content":"déjà vu encore"}', "Bad:"],
    [
      "letters with accents in escapes",
      "Bad: déjà vu encore",
      '{"content":"d\\u00e9j\\u00e0 vu encore"}',
      "Bad:",
    ],
    ["Cyrillic letters", "Bad: раз два три", '{"content":"раз два три"}', "Bad:"],
    ["signs without blanks between them", "坏：一二三四", '{"content":"零一二三四五"}', "坏："],
    ["signs in escapes", "坏：一二三", '{"content":"\\u4e00\\u4e8c\\u4e09"}', "坏："],
    ["ASCII letters in escapes", "Bad: one two three", '{"a":"\\u006fne \\u0054wo three"}', "Bad:"],
    [
      "words of JSON in JSON",
      "Bad: 'one two'",
      '{"arguments":"{\\"a\\":\\"x\\\\none \\\\u0074wo\\"}"}',
      "Bad: ' '",
    ],
    ["two words of a form", "Bad: 'one two' here", "a=1&prompt=One%20Two&b=2", "Bad: ' ' here"],
    ["two words of a form with a plus", "Bad: 'one two' here", "prompt=one+two", "Bad: ' ' here"],
    ["accents and signs of a form", "Bad: 'déjà 一二'", "p=d%C3%A9j%c3%a0%20%E4%B8%80%e4%ba%8c", "Bad: ' '"],
    ["words of an address in JSON", "Bad: 'one two'", '{"url":"https://a.example/?q=one%20two"}', "Bad: ' '"],
    ["a form whose escapes are broken", "Bad: 'one two'", "a=%zz%2&p=one%20two%", "Bad: ' '"],
    ["per cent that is no escape", "Bad: 'one 100 off'", "one 100% off", "Bad: ' '"],
    ["an escape that stays one", "Bad: 'one%20two'", "one%20two", "Bad: ' % '"],
    ["Cyrillic letters in other case", "Bad: 'РАЗ ДВА'", '{"content":"раз Два"}', "Bad: ' '"],
    [
      "Cyrillic letters in other case in escapes",
      "Bad: 'раз ДВА'",
      '{"content":"\\u0420\\u0430\\u0437 два"}',
      "Bad: ' '",
    ],
    ["Greek and accents in other case", "Bad: 'ΈΝΑ ÉTÉ'", "ένα été", "Bad: ' '"],
    ["Hindi, whose vowels are marks", "Bad: 'शेष राशि'", '{"content":"शेष राशि। ठीक"}', "Bad: ' '"],
    ["Arabic, behind a comma of its own", "Bad: 'رصيد غير'", '{"content":"لا، رصيد غير، كاف"}', "Bad: ' '"],
    ["Thai", "Bad: 'ยอดเงินไม่เพียงพอ'", '{"content":"ยอดเงินไม่เพียงพอ"}', "Bad: ' '"],
    ["full-width letters", "Bad: 'one two'", "ｏｎｅ ＴＷＯ！", "Bad: ' '"],
    ["words beside an emoji", "Bad: 'one two'", "🙂one two🙂", "Bad: ' '"],
    ["nothing of it", "Bad: one two three", "", "Bad: one two three"],
    ["words around an escape of HTML", "Bad: it&#39;s two three", "it's two three", "Bad: &#39;"],
    [
      "words in marks that are escaped",
      "Bad: &quot;one two&quot; here",
      "one two",
      "Bad: &quot; &quot; here",
    ],
    ["words in escaped single marks", "Bad: &#x27;one two&#x27; here", "one two", "Bad: &#x27; &#x27; here"],
    ["what only looks like an escape", "Bad: one & two three", "one & two three", "Bad: &"],
  ])("%s", (_, text, body, expected) => {
    expect(left(text, body)).toBe(expected);
  });

  test.each<[sentence: string, text: string, body: string, expected: string]>([
    ["the whole error", "Pay one two three", "it said: pay one two three!", "Pay one two three"],
    ["its first words", "One two three, so pay", "one two three", "One two three, so pay"],
    ["its second sentence", "No. One two three", "one two three", "No. One two three"],
    ["a sentence behind signs of its language", "不行。一二三四", "一二三四", "不行。一二三四"],
    [
      "a line that goes on in other words",
      "No\nOne two three, pay",
      "one two three",
      "No One two three, pay",
    ],
    [
      "all sentences of it",
      "One two three. Four five six",
      "one two three four five six",
      "One two three. Four five six",
    ],
  ])("P41 the provider's own sentence that stands in the request stays: %s", (_, text, body, expected) => {
    expect(left(text, body)).toBe(expected);
  });

  test.each<[sentence: string, text: string, body: string, expected: string]>([
    ["words in the middle of a sentence", "Why is one two three here", "one two three", "Why is here"],
    ["what a mark introduces", "“One two three” is no", "one two three", "“ ” is no"],
    [
      "a sentence behind one that is quoted",
      "Bad: one two. Three four five",
      "one two three four five",
      "Bad: .",
    ],
    [
      "a part of it that is left out",
      "Bad: one two three… Four five six",
      "one two three, four five six",
      "Bad: …",
    ],
    ["a field that repeats the prompt", "Bad\nOne two three", "one two three", "Bad"],
    ["a line that is quoted as in mail", "Bad. > one two three, so", "one two three", "Bad. > , so"],
    ["what stands between stars", "Bad. **One two three** no", "one two three", "Bad. ** ** no"],
    ["an item of a list", "Bad. - One two three, no", "one two three", "Bad. - , no"],
    ["the frame of the error in the prompt", "Bad: Bad: one two three", "Bad: one two three", "Bad: :"],
  ])("what is quoted is quoted all the same: %s", (_, text, body, expected) => {
    expect(left(text, body)).toBe(expected);
  });

  test.each<[sentence: string, text: string, model: string, expected: string]>([
    [
      "a model is blanked where it stands alone",
      "no quota for x-large today",
      "x-large",
      "no quota for today",
    ],
    ["a part of a word is no model", "no quota for x-larger", "x-large", "no quota for x-larger"],
    ["a model of two letters is no word to look for", "no o1 for o1", "o1", "no o1 for o1"],
  ])("%s", (_, text, model, expected) => {
    expect(left(text, "{}", model)).toBe(expected);
  });

  test.each<[sentence: string, text: string, head: string, expected: string]>([
    ["a path", "Bad: one two three here", "v1 one two three", "Bad: here"],
    [
      "a field, beside a body that says something else",
      'Bad: "one two" here',
      "text/json one two",
      'Bad: " " here',
    ],
  ])("stands in %s", (_, text, head, expected) => {
    const blanked = withoutQuotes(text, { model: "m", body: bytes("nothing"), head });
    expect(blanked.replaceAll(/\s+/g, " ").trim()).toBe(expected);
  });

  test.each<[sentence: string, text: string, expected: string]>([
    ["double marks", 'Bad: "one two" here', "Bad: here"],
    ["single and curly ones", "Bad: 'one' “two” here", "Bad: here"],
    ["escaped marks", "Bad: &quot;one&quot; here", "Bad: here"],
    ["what has no marks", "Bad: one two here", "Bad: one two here"],
    ["a mark alone", 'Bad: one" here', 'Bad: one" here'],
  ])("of a body that is gone may be all that stands in marks: %s", (_, text, expected) => {
    const blanked = withoutQuotes(text, { model: "m", body: null, isBodyGone: true });
    expect(blanked.replaceAll(/\s+/g, " ").trim()).toBe(expected);
    expect(blanked).toHaveLength(text.length);
  });

  test("leaves the text as long as it was", () => {
    const text = 'Bad: "one two three" and one &quot;two three&#39;';
    expect(withoutQuotes(text, { model: "one", body: bytes("one two three") })).toHaveLength(text.length);
  });

  test.each([
    ["words", "some words of a prompt, "],
    ["escapes of a form", "%61%20%d0%b0%ff+b%20c%zz"],
  ])("P42 looks at a body of 32 MB for no longer than at one of 8: %s", (_, unit) => {
    const text = 'flagged: "never said before" '.repeat(280);
    const timeOf = (megabytes: number) => {
      const body = bytes(unit.repeat((megabytes * 1024 * 1024) / 24));
      const times = [1, 2, 3].map(() => {
        const before = performance.now();
        withoutQuotes(text, { model: "m", body });
        return performance.now() - before;
      });
      return Math.min(...times); // a busy machine makes one of them slow, not all
    };
    timeOf(1);
    expect(timeOf(32)).toBeLessThan(150);
  });
});
