import { describe, expect, test } from "bun:test";
import { FalseClock, httpAnswer, stage, startRawProvider, until } from "../testing/fixture.ts";
import { uploadIdIn } from "./resources.ts";
import type { RawProvider, RawRequest, Stage } from "../testing/fixture.ts";

/** A provider that keeps what each key makes in a store of its own, as accounts do. */
function keeping(limited: Set<string> = new Set()): (request: RawRequest) => Buffer {
  const stores = new Map<string, Map<string, object>>();
  let made = 0;
  const notFound = httpAnswer(
    404,
    JSON.stringify({ error: { message: "No such File object.", type: "invalid_request_error" } }),
  );
  return ({ key, method, target, body }) => {
    if (limited.has(key ?? "")) return httpAnswer(429, "{}", { "retry-after": "20" });
    const store = stores.get(key ?? "") ?? new Map<string, object>();
    stores.set(key ?? "", store);
    const make = (prefix: string, fields: object) => {
      const id = `${prefix}${++made}abcdef`;
      store.set(id, { id, ...fields });
      return httpAnswer(200, JSON.stringify({ id, object: prefix, ...fields }));
    };
    const path = target.split("?")[0] ?? "";
    const [, , collection = "", id = ""] = path.split("/");
    if (collection === "files" && id !== "") {
      if (!store.has(id)) return notFound;
      if (method === "DELETE") store.delete(id);
      return httpAnswer(200, JSON.stringify({ id, object: "file", deleted: method === "DELETE" }));
    }
    if (collection === "files" && method === "POST") return make("file-", { purpose: "assistants" });
    if (collection === "files")
      return httpAnswer(200, JSON.stringify({ object: "list", data: [...store.values()] }));
    if (collection !== "responses") return httpAnswer(200, '{"id":"chatcmpl-1","choices":[]}');
    const previous = /"previous_response_id":"([^"]+)"/.exec(body.toString())?.[1];
    if (previous !== undefined && !store.has(previous)) {
      const error = {
        message: `Previous response with id '${previous}' not found.`,
        code: "previous_response_not_found",
      };
      return httpAnswer(400, JSON.stringify({ error }));
    }
    return make("resp_", { status: "completed" });
  };
}

interface Cloakroom extends Stage {
  readonly clock: FalseClock;
  readonly provider: RawProvider;
  /** Names of the keys that were asked, in order, since the last call. */
  asked(): string[];
  ask(
    method: string,
    path: string,
    body?: string,
  ): Promise<{ status: number; id: string; key: string | null }>;
}

async function cloakroom(
  {
    limited = new Set<string>(),
    settings = {},
  }: { limited?: Set<string>; settings?: Record<string, string> },
  body: (room: Cloakroom) => Promise<void>,
): Promise<void> {
  const clock = new FalseClock();
  const answer = keeping(limited);
  await using provider = startRawProvider((request, connection) => connection.write(answer(request)));
  const own = { API_KEYS: "key-a,key-b,key-c", TARGET_BASE_URL: provider.url, PROVIDER: "openai" };
  await using staged = stage({ settings: { ...own, ...settings }, clock });
  let seen = 0;
  await body({
    ...staged,
    clock,
    provider,
    asked() {
      const names = provider.requests.slice(seen).map(({ key }) => key ?? "");
      seen = provider.requests.length;
      return names;
    },
    async ask(method, path, text) {
      const response = await fetch(staged.url + path, {
        method,
        ...(text === undefined ? {} : { body: text }),
      });
      const answered: { id?: string } = JSON.parse(await response.text());
      return { status: response.status, id: answered.id ?? "", key: response.headers.get("x-keywheel-key") };
    },
  });
}

describe("a thing that one account made (P35)", () => {
  test("P35 is reached through that account, whatever the strategy, and however the wheel has turned", async () => {
    for (const STRATEGY of ["round-robin", "lru", "affinity"]) {
      await cloakroom({ settings: { STRATEGY } }, async ({ ask }) => {
        const file = await ask("POST", "/v1/files", '{"purpose":"assistants"}');
        for (let turn = 0; turn < 4; turn++) {
          await ask("POST", "/v1/chat/completions", "{}");
          expect(await ask("GET", `/v1/files/${file.id}`)).toMatchObject({ status: 200, key: file.key });
        }
        expect(await ask("DELETE", `/v1/files/${file.id}`)).toMatchObject({ status: 200, key: file.key });
      });
    }
  });

  test("P35 is reached through that account where a body names it", async () => {
    await cloakroom({}, async ({ ask }) => {
      let last = await ask("POST", "/v1/responses", '{"model":"m","input":"hi"}');
      const { key } = last;
      for (let turn = 0; turn < 4; turn++) {
        await ask("POST", "/v1/chat/completions", "{}");
        last = await ask(
          "POST",
          "/v1/responses",
          `{"model":"m","input":"go on","previous_response_id":"${last.id}"}`,
        );
        expect(last).toMatchObject({ status: 200, key });
      }
    });
  });

  test("P35 is in the list that it was put into: lists come from one account", async () => {
    await cloakroom({}, async ({ ask, url }) => {
      const made = [];
      for (let file = 0; file < 3; file++) {
        made.push((await ask("POST", "/v1/files", '{"purpose":"assistants"}')).id);
        await ask("POST", "/v1/chat/completions", "{}");
      }
      const { data }: { data: { id: string }[] } = JSON.parse(await (await fetch(`${url}/v1/files`)).text());
      expect(data.map(({ id }) => id).sort()).toEqual(made.sort());
    });
  });

  test("P35 is waited for, and no other account asked, while its own rests", async () => {
    const limited = new Set<string>();
    await cloakroom({ limited }, async ({ ask, asked, clock, engine }) => {
      const { id, key } = await ask("POST", "/v1/files", '{"purpose":"assistants"}');
      limited.add(asked()[0] ?? "");
      const asking = ask("GET", `/v1/files/${id}`);
      await until("it waits", () => engine.upstreams[0].pool.waiting === 1);
      limited.clear();
      await clock.advance(20_500);
      expect(await asking).toMatchObject({ status: 200, key });
      expect(new Set(asked()).size).toBe(1);
    });
  });

  test("P35 whose account is not known is looked for with each, once", async () => {
    await cloakroom({}, async ({ ask, asked, provider }) => {
      const direct = await fetch(`${provider.url}/v1/files`, {
        method: "POST",
        headers: { authorization: "Bearer key-c" },
        body: "{}",
      });
      const { id }: { id: string } = JSON.parse(await direct.text());
      asked();
      expect(await ask("GET", `/v1/files/${id}`)).toMatchObject({ status: 200, key: "2" });
      expect(asked()).toEqual(["key-a", "key-b", "key-c"]);
      expect(await ask("GET", `/v1/files/${id}`)).toMatchObject({ status: 200, key: "2" });
      expect(asked()).toEqual(["key-c"]);
    });
  });

  test("P35 that no account has is asked for once with each; then the answer is upstream's own", async () => {
    await cloakroom({}, async ({ ask, asked, health }) => {
      expect((await ask("GET", "/v1/files/file-99nowhere")).status).toBe(404);
      expect(asked().sort()).toEqual(["key-a", "key-b", "key-c"]);
      expect((await ask("GET", "/v1/files/file-99nowhere")).status).toBe(404);
      expect(asked()).toHaveLength(1); // for a minute it is known that nobody has it
      expect((await health()).pool).toBe("[0]:ready [1]:ready [2]:ready");
    });
  });

  test("P35 binds keys of one account together", async () => {
    await cloakroom(
      { settings: { API_KEYS: "alice@key-a,alice@key-b,bob@key-c" } },
      async ({ ask, asked }) => {
        const { id } = await ask("POST", "/v1/responses", '{"input":"hi"}');
        expect(asked()).toEqual(["key-a"]);
        const next = await ask("POST", "/v1/responses", `{"previous_response_id":"${id}"}`);
        expect([next.status, asked()[0]]).not.toContain("key-c");
      },
    );
  });
});

/** Opens uploads as Gemini does, and keeps each file with the key that opened its upload. */
function startUploads(limited: Set<string>): RawProvider {
  const uploads = new Map<string, string>();
  const files = new Map<string, string>();
  return startRawProvider(({ key, target, body }, connection) => {
    if (limited.has(key ?? "")) return connection.write(httpAnswer(429, "{}", { "retry-after": "20" }));
    const url = new URL(target, "http://provider");
    const upload = url.searchParams.get("upload_id");
    if (url.pathname.startsWith("/upload/") && upload === null) {
      const id = `AbC-${uploads.size + 1}_xyz`;
      uploads.set(id, key ?? "");
      const address = `https://provider.example/upload/v1beta/files?upload_id=${id}&upload_protocol=resumable`;
      return connection.write(httpAnswer(200, "", { "x-goog-upload-url": address }));
    }
    if (upload !== null) {
      const name = `files/f1l3${files.size + 1}abcdef`;
      files.set(name, uploads.get(upload) ?? "");
      return connection.write(httpAnswer(200, JSON.stringify({ file: { name, state: "ACTIVE" } })));
    }
    const used = /files\/\w+/.exec(body.toString())?.[0];
    const isOwn = used === undefined || files.get(used) === key;
    const denied = { error: { code: 403, message: "You do not have permission to access the File." } };
    const answer = { candidates: [{ content: { parts: [{ text: "hi" }] }, finishReason: "STOP" }] };
    connection.write(
      isOwn ? httpAnswer(200, JSON.stringify(answer)) : httpAnswer(403, JSON.stringify(denied)),
    );
  });
}

describe("an upload in two steps (P35)", () => {
  const START = { "x-goog-upload-protocol": "resumable", "x-goog-upload-command": "start" };

  test("P35 ends with the account that opened it, though that has to rest in between", async () => {
    const clock = new FalseClock();
    const limited = new Set<string>();
    await using provider = startUploads(limited);
    const settings = { API_KEYS: "key-a,key-b,key-c", TARGET_BASE_URL: provider.url, PROVIDER: "gemini" };
    await using staged = stage({ settings, clock });
    const opened = await fetch(`${staged.url}/upload/v1beta/files`, {
      method: "POST",
      headers: START,
      body: "{}",
    });
    const owner = provider.requests.at(-1)?.key ?? "";
    // As the SDK does: the path and query of the address, at the host of its own base URL.
    const address = new URL(opened.headers.get("x-goog-upload-url") ?? "");
    limited.add(owner);
    const sending = fetch(`${staged.url}${address.pathname}${address.search}`, {
      method: "POST",
      headers: { "x-goog-upload-command": "upload, finalize" },
      body: "text",
    });
    await until("it waits for that account", () => clock.timers > 0 && provider.requests.length === 2);
    limited.clear();
    clock.advance(21_000);
    const { file }: { file: { name: string } } = JSON.parse(await (await sending).text());
    expect(provider.requests.map(({ key }) => key)).toEqual([owner, owner, owner]);
    const turn = {
      contents: [{ parts: [{ fileData: { fileUri: `https://provider.example/v1beta/${file.name}` } }] }],
    };
    for (let time = 0; time < 3; time++) {
      const answer = await fetch(`${staged.url}/v1beta/models/gemini-x:generateContent`, {
        method: "POST",
        body: JSON.stringify(turn),
      });
      expect([answer.status, provider.requests.at(-1)?.key]).toEqual([200, owner]);
    }
  });

  test.each<[says: string, headers: Record<string, string>, id: string | null]>([
    [
      "of Gemini",
      { "x-goog-upload-url": "https://h/upload/v1beta/files?upload_id=ABPn-x_1&upload_protocol=resumable" },
      "ABPn-x_1",
    ],
    [
      "whose id comes last",
      { "x-goog-upload-url": "https://h/upload/v1beta/files?a=b&upload_id=u123" },
      "u123",
    ],
    [
      "of Google's other protocol",
      { location: "https://h/upload/x?uploadType=resumable&upload_id=u123" },
      "u123",
    ],
    ["whose address is relative", { location: "/upload/x?upload_id=u123" }, "u123"],
    ["without an id", { "x-goog-upload-url": "https://h/upload/v1beta/files" }, null],
    ["with an empty id", { "x-goog-upload-url": "https://h/u?upload_id=" }, null],
    ["with an id that is none", { "x-goog-upload-url": "https://h/u?upload_id=a%00b%20c" }, null],
    [
      "with an id that is far too long",
      { "x-goog-upload-url": `https://h/u?upload_id=${"x".repeat(600)}` },
      null,
    ],
    [
      "with an address that is far too long",
      { "x-goog-upload-url": `https://h/u?upload_id=u123&p=${"x".repeat(5000)}` },
      null,
    ],
    ["that leads to another page", { location: "https://h/login?next=/files" }, null],
    ["of anything else", {}, null],
  ])("an answer %s tells of its upload", (_says, headers, id) => {
    expect(uploadIdIn(new Headers(headers))).toBe(id);
  });
});
