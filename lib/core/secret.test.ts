import { describe, expect, test } from "bun:test";
import { equalInConstantTime, fingerprint, redact, REDACTED, Redactor, Secret } from "./secret.ts";

const KEY = "sk-canary/0123+4567=89_ABCDEF";

describe("a secret", () => {
  const secret = new Secret(KEY);
  const shown: [how: string, text: string][] = [
    ["in a template", `${secret}`],
    ["added to a string", "" + String(secret)],
    ["in JSON", JSON.stringify({ secret, list: [secret] })],
    ["in Bun.inspect", Bun.inspect({ deep: { secret } }, { depth: 9, showHidden: true } as object)],
    ["in an error", Bun.inspect(new Error(`refused: ${secret}`, { cause: secret }))],
    ["in a Map", Bun.inspect(new Map([[secret, secret]]))],
    ["in a spread", JSON.stringify({ ...secret })],
    ["in its own fields", JSON.stringify(Object.entries(Object.getOwnPropertyDescriptors(secret)))],
    ["in a structured clone", Bun.inspect(structuredClone({ ...secret }))],
    ["in a header", new Headers({ x: String(secret) }).get("x") ?? ""],
  ];
  test.each(shown)("does not show itself %s", (_, text) => {
    expect(text).not.toContain("canary");
    expect(text).not.toContain("0123");
  });

  test("shows which one it is by the beginning of a hash", () => {
    expect(`${secret}`).toBe(`[secret ${fingerprint(KEY)}]`);
    expect(secret.id).toBe(new Bun.CryptoHasher("sha256").update(KEY).digest("hex").slice(0, 8));
    expect(JSON.stringify(secret)).toBe(`"[secret ${secret.id}]"`);
  });

  test("gives itself out by one word only", () => {
    expect(secret.reveal()).toBe(KEY);
  });
});

describe("comparing a login", () => {
  const rows: [says: string, presented: string, isEqual: boolean][] = [
    ["the same text", KEY, true],
    ["nothing", "", false],
    ["its beginning", KEY.slice(0, -1), false],
    ["more than it", `${KEY}x`, false],
    ["another case", KEY.toLowerCase(), false],
    ["a blank behind it", `${KEY} `, false],
  ];
  test.each(rows)("%s", (_, presented, isEqual) => {
    expect(equalInConstantTime(presented, KEY)).toBe(isEqual);
  });
});

describe("what upstream echoes is cleaned of the key (P29)", () => {
  const base64 = (text: string) => Buffer.from(text).toString("base64");
  const escaped = (escape: (code: number) => string) =>
    [...KEY].map((character) => escape(character.charCodeAt(0))).join("");
  const hex = (code: number, digits: number) => code.toString(16).padStart(digits, "0");
  const echoes: [how: string, text: string][] = [
    ["as it is", `Incorrect API key provided: ${KEY}.`],
    ["twice", `${KEY} and ${KEY}`],
    ["in JSON", JSON.stringify({ error: { message: KEY } })],
    ["percent-encoded", `/login?key=${encodeURIComponent(KEY)}&x=1`],
    ["percent-encoded with small letters", `/login?key=${encodeURIComponent(KEY).toLowerCase()}`],
    ["percent-encoded with its slash left alone", `?key=${encodeURIComponent(KEY).replaceAll("%2F", "/")}`],
    ["with the slash escaped in JSON", `{"key":"${KEY.replaceAll("/", "\\/")}"}`],
    ["percent-encoded throughout", `?key=${escaped((code) => `%${hex(code, 2)}`)}`],
    [
      "percent-encoded in a URL that is percent-encoded",
      `?to=${encodeURIComponent(encodeURIComponent(KEY))}`,
    ],
    ["with the slash escaped in JSON that is quoted in JSON", JSON.stringify(KEY.replaceAll("/", "\\/"))],
    ["with every character escaped in JSON", `{"key":"${escaped((code) => `\\u${hex(code, 4)}`)}"}`],
    [
      "with some characters escaped in JSON",
      `{"key":"${KEY.replace("c", "\\u0063").replace("=", "\\u003D")}"}`,
    ],
    [
      "escaped in JSON that is quoted in JSON",
      `{"m":"{\\"key\\":\\"${escaped((code) => `\\\\u${hex(code, 4)}`)}\\"}"}`,
    ],
    ["escaped in HTML", `<p>${escaped((code) => `&#x${hex(code, 2)};`)}</p>`],
    ["escaped in HTML with decimal numbers", `<p>${escaped((code) => `&#${code};`)}</p>`],
    ["in small letters", KEY.toLowerCase()],
    ["in capitals, behind letters that grow when they are made small", `İİİ ${KEY.toUpperCase()} İ`],
    ["in base64", base64(KEY)],
    ["in hexadecimal digits", Buffer.from(KEY).toString("hex")],
    ["in hexadecimal capitals", Buffer.from(`Bearer ${KEY}`).toString("hex").toUpperCase()],
    [
      "in hexadecimal digits behind 0x, in JSON",
      JSON.stringify(`{"key":"0x${Buffer.from(KEY).toString("hex")}"}`),
    ],
    [
      "in hexadecimal digits broken over lines",
      (
        Buffer.from(KEY)
          .toString("hex")
          .match(/.{1,9}/g) ?? []
      ).join("\n"),
    ],
    ["escaped as in C", escaped((code) => `\\x${hex(code, 2)}`)],
    ["escaped as in C in JSON", JSON.stringify(escaped((code) => `\\x${hex(code, 2)}`))],
    ["in base64 in JSON", `{"key":"${base64(`??>${KEY}`).replaceAll("/", "\\/")}"}`],
    ["in base64 in a URL", `?key=${encodeURIComponent(base64(`??>${KEY}`))}`],
    ["in base64 behind one byte", base64(`:${KEY}`)],
    ["in base64 behind two bytes", base64(`a:${KEY}`)],
    ["in base64 as a password", base64(`user:${KEY}\n`)],
    ["in base64 with Bearer", base64(`Bearer ${KEY}`)],
    ["in base64 broken over lines", (base64(`??>${KEY}`).match(/.{1,9}/g) ?? []).join("\r\n  ")],
    ["in base64 broken over lines in JSON", JSON.stringify((base64(KEY).match(/.{1,9}/g) ?? []).join("\n"))],
    ["broken over lines", `${KEY.slice(0, 9)}\n\t${KEY.slice(9)}`],
    ["in base64url", Buffer.from(`{"key":"${KEY}"}`).toString("base64url")],
  ];
  test.each(echoes)("%s", (_, text) => {
    const clean = redact(text, [new Secret(KEY)]);
    expect(clean).toContain(REDACTED);
    // Whatever is left must not lead back to the key, whichever way it is read.
    const readings = [clean, clean.replaceAll("\\/", "/")];
    try {
      readings.push(decodeURIComponent(clean));
    } catch {
      // not percent-encoded
    }
    for (const part of clean.split(REDACTED)) {
      for (const cut of [0, 1, 2, 3]) {
        readings.push(Buffer.from(part.slice(cut), "base64").toString("latin1"));
      }
    }
    for (const reading of [...readings]) {
      readings.push(Buffer.from(/[0-9a-f]{8,}/i.exec(reading)?.[0] ?? "", "hex").toString("latin1"));
    }
    for (const reading of readings) {
      expect(reading.toLowerCase()).not.toContain("canary");
      expect(reading).not.toContain("4567=89");
    }
  });

  test("leaves what stands around it as it was, and JSON readable", () => {
    const inside = escaped((code) => `\\u${hex(code, 4)}`);
    const clean = redact(`{"a":"%2F\\u00e9\\/","key":"x${inside}y ${KEY}","z":"\\/%41"}`, [new Secret(KEY)]);
    expect(clean).toBe('{"a":"%2F\\u00e9\\/","key":"x[redacted]y [redacted]","z":"\\/%41"}');
  });

  test("finds a key that looks escaped itself", () => {
    const key = "sk-%41%42\\u0043-canary";
    expect(redact(`bad key: ${key}.`, [new Secret(key)])).toBe("bad key: [redacted].");
  });

  test("leaves a text without it as the same string", () => {
    const text = "Incorrect API key provided: sk-canary/0123";
    expect(redact(text, [new Secret(KEY)])).toBe(text);
  });

  test("cleans the longer of two keys first when one is the beginning of the other", () => {
    const [short, long] = [new Secret("sk-canary-1"), new Secret("sk-canary-1-and-more-of-it")];
    expect(redact(`key: ${long.reveal()}.`, [short, long])).toBe("key: [redacted].");
  });
});

describe("many keys at once (P29)", () => {
  const keys = Array.from(
    { length: 1000 },
    (_, nth) => new Secret(`sk-proj-${nth}-${Bun.hash(String(nth)).toString(36)}`),
  );
  const redactor = new Redactor(keys);

  test("each of them is found, as it is and in base64", () => {
    for (const key of keys) {
      const text = `no ${key.reveal()} and ${btoa(`: ${key.reveal()}`)}.`;
      expect(redactor.redact(text)).not.toContain(key.reveal());
      expect(redactor.redact(text)).toStartWith(`no ${REDACTED} and `);
    }
  });

  test("a text that holds none is the same string, and one that is too short is not looked at", () => {
    for (const text of ["sk-proj-1-", "", "nothing of the kind", "sk-proj-".repeat(1000)])
      expect(redactor.redact(text)).toBe(text);
    expect(redactor.shortest).toBeGreaterThan(8);
    expect(new Redactor([]).redact("sk-proj-1")).toBe("sk-proj-1");
  });
});

/** What somebody might send to make us work: runs of what begins an escape, or nearly one of the keys. */
const HOSTILE: [sentence: string, text: (length: number) => string][] = [
  ["backslashes", (length) => "\\".repeat(length)],
  ["backslashes before letters", (length) => "\\u".repeat(length / 2)],
  ["percent signs", (length) => "%".repeat(length)],
  ["percent signs of percent signs", (length) => `%${"25".repeat(length / 2)}`],
  ["percent signs that are escaped", (length) => "%25".repeat(length / 3)],
  ["ampersands", (length) => "&#".repeat(length / 2)],
  ["numbers without an end", (length) => `&#x${"0".repeat(length)}`],
  ["many numbers without an end", (length) => "&#x00000041".repeat(length / 11)],
  ["line breaks", (length) => "\n".repeat(length)],
  ["blanks behind a line break", (length) => `\n${" ".repeat(length)}`],
  ["ends of a key", (length) => "WXYZ".repeat(length / 4)],
  ["keys", (length) => "sk-canary-01234567-WXYZ ".repeat(length / 24)],
  ["hexadecimal digits", (length) => "5758595a".repeat(length / 8)],
  ["escapes of C", (length) => "\\x57".repeat(length / 4)],
  ["digits of base64", (length) => "c2stY2Fu".repeat(length / 8)],
];

test.each(HOSTILE)("P42 the work on %s grows as they do", (_, text) => {
  const redactor = new Redactor([
    new Secret("sk-canary-01234567-WXYZ"),
    new Secret("WXYZWXYZWXYZWXYZ\\WXYZ"),
  ]);
  const took = (length: number) => {
    const given = text(length);
    const times = Array.from({ length: 3 }, () => {
      const since = Bun.nanoseconds();
      redactor.redact(given);
      return Bun.nanoseconds() - since;
    });
    return Math.min(...times) / 1e6;
  };
  took(100_000); // warm
  const [once, twice, fourfold] = [took(200_000), took(400_000), took(800_000)];
  // Quadratic would be 16 times; noise of a busy machine is allowed for.
  expect({ once, twice, fourfold, isLinear: fourfold < 9 * once + 20 }).toMatchObject({ isLinear: true });
  expect(fourfold).toBeLessThan(1000);
});

test.each(["k1", "abc", "0f"])(
  "a key that is very short is not looked for in hexadecimal digits: %s",
  (key) => {
    const text = `${Buffer.from(key).toString("hex")} requests`;
    expect(redact(text, [new Secret(key)])).toBe(text);
  },
);
