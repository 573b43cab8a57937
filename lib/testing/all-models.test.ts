import { describe, expect, test } from "bun:test";
import { reconfigure } from "../../proxy.ts";
import { parseConfig } from "../config/config.ts";
import { modelsOf } from "../routing/all-models.ts";
import { chat, FalseClock, httpAnswer, stage, startRawProvider, until } from "./fixture.ts";
import type { RawProvider, Stage } from "./fixture.ts";

type Answer = (provider: FakeProvider, connection: { write(bytes: string | Uint8Array): void }) => void;

interface FakeProvider extends RawProvider {
  /** Names in its list, and how the list is answered. */
  models: string[];
  list: Answer;
}

const listed: Answer = ({ models }, connection) => {
  const data = models.map((id) => ({
    id,
    object: "model",
    created: 7,
    owned_by: "somebody",
    context_length: 9000,
  }));
  connection.write(httpAnswer(200, JSON.stringify({ object: "list", data })));
};

/** A provider that lists its models, and answers with the model that it was asked for. */
function startProvider(models: string[]): FakeProvider {
  const raw = startRawProvider((request, connection) => {
    if (request.method === "GET") provider.list(provider, connection);
    else {
      const { model } = JSON.parse(request.body.toString()) as { model: unknown };
      connection.write(httpAnswer(200, JSON.stringify({ id: "1", model, choices: [] })));
    }
  });
  const provider: FakeProvider = Object.assign(raw, { models, list: listed });
  return provider;
}

interface Two {
  staged: Stage;
  own: FakeProvider;
  groq: FakeProvider;
  clock: FalseClock | null;
  names(path?: string, init?: RequestInit): Promise<string[]>;
}

async function two(
  body: (two: Two) => Promise<void>,
  settings: Record<string, string> = {},
  clock: FalseClock | null = null,
) {
  await using own = startProvider(["gpt-4o", "shared/one"]);
  await using groq = startProvider(["llama-3", "meta/scout"]);
  await using staged = stage({
    settings: {
      API_KEYS: "key-own:5",
      PROVIDER: "generic",
      TARGET_BASE_URL: `${own.url}/v1`,
      GROQ_API_KEYS: "key-groq:5",
      GROQ_PROVIDER: "generic",
      GROQ_BASE_URL: `${groq.url}/openai/v1`,
      MODELS: "all",
      ...settings,
    },
    ...(clock === null ? {} : { clock }),
  });
  const names = async (path = "/v1/models", init: RequestInit = {}) => {
    const page: { data?: { id: string }[]; models?: { name: string }[] } = JSON.parse(
      await (await fetch(staged.url + path, init)).text(),
    );
    return [...(page.data ?? []).map(({ id }) => id), ...(page.models ?? []).map(({ name }) => name)];
  };
  await body({ staged, own, groq, clock, names });
}

const EVERY = ["gpt-4o", "shared/one", "groq/llama-3", "groq/meta/scout"];

describe("MODELS=all", () => {
  test("lists every provider's models, those of named providers by their names", async () => {
    await two(async ({ staged, own, groq, names }) => {
      expect(await names()).toEqual(EVERY);
      expect([own.requests[0]?.target, groq.requests[0]?.target]).toEqual([
        "/v1/models",
        "/openai/v1/models",
      ]);
      expect([own.requests[0]?.key, groq.requests[0]?.key]).toEqual(["key-own", "key-groq"]);
      const page = JSON.parse(await (await fetch(`${staged.url}/v1/models`)).text());
      expect(page.data[2]).toEqual({
        id: "groq/llama-3",
        object: "model",
        created: 7,
        owned_by: "somebody",
        context_length: 9000,
      });
    });
  });

  test("lists names of ROUTES first, and no name twice", async () => {
    const settings = { ROUTES: "fast = groq/llama-3; gpt-4o = default/gpt-4o; claude-* = groq/*" };
    await two(async ({ names }) => {
      expect(await names()).toEqual(["fast", "gpt-4o", "shared/one", "groq/llama-3", "groq/meta/scout"]);
    }, settings);
  });

  test("answers each client in the words of its API", async () => {
    await two(async ({ staged, names }) => {
      const anthropic = { headers: { "anthropic-version": "2023-06-01" } };
      const page = JSON.parse(await (await fetch(`${staged.url}/v1/models`, anthropic)).text());
      expect(page).toMatchObject({ has_more: false, first_id: "gpt-4o", last_id: "groq/meta/scout" });
      expect(page.data[2]).toEqual({
        type: "model",
        id: "groq/llama-3",
        display_name: "groq/llama-3",
        created_at: "1970-01-01T00:00:07.000Z",
      });
      const google = { headers: { "x-goog-api-key": "any" } };
      expect(await names("/v1beta/models", google)).toEqual(EVERY.map((name) => `models/${name}`));
      expect(await names("/v1beta/openai/models")).toEqual(EVERY);
    });
  });

  const asked: [says: string, model: string, provider: "own" | "groq", sent: string][] = [
    ["of a named provider", "groq/llama-3", "groq", "llama-3"],
    ["of a named provider, with a slash of its own", "groq/meta/scout", "groq", "meta/scout"],
    ["of a named provider in capitals", "GROQ/llama-3", "groq", "llama-3"],
    ["of a named provider that is not in its list", "groq/brand-new", "groq", "brand-new"],
    ["of the default provider", "gpt-4o", "own", "gpt-4o"],
    ["with a slash of the default provider", "shared/one", "own", "shared/one"],
    ["of the default provider that begins like another's", "groq/lookalike", "own", "groq/lookalike"],
    ["that ends with the name of a provider", "groq/", "own", "groq/"],
  ];
  test.each(asked)("sends on a model %s", async (_, model, where, sent) => {
    await two(async ({ staged, own, groq, names }) => {
      own.models.push("groq/lookalike");
      await names();
      const answer: { model?: string } = JSON.parse(await (await chat(staged.url, { model })).text());
      expect(answer.model).toBe(sent);
      const asked = where === "own" ? own : groq;
      expect(asked.requests.filter(({ method }) => method === "POST")).toHaveLength(1);
    });
  });

  test("sends on a model in a path of Gemini's, with its slash as it is or escaped", async () => {
    await two(async ({ staged, groq }) => {
      for (const model of ["groq/llama-3", "groq%2Fllama-3"]) {
        await fetch(`${staged.url}/v1beta/models/${model}:generateContent`, { method: "POST", body: "{}" });
      }
      expect(groq.requests.map(({ target }) => target)).toEqual(
        Array(2).fill("/openai/v1beta/models/llama-3:generateContent"),
      );
    });
  });

  test("falls back with the model's own name", async () => {
    await two(
      async ({ staged, own, groq }) => {
        groq.list = () => {};
        await fetch(`${staged.url}/groq/v1/chat/completions`, { method: "POST", body: '{"model":"x"}' });
        const answer: { model?: string } = JSON.parse(
          await (await chat(staged.url, { model: "groq/llama-3" })).text(),
        );
        expect([answer.model, own.requests.length]).toEqual(["llama-3", 1]);
      },
      { GROQ_API_KEYS: "key-groq:1", FALLBACK: "default" },
    );
  });

  test("tells of one model where the default provider does not know it", async () => {
    await two(async ({ staged, own }) => {
      const one = async (name: string) =>
        JSON.parse(await (await fetch(`${staged.url}/v1/models/${name}`)).text());
      expect(await one("groq%2Fllama-3")).toMatchObject({ id: "groq/llama-3", object: "model" });
      await one("gpt-4o");
      expect(own.requests.map(({ target }) => target)).toContain("/v1/models/gpt-4o");
    });
  });

  test("spends nobody's day, and asks again only when some minutes are over", async () => {
    const clock = new FalseClock();
    await two(
      async ({ staged, own, groq, names }) => {
        for (let turn = 0; turn < 9; turn += 1) expect(await names()).toEqual(EVERY);
        expect([own.requests.length, groq.requests.length]).toEqual([1, 1]);
        const { providers } = await staged.health();
        expect(providers.map(({ keys }) => [keys[0]?.["today"], keys[0]?.["requests"]])).toEqual([
          [0, 0],
          [0, 0],
        ]);
        groq.models = ["llama-4"];
        await clock.advance(5 * 60_000 + 1);
        expect(await names()).toEqual(["gpt-4o", "shared/one", "groq/llama-4"]);
        expect([own.requests.length, groq.requests.length]).toEqual([2, 2]);
      },
      {},
      clock,
    );
  });

  test("asks once, however many want the list at once", async () => {
    await two(async ({ groq, names }) => {
      await Promise.all(Array.from({ length: 20 }, () => names()));
      expect(groq.requests).toHaveLength(1);
    });
  });

  const down: [says: string, list: Answer][] = [
    ["answers with a fault", (_, connection) => connection.write(httpAnswer(500, "{}"))],
    ["answers with no list", (_, connection) => connection.write(httpAnswer(200, '{"data":"none"}'))],
    ["answers with no JSON", (_, connection) => connection.write(httpAnswer(200, "<html>"))],
    ["refuses its key", (_, connection) => connection.write(httpAnswer(401, "{}"))],
    [
      "leads elsewhere",
      (_, connection) => connection.write(httpAnswer(302, "", { location: "http://127.0.0.1:1/" })),
    ],
  ];
  test.each(down)("leaves out a provider that %s, or shows its last list", async (_, list) => {
    const clock = new FalseClock();
    await two(
      async ({ groq, names }) => {
        groq.list = list;
        expect(await names()).toEqual(EVERY.slice(0, 2));
        groq.list = listed;
        expect(await names()).toEqual(EVERY.slice(0, 2)); // it is left alone for a while
        await clock.advance(30_001);
        expect(await names()).toEqual(EVERY);
        groq.list = list;
        await clock.advance(5 * 60_000 + 1);
        expect(await names()).toEqual(EVERY);
      },
      {},
      clock,
    );
  });

  test("waits 5 s for a provider, and shows its list when it came late", async () => {
    const clock = new FalseClock();
    await two(
      async ({ groq, names }) => {
        const late = Promise.withResolvers<void>();
        groq.list = (provider, connection) => void late.promise.then(() => listed(provider, connection));
        let seen: string[] | null = null;
        void names().then((list) => (seen = list));
        await until("it is asked", () => groq.requests.length === 1);
        await clock.advance(4999);
        expect(seen).toBeNull();
        await clock.advance(1);
        await until("there is a list", () => seen !== null);
        expect(seen).toEqual(EVERY.slice(0, 2) as unknown as null);
        late.resolve();
        await Bun.sleep(30);
        expect(await names()).toEqual(EVERY);
        expect(groq.requests).toHaveLength(1);
      },
      {},
      clock,
    );
  });

  test("tries another key where one is refused, and none that is out of use", async () => {
    await two(
      async ({ groq, names }) => {
        groq.list = (provider, connection) => {
          if (provider.requests.at(-1)?.key === "key-one") connection.write(httpAnswer(401, "{}"));
          else listed(provider, connection);
        };
        expect(await names()).toEqual(EVERY);
        expect(groq.requests.map(({ key }) => key)).toEqual(["key-one", "key-two"]);
      },
      { GROQ_API_KEYS: "key-one,key-two" },
    );
  });

  test("shows a client what it may use, and counts nothing against it", async () => {
    const settings = {
      PROXY_API_KEY: "laptop=client-key-one",
      CLIENT_LIMITS: "laptop = 1/min, models groq/*|fast",
      ROUTES: "fast = groq/llama-3; slow = groq/llama-3",
    };
    await two(async ({ staged, names }) => {
      const init = { headers: { authorization: "Bearer client-key-one" } };
      const statuses = [];
      for (let turn = 0; turn < 2; turn += 1)
        statuses.push((await chat(staged.url, { model: "fast" }, init)).status);
      expect(statuses).toEqual([200, 429]);
      for (let turn = 0; turn < 3; turn += 1)
        // it never goes out
        expect(await names("/v1/models", init)).toEqual(["fast", "groq/llama-3", "groq/meta/scout"]);
    }, settings);
  });

  test("lists no provider that is switched off, nor one whose list names nothing that can be asked for", async () => {
    await two(async ({ names }) => expect(await names()).toEqual(EVERY.slice(0, 2)), {
      GROQ_DISABLED: "true",
    });
    await two(async ({ names }) => expect(await names()).toEqual(EVERY.slice(0, 2)), {
      GROQ_PROVIDER: "azure",
    });
  });

  test("passes the default provider's list through where it is not set, and keeps names as they are", async () => {
    await two(
      async ({ staged, own, groq, names }) => {
        expect(await names()).toEqual(["gpt-4o", "shared/one"]);
        await chat(staged.url, { model: "groq/llama-3" });
        expect([own.requests.length, groq.requests.length]).toEqual([2, 0]);
      },
      { MODELS: "default" },
    );
  });

  test("forgets a provider's list with the provider", async () => {
    await two(async ({ staged, own, names }) => {
      await names();
      const settings = {
        API_KEYS: "key-own",
        PROVIDER: "generic",
        TARGET_BASE_URL: `${own.url}/v1`,
        MODELS: "all",
      };
      const parsed = parseConfig({ HOST: "127.0.0.1", ...settings });
      if (!parsed.ok) throw new Error(parsed.problems.join("\n"));
      reconfigure(staged.engine, parsed.config);
      expect(await names()).toEqual(EVERY.slice(0, 2));
    });
  });
});

describe("a provider's list of models", () => {
  test.each<[says: string, text: string, names: string[] | null]>([
    ["OpenAI's", '{"object":"list","data":[{"id":"a"},{"id":"b/c:free"}]}', ["a", "b/c:free"]],
    ["a bare one", '[{"id":"a"},{"id":"b"}]', ["a", "b"]],
    ["Gemini's", '{"models":[{"name":"models/a"}]}', ["a"]],
    ["Gemini's in OpenAI's words", '{"data":[{"id":"models/a"}]}', ["a"]],
    ["Cohere's", '{"models":[{"name":"command-a","endpoints":["chat"]}]}', ["command-a"]],
    ["GitHub's", '[{"id":"openai/gpt-4.1","name":"OpenAI GPT-4.1"}]', ["openai/gpt-4.1"]],
    ["an empty one", '{"data":[]}', []],
    ["one with a name twice", '{"data":[{"id":"a"},{"id":"a"}]}', ["a"]],
    ["one with entries that are none", '{"data":[null,5,"a",[],{"id":""},{"x":1},{"id":"b"}]}', ["b"]],
    [
      "one with names that are none",
      `{"data":[{"id":"${"a".repeat(201)}"},{"id":"a\\nb"},{"id":{"a":1}},{"id":"b"}]}`,
      ["b"],
    ],
    ["an object", '{"data":{"id":"a"}}', null],
    ["text", '"data"', null],
    ["nothing", "", null],
  ])("is read: %s", (_, text, names) => {
    expect(modelsOf(text)?.keys().toArray() ?? null).toEqual(names);
  });

  test("P42 is read in one pass, and no further than 5000 models", () => {
    const list = JSON.stringify({
      data: Array.from({ length: 60_000 }, (_, index) => ({ id: `m-${index}` })),
    });
    const since = performance.now();
    expect(modelsOf(list)?.size).toBe(5000);
    expect(performance.now() - since).toBeLessThan(150);
  });
});
