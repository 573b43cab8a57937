import { describe, expect, test } from "bun:test";
import { equalInConstantTime, fingerprint, redact, REDACTED, Secret } from "./secret.ts";

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
    ["in base64 in JSON", `{"key":"${base64(`??>${KEY}`).replaceAll("/", "\\/")}"}`],
    ["in base64 in a URL", `?key=${encodeURIComponent(base64(`??>${KEY}`))}`],
    ["in base64 behind one byte", base64(`:${KEY}`)],
    ["in base64 behind two bytes", base64(`a:${KEY}`)],
    ["in base64 as a password", base64(`user:${KEY}\n`)],
    ["in base64 with Bearer", base64(`Bearer ${KEY}`)],
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
