/** Streams that fail at some point, or end in ways of their own, as they reach the client; and what the key is told. */
import { describe, expect, test } from "bun:test";
import { createBrotliCompress, createDeflate, createGzip, createZstdCompress } from "node:zlib";
import {
  answerHead,
  ask,
  chunk,
  EVENT_STREAM_HEAD,
  isOnProxy,
  LAST_CHUNK,
  stage,
  startRawProvider,
  until,
} from "../testing/fixture.ts";
import type { RawConnection, Stage } from "../testing/fixture.ts";

const named = (name: string, fields: object = {}) =>
  `event: ${name}\ndata: ${JSON.stringify({ type: name, ...fields })}\n\n`;
const unnamed = (fields: object) => `data: ${JSON.stringify(fields)}\n\n`;
const delta = (content: string, finish: string | null = null) =>
  unnamed({
    choices: [
      {
        index: 0,
        delta: content === "" ? { role: "assistant", content } : { content },
        finish_reason: finish,
      },
    ],
  });

const CHAT = "/v1/chat/completions";
const MESSAGES = "/v1/messages";
const RESPONSES = "/v1/responses";

const KEYS = ["sk-first-canary-0123456789", "sk-second-canary-9876543210"] as const;

/** The first key that is asked gets the one answer, every other the other. */
async function twoKeys(
  first: (connection: RawConnection) => void,
  then: (connection: RawConnection) => void,
  play: (staged: Stage, keyOf: (nth: number) => string | null) => Promise<void>,
): Promise<void> {
  await using provider = startRawProvider(({ key }, connection) =>
    key === provider.requests[0]?.key ? first(connection) : then(connection),
  );
  const settings = { API_KEYS: KEYS.join(","), PROVIDER: "generic", TARGET_BASE_URL: provider.url };
  await using staged = stage({ settings: { ...settings, COOLDOWN_SEC: "60", MAX_WAIT_SEC: "2" } });
  await play(staged, (nth) => provider.requests[nth]?.key ?? null);
}

const streamed =
  (...pieces: string[]) =>
  (connection: RawConnection) => {
    connection.write(EVENT_STREAM_HEAD);
    for (const piece of pieces) connection.write(chunk(piece));
    connection.write(LAST_CHUNK);
  };

async function wholeOf(staged: Stage, path: string) {
  const answer = await ask(staged.url, path);
  await until("it is answered", () => answer.end !== null);
  return { body: answer.body, end: answer.end, head: answer.head };
}

async function read(staged: Stage, path: string) {
  const { body, end, head } = await wholeOf(staged, path);
  return { text: body.toString(), end, head };
}

async function keysOf(staged: Stage): Promise<string[]> {
  await until("all is over", () => staged.engine.inFlight === 0);
  const [provider] = (await staged.health()).providers;
  return (provider?.keys ?? [])
    .map(({ state, reason }) => (reason === null ? state : `${state}: ${reason}`))
    .sort();
}

const GOOD: Record<string, string> = {
  [CHAT]: delta("") + delta("fine", "stop") + "data: [DONE]\n\n",
  [MESSAGES]: named("message_start", { message: {} }) + named("content_block_delta", { delta: { text: "fine" } }) + named("message_stop"),
  [RESPONSES]: named("response.created", { response: {} }) + named("response.output_text.delta", { delta: "fine" }) + named("response.completed", { response: {} }),
}; // prettier-ignore

const CREATED = named("response.created", { response: { status: "in_progress" } });
const LIMITED = named("response.failed", {
  response: { status: "failed", error: { code: "rate_limit_exceeded", message: "Please try again in 9s." } },
});
const START = named("message_start", { message: { role: "assistant", content: [], stop_reason: null } });
const TOO_MANY = { message: "Rate limit exceeded", code: 429 };

describe("P20 an error behind what holds no content is answered with another key", () => {
  const streams: [sentence: string, path: string, pieces: string[], keys: string[]][] = [
    ["Responses that were created", RESPONSES, [CREATED, LIMITED], ["cooling: rate_limit", "ready"]],
    ["Responses, in one piece", RESPONSES, [CREATED + named("response.in_progress", { response: {} }) + LIMITED], ["cooling: rate_limit", "ready"]],
    ["Responses that began an item", RESPONSES, [CREATED, named("response.output_item.added", { item: { type: "message", content: [] } }), LIMITED], ["cooling: rate_limit", "ready"]],
    ["Messages that began and gave a sign of life", MESSAGES, [START, named("ping"), named("error", { error: { type: "rate_limit_error", message: "slow down" } })], ["cooling: rate_limit", "ready"]],
    ["Messages of an overloaded provider", MESSAGES, [START, named("error", { error: { type: "overloaded_error", message: "Overloaded" } })], ["ready", "ready"]],
    ["Messages that began a block", MESSAGES, [START, named("content_block_start", { content_block: { type: "text", text: "" } }), named("error", { error: { type: "rate_limit_error", message: "slow down" } })], ["cooling: rate_limit", "ready"]],
    ["chat that told its role", CHAT, [delta(""), unnamed({ error: TOO_MANY })], ["cooling: rate_limit", "ready"]],
    ["chat behind comments and a role", CHAT, [": hello\n\n", delta(""), ": still\n\n", unnamed({ error: TOO_MANY })], ["cooling: rate_limit", "ready"]],
    ["chat, byte by byte", CHAT, [...(delta("") + unnamed({ error: TOO_MANY }))], ["cooling: rate_limit", "ready"]],
    ["chat that ended behind its role", CHAT, [delta("")], ["ready", "ready"]],
  ]; // prettier-ignore
  test.each(streams)("%s", async (_, path, pieces, keys) => {
    await twoKeys(streamed(...pieces), streamed(GOOD[path] ?? ""), async (staged, keyOf) => {
      const { text, end } = await read(staged, path);
      expect({ text, end }).toEqual({ text: GOOD[path] ?? "", end: "clean" });
      expect(await keysOf(staged)).toEqual(keys);
      expect(keyOf(0)).not.toBeNull();
    });
  });
});

describe("P18 what holds no content reaches the client as it was", () => {
  const streams: [sentence: string, path: string][] = [["chat", CHAT], ["Messages", MESSAGES], ["Responses", RESPONSES]]; // prettier-ignore
  test.each(streams)("%s", async (_, path) => {
    const pieces = (GOOD[path] ?? "").split(/(?<=\n\n)/);
    await twoKeys(streamed(...pieces), streamed("never"), async (staged, keyOf) => {
      expect(await read(staged, path)).toMatchObject({ text: GOOD[path], end: "clean" });
      expect(keyOf(1)).toBeNull();
    });
  });
});

describe("a key is told of an error that came too late to ask another", () => {
  const streams: [sentence: string, path: string, stream: string, end: "clean" | "cut", keys: string[]][] = [
    ["Responses", RESPONSES, CREATED + named("response.output_text.delta", { delta: "a" }) + LIMITED, "clean", ["cooling: rate_limit", "ready"]],
    ["Messages", MESSAGES, START + named("content_block_delta", { delta: { text: "a" } }) + named("error", { error: { type: "rate_limit_error", message: "slow" } }), "cut", ["cooling: rate_limit", "ready"]],
    ["Messages of an overloaded provider", MESSAGES, START + named("content_block_delta", { delta: { text: "a" } }) + named("error", { error: { type: "overloaded_error", message: "Overloaded" } }), "cut", ["ready", "ready"]],
    ["chat", CHAT, delta("a") + unnamed({ error: TOO_MANY }), "cut", ["cooling: rate_limit", "ready"]],
    ["chat that says that it is done all the same", CHAT, delta("a") + unnamed({ error: TOO_MANY }) + "data: [DONE]\n\n", "cut", ["cooling: rate_limit", "ready"]],
    ["chat that was limited in so many words", CHAT, delta("a") + unnamed({ error: { type: "rate_limit_error", message: "Too many requests" } }), "cut", ["cooling: rate_limit", "ready"]],
    ["chat that fails for the request's own sake", CHAT, delta("a") + unnamed({ error: { code: 400, type: "invalid_request_error", message: "bad" } }), "cut", ["ready", "ready"]],
  ]; // prettier-ignore
  test.each(streams)("%s", async (_, path, stream, end, keys) => {
    await twoKeys(streamed(stream), streamed("never"), async (staged, keyOf) => {
      expect(await read(staged, path)).toMatchObject({ text: stream, end });
      expect(await keysOf(staged)).toEqual(keys);
      expect(keyOf(1)).toBeNull();
    });
  });
});

describe("P37 a late error that quotes the prompt, whose body is not kept so long", () => {
  const quoting: [sentence: string, message: string, code: number, reasons: string][] = [
    ["a dead key in marks", 'Refused: "the api key was revoked"', 403, "unconfirmed"],
    ["a dead key in curly marks", "Stopped at “incorrect api key provided”", 401, "unconfirmed"],
    ["a dead key in single marks", "Stopped at 'your api key has been disabled'", 401, "unconfirmed"],
    ["money in marks", 'Refused: "insufficient account balance"', 429, "rate_limit"],
    ["a day in marks", 'Stopped at "daily limit reached"', 429, "rate_limit"],
    ["two words in marks", 'Stopped at "out of credits" and "no money"', 429, "rate_limit"],
    ["money in the provider's own words", "You have no credits left", 403, "billing"],
  ];
  test.each(quoting)("%s", async (_, message, code, reasons) => {
    const stream = delta("a") + unnamed({ error: { code, message } });
    await twoKeys(streamed(stream), streamed("never"), async (staged) => {
      await read(staged, CHAT);
      await until("all is over", () => staged.engine.inFlight === 0);
      const { providers } = await staged.health(); // of keys, and of models on them
      const told = [...JSON.stringify(providers).matchAll(/"reason":"(\w+)"/g)].map(([, reason]) => reason);
      expect(told.join()).toBe(reasons);
    });
  });
});

describe("P17 a stream is known by what it is", () => {
  const cut = delta("a") + delta("b");
  const head = (type: string | null) =>
    answerHead(200, { ...(type === null ? {} : { "content-type": type }), "transfer-encoding": "chunked" });
  const types: [type: string | null][] = [
    ["text/event-stream"],
    ["Text/Event-Stream"],
    ["TEXT/EVENT-STREAM;Charset=UTF-8"],
    ["text/event-stream ; charset=utf-8"],
    ["text/plain; charset=utf-8"],
    ["application/octet-stream"],
    [null],
  ];
  const played = async (type: string | null, path: string, stream: string) => {
    const answer = (connection: RawConnection) =>
      connection.write(head(type) + String(chunk(stream)) + LAST_CHUNK);
    let answered = { text: "", end: null as string | null, head: "" };
    await twoKeys(answer, answer, async (staged) => void (answered = await read(staged, path)));
    return answered;
  };
  test.each(types)("cut, of type %s", async (type) => {
    const { text, end } = await played(type, CHAT, cut);
    expect(end).toBe("cut");
    expect(text).toStartWith(cut);
    expect(text.slice(cut.length)).toContain("upstream_protocol_error");
  });
  test.each(types)("whole, of type %s", async (type) => {
    expect(await played(type, CHAT, GOOD[CHAT] ?? "")).toMatchObject({ text: GOOD[CHAT], end: "clean" });
  });
  test.each([
    ["chat", cut],
    ["Messages", START + named("content_block_delta", { delta: { text: "a" } })],
    ["Gemini", unnamed({ candidates: [{ content: { parts: [{ text: "a" }] } }] })],
    ["Cohere", named("content-delta", { delta: { message: { content: { text: "a" } } } })],
    ["DashScope", unnamed({ output: { text: "a", finish_reason: "null" }, usage: {} })],
    ["DashScope's choices", unnamed({ output: { choices: [{ finish_reason: "null" }] } })],
    ["text-generation-inference", unnamed({ token: { text: "a" }, generated_text: null, details: null })],
    ["an image", named("image_generation.partial_image", { b64_json: "aa" })],
    ["speech", named("speech.audio.delta", { audio: "aa" })],
  ])("cut, on a path that nobody knows: %s", async (_, stream) => {
    const { text, end } = await played("text/event-stream", "/v3/ask", stream);
    expect({ begins: text.startsWith(stream), end }).toEqual({ begins: true, end: "cut" });
  });
  test("P17 cut, a JSON object a line: the older API of Cohere", async () => {
    const line = (value: object) => `${JSON.stringify(value)}\n`;
    const begun = line({ event_type: "text-generation", text: "a" });
    const { text, end } = await played("application/stream+json", "/v1/chat", begun);
    expect([text.startsWith(begun), end]).toEqual([true, "cut"]);
    expect(JSON.parse(text.slice(begun.length))).toEqual({
      error: expect.stringContaining("ended before its last event"),
    });
    const whole = begun + line({ event_type: "stream-end", is_finished: true, finish_reason: "COMPLETE" });
    expect(await played("application/stream+json", "/v1/chat", whole)).toMatchObject({
      text: whole,
      end: "clean",
    });
  });
  test.each([
    [
      "DashScope",
      unnamed({ output: { text: "a", finish_reason: "null" } }) +
        unnamed({ output: { text: "ab", finish_reason: "stop" } }),
    ],
    [
      "text-generation-inference",
      unnamed({ token: {}, generated_text: null }) +
        unnamed({ token: {}, generated_text: "ab", details: { finish_reason: "length" } }),
    ],
    [
      "an image",
      named("image_generation.partial_image", { b64_json: "aa" }) +
        named("image_generation.completed", { b64_json: "aa" }),
    ],
    [
      "a transcript",
      named("transcript.text.delta", { delta: "a" }) + named("transcript.text.done", { text: "a" }),
    ],
  ])("whole, on a path that nobody knows: %s", async (_, stream) => {
    expect(await played("text/event-stream", "/v3/ask", stream)).toMatchObject({
      text: stream,
      end: "clean",
    });
  });
  test("of which nothing is known, it is whole where its connection says so", async () => {
    const stream = 'data: {"progress":0.5}\n\n';
    expect(await played("text/event-stream", "/v3/ask", stream)).toMatchObject({
      text: stream,
      end: "clean",
    });
  });
  test.each([
    ["a list", `[{"candidates":[{"content":{"parts":[{"text":"a"}]}}]},\n{"candidates":[]}`],
    ["an object", `{"choices":[{"message":{"content":"${"a".repeat(300_000)}"`],
  ])("JSON that ends without its end is cut: %s", async (_, body) => {
    const { text, end } = await played("application/json", "/v1beta/models/g:streamGenerateContent", body);
    expect({ isPart: body.startsWith(text), end }).toEqual({ isPart: true, end: "cut" });
  });
});

describe("P29 a pool key in a later error of a stream does not reach the client", () => {
  const [own, other] = KEYS;
  const base64 = Buffer.from(`Bearer ${other}`).toString("base64");
  const failing: [sentence: string, path: string, error: string, kept: string][] = [
    ["its own", CHAT, unnamed({ error: { message: `bad key ${own} here` } }), "bad key [redacted] here"],
    ["another one", CHAT, unnamed({ error: { message: `bad key ${other} here` } }), "bad key [redacted] here"],
    ["escaped", CHAT, unnamed({ error: { message: `no ${other}` } }).replace("sk-", "\\u0073k-"), "no [redacted]"],
    ["in base64", MESSAGES, named("error", { error: { message: `no ${base64}` } }), "[redacted]"],
    ["in a response that failed", RESPONSES, named("response.failed", { response: { error: { message: `no ${other}` } } }), "no [redacted]"],
    ["in an error that only has a detail", CHAT, unnamed({ detail: `no ${other}` }), "no [redacted]"],
    ["in a status message", CHAT, unnamed({ base_resp: { status_code: 1004, status_msg: `no ${other}` } }), "no [redacted]"],
    ["beside a code", CHAT, unnamed({ code: 401, message: `no ${other}` }), "no [redacted]"],
    ["beside a success that is none", CHAT, unnamed({ success: false, message: `no ${other}` }), "no [redacted]"],
    ["in an error that begins with a capital", CHAT, unnamed({ Error: { Message: `no ${other}` } }), "no [redacted]"],
    ["in a line that is no JSON", CHAT, `data: [ERROR] no ${other}\n\n`, "no [redacted]"],
    ["in letters of two bytes", CHAT, unnamed({ error: { message: `né ${other} ✓` } }), "né [redacted] ✓"],
  ]; // prettier-ignore
  const content: Record<string, string> = { [CHAT]: delta("a"), [MESSAGES]: named("content_block_delta", { delta: { text: "a" } }), [RESPONSES]: named("response.output_text.delta", { delta: "a" }) }; // prettier-ignore

  test.each(failing)("%s, wherever the event was cut in two", async (_, path, error, kept) => {
    const before = content[path] ?? "";
    const bytes = Buffer.from(error);
    for (let cut = 1; cut < bytes.length; cut += 7) {
      const answer = (connection: RawConnection) => {
        connection.write(EVENT_STREAM_HEAD);
        connection.write(chunk(before));
        connection.write(chunk(bytes.subarray(0, cut)));
        connection.write(chunk(bytes.subarray(cut)));
        connection.write(LAST_CHUNK);
      };
      await twoKeys(answer, answer, async (staged) => {
        const { text } = await read(staged, path);
        expect(text).toContain(kept);
        expect(text).not.toMatch(/canary|Y2FuYXJ5/);
        expect(JSON.stringify(staged.logged())).not.toMatch(/canary|Y2FuYXJ5/);
      });
    }
  });

  const BROKEN = "no gzip";
  const packers = {
    gzip: createGzip,
    deflate: createDeflate,
    br: createBrotliCompress,
    zstd: createZstdCompress,
  };
  /** Each part packed and flushed, as servers do after an event. */
  async function packedIn(encoding: keyof typeof packers, parts: readonly string[]): Promise<Buffer[]> {
    const packer = packers[encoding]();
    const chunks: Buffer[] = [];
    packer.on("data", (bytes: Buffer) => void chunks.push(bytes));
    const pieces: Buffer[] = [];
    for (const part of parts) {
      if (part === BROKEN) return [...pieces, Buffer.from(part)];
      packer.write(part);
      await new Promise<void>((resolve) => packer.flush(resolve));
      pieces.push(Buffer.concat(chunks.splice(0)));
    }
    await new Promise<void>((resolve) => void packer.on("end", resolve).end());
    return [...pieces, Buffer.concat(chunks)];
  }
  const bad = unnamed({ error: { message: `bad key ${other} here` } });
  /** Letters that cannot be packed into much less. */
  const noise = (length: number) => {
    const parts = Array.from({ length: Math.ceil(length / 80_000) }, () =>
      Buffer.from(crypto.getRandomValues(new Uint8Array(60_000))).toString("base64"),
    );
    return parts.join("").slice(0, length);
  };
  const fine = delta("no error at all") + delta("fine", "stop") + "data: [DONE]\n\n";

  // The `fetch` below a library unpacks what comes.
  const ofBytes = isOnProxy() ? test : { each: () => () => {} };
  ofBytes.each<
    [sentence: string, encoding: keyof typeof packers, parts: string[], goesOut: number, end: "cut" | "clean"]
  >([
    ["gzip", "gzip", [delta("a"), bad], 1, "cut"],
    ["deflate", "deflate", [delta("a"), bad], 1, "cut"],
    ["brotli", "br", [delta("a"), bad], 1, "cut"],
    ["zstd", "zstd", [delta("a"), bad], 1, "cut"],
    ["an event in two pieces", "gzip", [delta("a"), bad.slice(0, 40), bad.slice(40)], 1, "cut"],
    ["an event that breaks off", "gzip", [delta("a"), bad.slice(0, -9)], 1, "cut"],
    ["an event with others behind it", "gzip", [delta("a"), bad, delta("b"), fine], 1, "cut"],
    [
      "a packing that breaks off within it",
      "gzip",
      [delta("a"), `data: {"error":"${"x".repeat(99)}`, BROKEN],
      1,
      "cut",
    ],
    [
      "a long one, at its end",
      "gzip",
      [delta("a"), `data: {"error":"${noise(900_000)}`, noise(99), `${other}"}\n\n`],
      3,
      "cut",
    ],
    [
      "none in a long one, which goes out whole",
      "gzip",
      [delta("a"), `data: {"error":"${noise(900_000)}`, `"}\n\n${fine}`],
      9,
      "clean",
    ],
    ["none in it, and goes out whole", "gzip", [delta("a"), fine.slice(0, 60), fine.slice(60)], 9, "clean"],
  ])(
    "in an error of a packed stream, which cannot be cleaned: %s",
    async (_, encoding, parts, goesOut, end) => {
      const pieces = await packedIn(encoding, parts);
      const answer = (connection: RawConnection) => {
        const fields = { "content-type": "text/event-stream", "transfer-encoding": "chunked" };
        connection.write(answerHead(200, { ...fields, "content-encoding": encoding }));
        const send = (nth: number) => {
          const piece = pieces[nth];
          if (piece === undefined) return connection.write(LAST_CHUNK);
          if (piece.length > 0) connection.write(chunk(piece));
          setTimeout(() => send(nth + 1), 5);
        };
        send(0);
      };
      await twoKeys(answer, answer, async (staged) => {
        const { body, end: ended } = await wholeOf(staged, CHAT);
        const sent = Buffer.concat(pieces.slice(0, goesOut));
        // Pieces that come together are held together.
        expect([sent.subarray(0, body.length).equals(body), ended]).toEqual([true, end]);
        if (end === "clean") expect(body).toHaveLength(sent.length);
        expect(JSON.stringify(staged.logged())).not.toMatch(/canary|Y2FuYXJ5/);
      });
    },
  );

  const rowOf = (nth: number) => `{"code":"a${nth}","text":"an error ${"of many ".repeat(9)}`;
  const rows = Array.from({ length: 9000 }, (_, nth) => `${rowOf(nth)}"}`).join(",");
  ofBytes.each<[says: string, begin: string, end: string]>([
    ["an object", '{"data":[', "]}"],
    ["a list", "[", "]"],
  ])("P18 long JSON that is packed and speaks of errors goes through whole: %s", async (_, begin, end) => {
    const pieces = await packedIn("gzip", [begin + rows.slice(0, 900_000), rows.slice(900_000) + end]);
    const answer = (connection: RawConnection) => {
      const fields = { "content-type": "application/json", "transfer-encoding": "chunked" };
      connection.write(answerHead(200, { ...fields, "content-encoding": "gzip" }));
      for (const piece of pieces) if (piece.length > 0) connection.write(chunk(piece));
      connection.write(LAST_CHUNK);
    };
    await twoKeys(answer, answer, async (staged) => {
      const { body, end: ended } = await wholeOf(staged, CHAT);
      expect([body.equals(Buffer.concat(pieces)), ended]).toEqual([true, "clean"]);
    });
  });

  test("in an error that is too long to be held back, wherever the key was cut in two", async () => {
    const begin = `data: {"error":{"message":"${"x".repeat(300_000)} `;
    for (const cut of [3, 9, 14]) {
      const answer = (connection: RawConnection) => {
        connection.write(EVENT_STREAM_HEAD);
        connection.write(chunk(delta("a")));
        connection.write(chunk(begin + other.slice(0, cut)));
        connection.write(chunk(`${other.slice(cut)} there"}}\n\n`));
        connection.write(LAST_CHUNK);
      };
      await twoKeys(answer, answer, async (staged) => {
        const { text } = await read(staged, CHAT);
        expect(text).toContain("x [redacted] there");
        expect(text).not.toMatch(/canary/);
      });
    }
  });

  const LIST = "/v1beta/models/g:streamGenerateContent";
  const element = (fields: object) => JSON.stringify(fields, null, 2);
  const text = (said: string) => element({ candidates: [{ content: { parts: [{ text: said }] } }] });
  const inPieces: [says: string, path: string, type: string, begin: string, error: string][] = [
    ["of a chat", CHAT, "text/event-stream", delta("a"), unnamed({ error: { message: `no ${other} here` } })],
    ["of messages", MESSAGES, "text/event-stream", content[MESSAGES]!, named("error", { error: { message: `no ${other} here` } })],
    ["that only has a detail", CHAT, "text/event-stream", delta("a"), unnamed({ detail: `no ${other} here` })],
    ["in CR and LF", CHAT, "text/event-stream", delta("a"), `data: {"error":\r\ndata: "no ${other} here"}\r\n\r\n`],
    ["as a line of JSON", "/api/chat", "application/x-ndjson", '{"message":{"content":"a"}}\n', `{"error":"no ${other} here"}\n`],
    ["as an element of a list", LIST, "application/json", `[${text("a")}\n`, `,${element({ error: { code: 500, message: `no ${other} here` } })}]`],
    ["as an element of a list that has an error in its text", LIST, "application/json", `[${text("an error: é")}\n`, `,${element({ error: { message: `no ${other} here` } })}]`],
    ["as an element of a list that does not end", LIST, "application/json", `[${text("a")}\n`, `,\r\n${element({ error: { message: `no ${other} here` } })}`],
  ]; // prettier-ignore
  test.each(inPieces)("in pieces of a few bytes: an error %s", async (_, path, type, begin, error) => {
    const bytes = Buffer.from(error);
    for (const size of [1, 3, 64]) {
      const answer = (connection: RawConnection) => {
        connection.write(EVENT_STREAM_HEAD.replace("text/event-stream", type));
        connection.write(chunk(begin));
        for (let at = 0; at < bytes.length; at += size)
          setTimeout(() => connection.write(chunk(bytes.subarray(at, at + size))), 20 + at / size / 4);
        setTimeout(() => connection.write(LAST_CHUNK), 40 + bytes.length / size);
      };
      await twoKeys(answer, answer, async (staged) => {
        const { text, end } = await read(staged, path);
        expect(text).toStartWith(begin);
        expect(text).toContain("no [redacted] here");
        expect(text).not.toMatch(/canary/);
        expect(end).toBe("cut");
      });
    }
  });

  test.each([
    ["an element that speaks of an error", `[${text("an error")},${text('{"error": {}}')},${text("é")}]`],
    ["an error that is null", `[${text("a")},${element({ error: null, candidates: [] })}]`],
    ["an error within an element", `[${text("a")},${element({ candidates: [{ error: { code: 1 } }] })}]`],
    ["an element after one that has an error", `[${element({ error: { code: 1 } })},${text("a")}]`],
    ["an object with an error in its text", element({ choices: [{ message: { content: "an error, a" } }] })],
  ])("P18 a list goes through as it is, whole, with %s, wherever it was cut", async (_, list) => {
    const bytes = Buffer.from(list);
    for (let cut = 1; cut < bytes.length; cut += 19) {
      const answer = (connection: RawConnection) => {
        connection.write(EVENT_STREAM_HEAD.replace("text/event-stream", "application/json"));
        connection.write(chunk(bytes.subarray(0, cut)));
        connection.write(chunk(bytes.subarray(cut)));
        connection.write(LAST_CHUNK);
      };
      await twoKeys(answer, answer, async (staged) => {
        expect(await read(staged, LIST)).toMatchObject({ text: list, end: "clean" });
      });
    }
  });

  test("in a stream that is called JSON", async () => {
    const answer = (connection: RawConnection) => {
      connection.write(EVENT_STREAM_HEAD.replace("text/event-stream", "application/json"));
      connection.write(chunk(delta("a")));
      connection.write(chunk(unnamed({ error: { message: `no ${other}` } })));
      connection.write(LAST_CHUNK);
    };
    await twoKeys(answer, answer, async (staged) => {
      const { text } = await read(staged, CHAT);
      expect(text).toContain("no [redacted]");
      expect(text).not.toMatch(/canary/);
    });
  });

  test("P18 events that only speak of errors go through as they were, wherever they were cut", async () => {
    const stream =
      delta("an error") +
      unnamed({ choices: [{ delta: { content: '"error":' } }], error: null }) +
      delta("é", "stop") +
      "data: [DONE]\n\n";
    const bytes = Buffer.from(stream);
    for (let cut = 1; cut < bytes.length; cut += 5) {
      const answer = (connection: RawConnection) => {
        connection.write(EVENT_STREAM_HEAD);
        connection.write(chunk(bytes.subarray(0, cut)));
        connection.write(chunk(bytes.subarray(cut)));
        connection.write(LAST_CHUNK);
      };
      await twoKeys(answer, answer, async (staged) => {
        expect(await read(staged, CHAT)).toMatchObject({ text: stream, end: "clean" });
      });
    }
  });

  test.each(["x-request-echo", "location", "set-cookie", "x-ratelimit-key", "server"])(
    "in the field %s of a good answer",
    async (name) => {
      const answer = (connection: RawConnection) =>
        connection.write(
          answerHead(200, {
            "content-type": "application/json",
            "content-length": "2",
            [name]: `a=${other}; ${base64}`,
          }) + "{}",
        );
      await twoKeys(answer, answer, async (staged) => {
        const { head } = await read(staged, CHAT);
        expect(head).toContain("a=[redacted]; ");
        expect(head).not.toMatch(/canary|Y2FuYXJ5/);
      });
    },
  );
});
