import { afterAll, describe, expect, test } from "bun:test";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type InitCommand, type OperatorCommand, parseCommand } from "./args.ts";
import { runCommand } from "./commands.ts";
import { FalseClock, stage } from "../testing/fixture.ts";
import { Secret } from "../core/secret.ts";

const NOON = Date.UTC(2026, 10, 20, 12);
const KEYS = ["sk-canary-first", "sk-canary-second", "sk-canary-third"];
const IDS = KEYS.map((key) => new Secret(key).id);

const ROOT = mkdtempSync(join(tmpdir(), "keywheel-commands-"));
afterAll(() => rmSync(ROOT, { recursive: true }));
let runs = 0;

const servers: Bun.Server<undefined>[] = [];
afterAll(() => Promise.all(servers.map((server) => server.stop(true))));

function serve(answer: (request: Request, path: string) => Response | Promise<Response>): string {
  const server = Bun.serve({
    hostname: "127.0.0.1",
    port: 0,
    fetch: (request) => answer(request, new URL(request.url).pathname),
  });
  servers.push(server);
  return `http://127.0.0.1:${server.port}`;
}

/** A port on which nobody listens. */
async function freePort(): Promise<string> {
  const server = Bun.serve({ hostname: "127.0.0.1", port: 0, fetch: () => new Response() });
  const { port } = server;
  await server.stop(true);
  return String(port);
}

interface Options {
  /** The environment; there is no file but those below. */
  settings?: Record<string, string>;
  /** What is typed, or comes through a pipe: its lines. */
  typed?: string | null;
  isTerminal?: boolean;
  /** Somebody can be asked: what is typed comes from a terminal. */
  canAsk?: boolean;
  columns?: number;
  hasColours?: boolean;
  clock?: FalseClock;
  signal?: AbortSignal;
  /** The working directory; a new one where none is given. */
  directory?: string;
}

/** Runs a command line, and keeps what it says. */
async function run(line: string, options: Options) {
  const { settings = {}, typed = null, isTerminal = false, canAsk = false, hasColours = false } = options;
  const lines = typed?.split("\n") ?? [];
  const directory = options.directory ?? join(ROOT, String(runs++));
  let out = "";
  let err = "";
  const asked: string[] = [];
  const code = await runCommand(commandOf(line), {
    terminal: {
      write: (text) => void (out += text),
      writeError: (text) => void (err += text),
      isTerminal,
      showsProgress: isTerminal,
      columns: options.columns ?? Infinity,
      hasColours,
      canAsk,
      readLine(question) {
        asked.push(question);
        return Promise.resolve(lines.shift() ?? null);
      },
    },
    newToken: () => "made-up-token-Ab3dEf6hIjKlMnOpQrStU",
    ...(options.signal === undefined ? {} : { signal: options.signal }),
    clock: options.clock ?? new FalseClock(NOON),
    fetch: new Bun.FetchSession({ proxy: false }).fetch,
    placesOf: (envFile) => ({
      environment: { HOST: "127.0.0.1", ...settings },
      envFile,
      workingDirectory: directory,
      programDirectory: directory,
    }),
  });
  expect(out + err).not.toContain("canary");
  return { code, out, err, asked };
}

/** A working directory with this `.env`. */
function directoryWith(envText: string): string {
  const directory = join(ROOT, String(runs++));
  mkdirSync(directory);
  writeFileSync(join(directory, ".env"), envText);
  return directory;
}

const envOf = (directory: string) => readFileSync(join(directory, ".env"), "utf8");

function commandOf(line: string): OperatorCommand | InitCommand {
  const command = parseCommand(line.split(" "));
  switch (command.kind) {
    case "check":
    case "status":
    case "keys":
    case "init":
      return command;
    default:
      throw new Error(`${line} is ${JSON.stringify(command)}`);
  }
}

/** An upstream that knows only the second key, and refuses the third for a while. */
function upstream(): string {
  return serve((request, path) => {
    if (path !== "/v1/models") return Response.json({ error: { message: "not found" } }, { status: 404 });
    switch (request.headers.get("authorization")) {
      case `Bearer ${KEYS[1]}`:
        return Response.json({ object: "list", data: [] });
      case `Bearer ${KEYS[2]}`:
        return Response.json(
          { error: { type: "rate_limit_error", message: "Rate limit reached" } },
          { status: 429 },
        );
      default:
        return Response.json(
          { error: { code: "invalid_api_key", message: `Incorrect API key provided: ${KEYS[0]}.` } },
          { status: 401 },
        );
    }
  });
}

describe("keywheel check", () => {
  const settingsOf = (base: string, keys = KEYS) => ({
    API_KEYS: keys.join(","),
    TARGET_BASE_URL: `${base}/v1`,
    PROVIDER: "openai",
  });

  test("tells of each key whether it works, and fails where one is dead", async () => {
    const { code, out } = await run("check", { settings: settingsOf(upstream()) });
    expect(code).toBe(1);
    expect(out).toBe(
      [
        "KEY  ID        RESULT               WHY",
        `  0  ${IDS[0]}  dead                 Incorrect API key provided: [redacted].`,
        `  1  ${IDS[1]}  works`,
        `  2  ${IDS[2]}  works, at its limit  rate_limit: Rate limit reached`,
        "",
      ].join("\n"),
    );
  });

  test("is fine where no key is dead", async () => {
    const { code } = await run("check", { settings: settingsOf(upstream(), KEYS.slice(1)) });
    expect(code).toBe(0);
  });

  test("speaks JSON to scripts", async () => {
    const { out } = await run("check --json", { settings: settingsOf(upstream()) });
    expect(JSON.parse(out).keys[1]).toEqual({
      provider: "default",
      index: 1,
      id: IDS[1],
      account: null,
      result: "works",
      detail: "",
    });
  });

  test("fails where the provider cannot be asked", async () => {
    const settings = settingsOf(`http://127.0.0.1:${await freePort()}`, KEYS.slice(1, 2));
    const { code, out } = await run("check", { settings });
    expect(code).toBe(1);
    expect(out).toContain("not reached");
    expect(out).toContain("it refuses connections (ECONNREFUSED): nothing listens there.");
  });

  test("does not pretend to know what no free request tells", async () => {
    const { code, out } = await run("check", { settings: { ...settingsOf(upstream()), PROVIDER: "nvidia" } });
    expect(code).toBe(0);
    expect(out).toMatch(/\d {2}[0-9a-f]{8} {2}not known {2}no free request/);
  });

  test("asks about one provider where it is named, and knows which there are", async () => {
    const settings = {
      ...settingsOf(upstream()),
      GROQ_API_KEYS: KEYS[1] ?? "",
      GROQ_BASE_URL: `${upstream()}/v1`,
    };
    const { out } = await run("check groq", { settings });
    expect(out).toContain(`groq        0  ${IDS[1]}  works`);
    expect(out).not.toContain("default");
    const { code, err } = await run("check mistral", { settings });
    expect([code, err]).toEqual([1, "There is no provider mistral: there is default, groq.\n"]);
  });

  test("asks about at most four at once, and shows how far it is where somebody watches", async () => {
    let asked = 0;
    let most = 0;
    const base = serve(async () => {
      most = Math.max(most, ++asked);
      await new Promise((resolve) => setTimeout(resolve, 5));
      asked -= 1;
      return Response.json({ data: [] });
    });
    const keys = Array.from({ length: 12 }, (_, index) => `sk-canary-${index}-0123456789`);
    const { out, err } = await run("check", { settings: settingsOf(base, keys), isTerminal: true });
    expect(most).toBe(4);
    expect(out.match(/works/g)?.length).toBe(12);
    expect(err).toContain("asked about 12 of 12 keys");
    expect(err).toEndWith("\r\u001b[K");
  });
});

describe("keywheel status", () => {
  test("shows the running proxy and its keys", async () => {
    await using proxy = stage({
      settings: { API_KEYS: KEYS.join(","), TARGET_BASE_URL: "http://127.0.0.1:9/v1", PROVIDER: "openai" },
    });
    const settings = { API_KEYS: "sk-any-0123", PORT: new URL(proxy.url).port };
    const { code, out } = await run("status", { settings });
    expect(code).toBe(0);
    const [head, headline, provider, , titles, first] = out.split("\n");
    expect(headline).toBe("The next request is sent at once: 3 of 3 keys are ready.");
    expect(head).toMatch(/^keywheel \S+ at http:\/\/127\.0\.0\.1:\d+: ok, up \d+m?s$/);
    expect(provider).toBe("  default (openai) http://127.0.0.1:9/v1: up");
    expect(titles).toBe("KEY  ID        STATE  TODAY  REQUESTS  REFUSED  ERRORS");
    expect(first).toBe(`  0  ${IDS[0]}  ready      0         0        0       0`);
    const { out: json } = await run("status --json", { settings });
    expect(JSON.parse(json)).toMatchObject({ url: proxy.url, status: "ok", keys: 3 });
  });

  test("says where it looked when there is none", async () => {
    const settings = { API_KEYS: "sk-any-0123", PORT: await freePort() };
    const { code, err, out } = await run("status --json", { settings });
    expect(code).toBe(1);
    expect(err).toMatch(
      /^No keywheel answers at http:\/\/127\.0\.0\.1:\d+\. Start it, or correct HOST and PORT\.\n$/,
    );
    expect(JSON.parse(out)).toMatchObject({ status: "not_running" });
  });

  test("sends the operator's password to no stranger", async () => {
    const seen: (string | null)[] = [];
    const url = serve((request) => {
      seen.push(request.headers.get("authorization"));
      return Response.json({ hello: "I am something else" });
    });
    const settings = {
      API_KEYS: "sk-any-0123",
      PORT: new URL(url).port,
      ADMIN_PASSWORD: "secret-canary-password",
    };
    for (const line of ["status", "keys pause 0", "keys list"]) await run(line, { settings });
    expect(seen.length).toBeGreaterThan(0);
    expect(seen.filter(Boolean)).toEqual([]);
    const { code, err } = await run("status", { settings });
    expect([code, err]).toEqual([1, `What answers at ${url} is no keywheel. Check HOST and PORT.\n`]);
  });

  test("reports every mistake of the configuration, as the proxy would", async () => {
    const { code, err } = await run("status", { settings: { PORT: "x", COOLDOWN_SEC: "y" } });
    expect(code).toBe(2);
    expect(err.split("\n").length).toBeGreaterThan(3);
  });
});

/** A proxy whose admin API answers by script, and what it was asked. */
function adminProxy(answer: (path: string) => Response = () => Response.json({ message: "Done so." })) {
  const asked: string[] = [];
  const key = (index: number) => ({
    index,
    id: IDS[index],
    account: null,
    state: index === 1 ? "disabled" : "ready",
    reason: index === 1 ? "invalid_key" : null,
    said: index === 1 ? "Incorrect API key" : null,
    cooldown_sec: 0,
    models: index === 2 ? { "gpt-4o": { cooldown_sec: 18, reason: "rate_limit" } } : {},
    requests: 12,
    rate_limited: 1,
    errors: 0,
    today: 12,
    daily_limit: 50,
    rpm_limit: null,
    last_used: "2026-11-20T11:58:00Z",
  });
  const provider = (name: string, keys: object[]) => ({
    name,
    dialect: "openai",
    base_url: "https://api.openai.com/v1",
    state: "up",
    paused_sec: 0,
    waiting: 0,
    keys,
  });
  const overview = {
    status: "degraded",
    version: "0.1.0",
    uptime_sec: 12,
    providers: [provider("default", [key(0), key(1)]), provider("groq", [{ ...key(2), index: 0 }])],
  };
  const url = serve(async (request, path) => {
    if (path === "/health") return Response.json({ ...overview, providers: undefined });
    if (request.headers.get("authorization") !== "Bearer operator-canary") {
      const error = { type: "wrong_password", message: "That is not ADMIN_PASSWORD." };
      return Response.json({ type: "error", error }, { status: 401 });
    }
    if (path === "/admin/api/overview") return Response.json(overview);
    asked.push(`${request.method} ${path} ${await request.text()}`);
    return answer(path);
  });
  const settings = { API_KEYS: "sk-any-0123", PORT: new URL(url).port, ADMIN_PASSWORD: "operator-canary" };
  return { settings, asked };
}

describe("keywheel status, where it knows the password,", () => {
  const row = (client: string | null, model: string, requests: number, changes: object = {}) => ({
    ...{
      day: "2026-11-20",
      provider: "default",
      key: `ann@${IDS[0]}`,
      key_id: IDS[0],
      model,
      client,
      requests,
    },
    ...{ input_tokens: 1000, output_tokens: 50, cached_tokens: 800, ...changes },
  });
  const used = (...usage: unknown[]) =>
    adminProxy((path) =>
      path.startsWith("/admin/api/usage") ? Response.json({ usage }) : Response.json({}),
    );

  test("shows what was used today, by key and client, the models added up", async () => {
    const { settings, asked } = used(
      row("laptop", "a", 2),
      row("laptop", "b", 3),
      row(null, "a", 9, { provider: "groq", key: IDS[2] }),
    );
    const { out } = await run("status", { settings });
    expect(asked.map((line) => line.split(" ")[0])).toEqual(["GET"]);
    expect(out.split("\n").slice(-5)).toEqual([
      "Today (UTC):",
      "PROVIDER  KEY           CLIENT  REQUESTS  TOKENS IN  TOKENS OUT  CACHED",
      `groq      ${IDS[2]}      -              9       1000          50     800`,
      `default   ann@${IDS[0]}  laptop         5       2000         100    1600`,
      "",
    ]);
    const { out: json } = await run("status --json", { settings });
    expect(JSON.parse(json).today).toEqual([
      {
        provider: "groq",
        key: IDS[2],
        client: null,
        requests: 9,
        input_tokens: 1000,
        output_tokens: 50,
        cached_tokens: 800,
      },
      {
        provider: "default",
        key: `ann@${IDS[0]}`,
        client: "laptop",
        requests: 5,
        input_tokens: 2000,
        output_tokens: 100,
        cached_tokens: 1600,
      },
    ]);
  });

  test("fits its table into 80 columns", async () => {
    const many = {
      provider: "openrouter",
      key: "somebody@example.org@3e23e816",
      input_tokens: 2_000_000_000,
      output_tokens: 400_000_000,
    };
    const { settings } = used(row("a-laptop", "a", 90_000, many), row("b", "b", 1));
    const { out } = await run("status", { settings, columns: 80 });
    for (const line of out.slice(out.indexOf("Today")).split("\n"))
      expect(line.length).toBeLessThanOrEqual(80);
  });

  test.each<[says: string, usage: unknown[]]>([
    ["nothing was used", []],
    ["what it is told is none", [null, 5, "row"]],
  ])("shows no table where %s", async (_, usage) => {
    const { settings } = used(...usage);
    expect((await run("status", { settings })).out).not.toContain("Today");
  });

  test("shows no table where the proxy is an older one", async () => {
    const { settings } = adminProxy(() => Response.json({ error: {} }, { status: 404 }));
    expect((await run("status", { settings })).out).not.toContain("Today");
  });
});

describe("keywheel keys", () => {
  test("lists the keys of the running proxy, with what upstream said of one that is out of use", async () => {
    const { settings } = adminProxy();
    const { code, out } = await run("keys list", { settings });
    expect(code).toBe(0);
    expect(out).toBe(
      [
        "PROVIDER  KEY  ID        STATE                     TODAY  A DAY  REQUESTS  REFUSED  ERRORS  LAST USED",
        `default     0  ${IDS[0]}  ready                        12     50        12        1       0  2m ago`,
        `default     1  ${IDS[1]}  out of use (invalid_key)     12     50        12        1       0  2m ago`,
        `groq        0  ${IDS[2]}  ready, but for 1 model       12     50        12        1       0  2m ago`,
        "upstream said of key default/1: Incorrect API key",
        "",
      ].join("\n"),
    );
  });

  test("lists the configured keys where no proxy runs, and says so", async () => {
    const settings = { API_KEYS: `ann@${KEYS[0]}:50`, PORT: await freePort() };
    const { code, out, err } = await run("keys", { settings });
    expect(code).toBe(0);
    expect(out).toBe(`KEY  ID        ACCOUNT  A DAY\n  0  ${IDS[0]}  ann         50\n`);
    expect(err).toContain("these are the configured ones");
    const { out: json } = await run("keys list --json", { settings });
    expect(JSON.parse(json).keys).toMatchObject([
      { provider: "default", id: IDS[0], state: null, daily_limit: 50 },
    ]);
  });

  const changes: [line: string, asked: string[]][] = [
    ["keys pause 0", [`POST /admin/api/providers/default/keys/${IDS[0]}/pause {}`]],
    ["keys resume groq 0", [`POST /admin/api/providers/groq/keys/${IDS[2]}/resume {}`]],
    ["keys reset groq/0", [`POST /admin/api/providers/groq/keys/${IDS[2]}/reset {}`]],
    [`keys reset ${IDS[2]}`, [`POST /admin/api/providers/groq/keys/${IDS[2]}/reset {}`]],
    [`keys remove ${IDS[1]} --yes`, [`DELETE /admin/api/providers/default/keys/${IDS[1]} {}`]],
    [
      "keys pause default",
      [0, 1].map((index) => `POST /admin/api/providers/default/keys/${IDS[index]}/pause {}`),
    ],
  ];
  test.each(changes)("asks the running proxy: %s", async (line, expected) => {
    const { settings, asked } = adminProxy();
    const { code, out } = await run(line, { settings });
    expect(asked).toEqual(expected);
    expect([code, out]).toEqual([0, "Done so.\n".repeat(expected.length)]);
  });

  test("shows the proxy's own words where it refuses", async () => {
    const error = { type: "conflict", message: "This is the only key of default." };
    const { settings } = adminProxy(() => Response.json({ type: "error", error }, { status: 409 }));
    const { code, err } = await run("keys remove 0 --yes", { settings });
    expect([code, err]).toEqual([1, "This is the only key of default.\n"]);
  });

  test("shows the proxy's own words where the password is another one", async () => {
    const { settings } = adminProxy();
    const { code, err } = await run("keys pause 0", {
      settings: { ...settings, ADMIN_PASSWORD: "another-canary" },
    });
    expect([code, err]).toEqual([1, "That is not ADMIN_PASSWORD.\n"]);
  });

  test("names no key that is not there", async () => {
    const { settings, asked } = adminProxy();
    const { code, err } = await run("keys pause 7", { settings });
    expect([code, err]).toEqual([1, "There is no key 7. keywheel keys list shows those that are there.\n"]);
    expect((await run("keys pause mistral 0", { settings })).err).toBe(
      "There is no provider mistral: there is default, groq.\n",
    );
    expect(asked).toEqual([]);
  });

  test("pauses nothing where no proxy runs, and says what that needs", async () => {
    const settings = { API_KEYS: "sk-any-0123", PORT: await freePort() };
    const { code, err } = await run("keys pause 0", { settings });
    expect([code, err]).toEqual([
      1,
      "keys pause is asked of the running proxy, as its operator. Set ADMIN_PASSWORD in its settings, and try again.\n",
    ]);
    const { err: withPassword } = await run("keys pause 0", {
      settings: { ...settings, ADMIN_PASSWORD: "operator-canary" },
    });
    expect(withPassword).toContain("needs a running one");
  });

  test("removes from the file where no proxy can be asked", async () => {
    const directory = directoryWith(`# ours\nAPI_KEYS=${KEYS.join(",")}\nPORT=${await freePort()}\n`);
    const { code, out } = await run("keys remove 1 --yes", { directory });
    expect(code).toBe(0);
    expect(out).toContain(`The key ${IDS[1]} was removed from API_KEYS`);
    expect(envOf(directory)).toStartWith(`# ours\nAPI_KEYS=${KEYS[0]},${KEYS[2]}\n`);
  });

  test("leaves the only key where it is", async () => {
    const envText = `API_KEYS=${KEYS[0]}\nPORT=${await freePort()}\n`;
    const directory = directoryWith(envText);
    const { code, err } = await run("keys remove 0 --yes", { directory });
    expect(code).toBe(1);
    expect(err).toContain("the only one");
    expect(envOf(directory)).toBe(envText);
  });
});

describe("keywheel keys add", () => {
  test("asks for the key without showing it, and writes it to the file where no proxy can be asked", async () => {
    const directory = directoryWith(`API_KEYS=sk-any-0123\nPORT=${await freePort()}\n`);
    const { code, out, asked } = await run("keys add", { directory, typed: `ann@${KEYS[0]}:50` });
    expect(asked[0]).toStartWith("Keys for the default provider, one or more a line (they are not shown)");
    expect(code).toBe(0);
    expect(out).toContain(`The key ${IDS[0]} was added to API_KEYS`);
    expect(envOf(directory)).toStartWith(`API_KEYS=sk-any-0123,ann@${KEYS[0]}:50\n`);
  });

  test("makes a file for its owner only where there is none yet", async () => {
    const directory = join(ROOT, String(runs++));
    mkdirSync(directory);
    const { code } = await run("keys add groq", { directory, typed: KEYS[0] ?? "" });
    expect(code).toBe(0);
    expect(envOf(directory)).toBe(`GROQ_API_KEYS=${KEYS[0]}\n`);
    expect(statSync(join(directory, ".env")).mode & 0o777).toBe(0o600);
  });

  test("makes the file that was named", async () => {
    const directory = join(ROOT, String(runs++));
    mkdirSync(directory);
    const { code } = await run("keys add --env-file my.env", { directory, typed: KEYS[0] ?? "" });
    expect(code).toBe(0);
    expect(readFileSync(join(directory, "my.env"), "utf8")).toBe(`API_KEYS=${KEYS[0]}\n`);
    expect(existsSync(join(directory, ".env"))).toBe(false);
  });

  test("belongs to the first provider where none is called default", async () => {
    const directory = directoryWith(`GROQ_API_KEYS=gsk-any-0123\nPORT=${await freePort()}\n`);
    await run("keys add", { directory, typed: KEYS[0] ?? "" });
    expect(envOf(directory)).toStartWith(`GROQ_API_KEYS=gsk-any-0123,${KEYS[0]}\n`);
  });

  test("takes several at once, as the setting does", async () => {
    const directory = directoryWith(`API_KEYS=sk-any-0123\nPORT=${await freePort()}\n`);
    const { out } = await run("keys add", { directory, typed: KEYS.join(", ") });
    expect(envOf(directory)).toStartWith(`API_KEYS=sk-any-0123,${KEYS.join(",")}\n`);
    expect(out.match(/: added$/gm)?.length).toBe(3);
    expect(out).toEndWith("3 of 3 keys were added to default.\n");
  });

  test("says of each what became of it, and adds those that are keys", async () => {
    const directory = directoryWith(`API_KEYS=sk-any-0123\nPORT=${await freePort()}\n`);
    const typed = `# from the office\n${KEYS[0]}\n\nme@${KEYS[1]}:9, "quoted"\nsk-any-0123\n${KEYS[0]}`;
    const { code, out, err } = await run("keys add", { directory, typed });
    expect(code).toBe(1);
    expect(out.split("\n")).toEqual([
      `line 2: ${IDS[0]}: added`,
      `key 1 in line 4: me@${IDS[1]}: added`,
      "2 of 5 keys were added to default.",
      "",
    ]);
    expect(err).toContain("key 2 in line 4: no key: It begins or ends with a quotation mark.");
    expect(err).toContain("It is in use already.");
    expect(err).toContain("line 6: no key: It is there twice");
    expect(envOf(directory)).toStartWith(`API_KEYS=sk-any-0123,${KEYS[0]},me@${KEYS[1]}:9\n`);
  });

  test("fails where none is a key, and leaves the file as it is", async () => {
    const envText = `API_KEYS=sk-any-0123\nPORT=${await freePort()}\n`;
    const directory = directoryWith(envText);
    const { code, err } = await run("keys add", { directory, typed: '"quoted"' });
    expect(code).toBe(2);
    expect(err).toStartWith("The key: It begins or ends with a quotation mark. Remove it:");
    expect(envOf(directory)).toBe(envText);
  });

  test("takes a hundred through a pipe", async () => {
    const directory = directoryWith(`API_KEYS=sk-any-0123\nPORT=${await freePort()}\n`);
    const keys = Array.from({ length: 100 }, (_, index) => `sk-canary-${"y".repeat(30)}-${index}`);
    const { code, out } = await run("keys add", { directory, typed: `${keys.join("\n")}\n` });
    expect(code).toBe(0);
    expect(out).toEndWith("100 of 100 keys were added to default.\n");
    expect(out.split("\n")[0]).toMatch(/^line 1: [0-9a-f]{8} …yy-0: added$/);
    expect(envOf(directory)).toContain(keys.join(","));
  });

  test("asks a person until an empty line", async () => {
    const directory = directoryWith(`API_KEYS=sk-any-0123\nPORT=${await freePort()}\n`);
    const typed = `${KEYS[0]}\n${KEYS[1]}\n\nleft`;
    const { asked } = await run("keys add", { directory, typed, canAsk: true });
    expect(asked.slice(1)).toEqual(["1 line so far: ", "2 lines so far: "]);
    expect(envOf(directory)).toStartWith(`API_KEYS=sk-any-0123,${KEYS[0]},${KEYS[1]}\n`);
  });

  test("gives them to the running proxy where that can be asked, and says what it says of each", async () => {
    const added = { place: "line 1", id: IDS[0], account: null, last_four: null, outcome: "added" };
    const dead = { place: "line 2", id: IDS[1], account: "me", last_four: "wxyz", outcome: "refused" };
    const keys = [
      { ...added, message: "It was added." },
      { ...dead, message: "It is dead." },
    ];
    const { settings, asked } = adminProxy(() => Response.json({ message: "1 of 2", keys }, { status: 201 }));
    const typed = `${KEYS[0]}\n${KEYS[1]}`;
    const { code, out, err } = await run("keys add groq", { settings, typed });
    expect(asked).toEqual([`POST /admin/api/providers/groq/keys ${JSON.stringify({ keys: typed })}`]);
    expect([code, out]).toEqual([1, `line 1: ${IDS[0]}: added\n1 of 2 keys were added to groq.\n`]);
    expect(err).toBe(`line 2: me@${IDS[1]} …wxyz: It is dead.\n`);
  });

  test("shows the proxy's own words where it takes none", async () => {
    const error = { type: "not_found", message: "There is no provider groq." };
    const { settings } = adminProxy(() => Response.json({ type: "error", error }, { status: 404 }));
    const { code, err } = await run("keys add groq", { settings, typed: KEYS[0] ?? "" });
    expect([code, err]).toEqual([1, "There is no provider groq.\n"]);
  });

  test("warns of a key that is typed for all to see", async () => {
    const directory = directoryWith(`API_KEYS=sk-any-0123\nPORT=${await freePort()}\n`);
    const { err } = await run(`keys add ${KEYS[0]}`, { directory });
    expect(envOf(directory)).toStartWith(`API_KEYS=sk-any-0123,${KEYS[0]}\n`);
    expect(err).toContain("stays in the shell's history");
  });

  test("adds nothing where nothing is given", async () => {
    const envText = `API_KEYS=sk-any-0123\nPORT=${await freePort()}\n`;
    const directory = directoryWith(envText);
    const { code, err } = await run("keys add", { directory, typed: null });
    expect([code, err]).toEqual([
      2,
      "No key was given. Type or paste it, or pipe it in: one or more a line.\n",
    ]);
    expect(envOf(directory)).toBe(envText);
  });
});

describe("a key on the command line", () => {
  const settings = {
    API_KEYS: "me@sk-canary-aaaa-0000-0001,sk-canary-bbbb-0000-0002,me2@sk-canary-cccc-0000-2222",
    PROVIDER: "openai",
    GROQ_API_KEYS: "me@gsk_canary_dddd_0000_9999",
  };
  const idOf = (key: string) => new Secret(key).id;
  const rows: [names: string, code: number, says: string][] = [
    ["1", 0, `key 1, ${idOf("sk-canary-bbbb-0000-0002")} …0002 of default`],
    ["…2222", 0, `me2@${idOf("sk-canary-cccc-0000-2222")} …2222 of default`],
    ["2222", 0, `me2@${idOf("sk-canary-cccc-0000-2222")} …2222 of default`],
    ["me2", 0, "me2@"],
    [idOf("gsk_canary_dddd_0000_9999"), 0, "of groq"],
    ["groq/0", 0, "of groq"],
    ["groq/9999", 0, "of groq"],
    ["groq me", 0, "of groq"],
    ["default 0 2", 0, "key 2, me2@"],
    ["9999 0", 0, "of groq"],
    ["me", 1, "me names 2 keys: key 0, me@"],
    ["nobody", 1, "There is no key nobody. Nor is there such a provider: there is default, groq."],
    ["12", 1, "There is no key 12."],
    ["groq 1", 1, "There is no key 1."],
    ["groq", 1, "Say which key of groq to remove."],
  ];
  test.each(rows)("may be named so: %s", async (names, code, says) => {
    const { err } = await run(`keys remove ${names}`, { settings: { ...settings, PORT: await freePort() } });
    expect(err).toContain(says);
    expect(err.includes("Add --yes to remove")).toBe(code === 0);
  });

  test("is shown, and asked about, before it is removed", async () => {
    const directory = directoryWith(`API_KEYS=${KEYS.join(",")}\nPORT=${await freePort()}\n`);
    const answered = (typed: string | null) => run("keys remove 1", { directory, typed, canAsk: true });
    for (const typed of ["n", "", null, "perhaps"]) {
      const { code, err, asked } = await answered(typed);
      expect([code, asked]).toEqual([1, ["Remove this key? [y/N] "]]);
      expect(err).toContain(`key 1, ${IDS[1]} of default`);
      expect(envOf(directory)).toContain(KEYS[1] ?? "");
    }
    expect((await answered("y")).code).toBe(0);
    expect(envOf(directory)).not.toContain(KEYS[1] ?? "");
  });
});

describe("what keywheel status says", () => {
  const settingsOf = (url: string) => ({ API_KEYS: KEYS.join(","), PORT: new URL(url).port });
  const proxyOf = (keys: object[], changes: object = {}) =>
    serve((_, path) => {
      const provider = {
        name: "default",
        dialect: "openai",
        base_url: "https://api.openai.com/v1",
        state: "up",
        paused_sec: 0,
        waiting: 0,
        keys,
        ...changes,
      };
      const health = { status: "degraded", version: "1.2.3", uptime_sec: 5, providers: [provider] };
      return path === "/health" ? Response.json(health) : new Response(null, { status: 404 });
    });
  const key = (changes: object) => ({
    index: 0,
    id: IDS[0],
    account: null,
    state: "ready",
    reason: null,
    cooldown_sec: 0,
    models: {},
    requests: 0,
    rate_limited: 0,
    errors: 0,
    today: 0,
    daily_limit: null,
    rpm_limit: null,
    last_used: null,
    ...changes,
  });
  const cooling = (reason: string, cooldown_sec: number, rpm_limit: number | null = null) =>
    key({ state: "cooling", reason, cooldown_sec, rpm_limit });

  const FULL = "every key has used up its requests of this minute";
  const rows: [says: string, keys: object[], provider: object, line: string, state: string][] = [
    [
      "a full key",
      [cooling("pacing", 3, 20)],
      {},
      `The next request waits about 3s: ${FULL}.`,
      "full, back in 3s",
    ],
    [
      "an honest queue",
      [cooling("pacing", 3, 20)],
      { waiting: 5 },
      `The next request waits about 18s: ${FULL}. 5 requests wait already.`,
      "full, back in 3s",
    ],
    [
      "a key without money",
      [cooling("billing", 18_000)],
      {},
      "The next request is refused: no key has money left",
      "out of money, asked again in 5h00m",
    ],
    [
      "a dead key",
      [key({ state: "disabled", reason: "invalid_key" })],
      {},
      "Requests are refused: no key is in use (invalid_key).",
      "out of use (invalid_key)",
    ],
    [
      "a provider that is down",
      [key({})],
      { state: "paused", paused_sec: 4 },
      "The provider is left alone for 4s: its last answers were failures.",
      "ready",
    ],
    [
      "a refusal",
      [cooling("rate_limit", 42)],
      {},
      "every key rests after a refusal",
      "cooling 42s (rate_limit)",
    ],
  ];
  test.each(rows)("is the truth about %s", async (_, keys, provider, line, state) => {
    const { out } = await run("status", { settings: settingsOf(proxyOf(keys, provider)) });
    expect(out).toContain(line);
    expect(out).toContain(state);
  });

  test("fits 80 columns, whatever there is to tell", async () => {
    const account = "a-very-long-account-name@a-company-with-a-long-name.example";
    const counts = { requests: 123_456, today: 99_999, daily_limit: 100_000, rpm_limit: 40 };
    const busy = { ...counts, state: "cooling", reason: "rate_limit", cooldown_sec: 4242 };
    const keys = [0, 1, 2].map((index) =>
      key({ index, account, ...busy, last_used: "2026-11-20T11:58:00Z" }),
    );
    const base_url = "https://gateway.a-company-with-a-long-name.example/very/long/path/to/the/api/v1";
    const url = proxyOf(keys, { base_url, waiting: 12 });
    const settings = settingsOf(url);
    const target = { TARGET_BASE_URL: `http://127.0.0.1:${await freePort()}`, PROVIDER: "openai" };
    const said = [
      await run("status", { settings, columns: 80 }),
      await run("keys list", { settings, columns: 80 }),
      await run("check", { settings: { ...settings, ...target }, columns: 80 }),
    ];
    for (const { out, err } of said) {
      for (const line of `${out}${err}`.split("\n")) expect(Bun.stringWidth(line)).toBeLessThanOrEqual(80);
    }
    expect(said[2]?.out).toContain("(ECONNREFUSED)"); // nothing is cut
  });

  test("is coloured only where colours are wanted", async () => {
    const settings = settingsOf(proxyOf([key({})]));
    expect((await run("status", { settings, hasColours: true })).out).toContain("\u001b[32mready");
    expect((await run("status", { settings })).out).not.toContain("\u001b");
  });

  test("names what needs the password", async () => {
    const settings = settingsOf(proxyOf([key({})]));
    expect((await run("status", { settings })).err).toContain("With ADMIN_PASSWORD set");
  });

  test("is said again every two seconds while it is watched", async () => {
    const clock = new FalseClock(NOON);
    const aborter = new AbortController();
    const settings = settingsOf(proxyOf([key({})]));
    const watching = run("status --watch", { settings, clock, signal: aborter.signal });
    for (let round = 0; round < 4; round++) {
      await Bun.sleep(30);
      await clock.advance(2000);
    }
    aborter.abort();
    const { code, out } = await watching;
    expect(code).toBe(0);
    expect(out.match(/^keywheel 1\.2\.3/gm)?.length).toBeGreaterThanOrEqual(3);
  });
});

describe("keywheel check --model", () => {
  test("asks for one token where no free question tells", async () => {
    const bodies: unknown[] = [];
    const base = serve(async (request, path) => {
      if (path !== "/v1/chat/completions") return new Response("{}", { status: 404 });
      bodies.push(await request.json());
      return request.headers.get("authorization") === `Bearer ${KEYS[0]}`
        ? Response.json({ choices: [{ message: { content: "H" }, finish_reason: "length" }] })
        : Response.json({ error: { message: "Unauthorized", code: "invalid_api_key" } }, { status: 401 });
    });
    const settings = {
      API_KEYS: KEYS.slice(0, 2).join(","),
      TARGET_BASE_URL: `${base}/v1`,
      PROVIDER: "nvidia",
    };
    const { code, out } = await run("check --model llama --json", { settings });
    expect(code).toBe(1);
    expect(JSON.parse(out).keys).toMatchObject([{ result: "works" }, { result: "dead" }]);
    const messages = [{ role: "user", content: "Hi" }];
    expect(bodies[0]).toEqual({ model: "llama", max_tokens: 1, messages });
    expect((await run("check", { settings })).err).toContain("--model MODEL asks that model for one token");
  });
});

describe("keywheel init", () => {
  const folder = () => {
    const directory = join(ROOT, String(runs++));
    mkdirSync(directory);
    return directory;
  };
  const MADE_UP = "ADMIN_PASSWORD=made-up-token-Ab3dEf";

  test("asks for everything, writes it for its owner only, and says how to start", async () => {
    const directory = folder();
    const keys = `${KEYS[0]}\ngsk_canary_0123456789abcdef, me@gsk_canary_fedcba9876543210:50\n`;
    const typed = `${keys}\nopenai\n3210\n2\na good password\n`;
    const { code, out, err, asked } = await run("init", { directory, typed, canAsk: true });
    expect(code).toBe(0);
    expect(asked.length).toBe(7);
    expect(err).toContain("2 keys of groq, by how they begin");
    expect(envOf(directory).split("\n").slice(1)).toEqual([
      `API_KEYS=${KEYS[0]}`,
      "PROVIDER=openai",
      "GROQ_API_KEYS=gsk_canary_0123456789abcdef,me@gsk_canary_fedcba9876543210:50",
      "PORT=3210",
      "PROXY_API_KEY=kw-made-up-token-Ab3dEf6hIjKlMnOpQrStU",
      "ADMIN_PASSWORD=a good password",
      "",
    ]);
    expect(statSync(join(directory, ".env")).mode & 0o777).toBe(0o600);
    expect(out).toContain("http://127.0.0.1:3210/v1");
    expect(out).toContain("kw-made-up-token");
    expect(out).toContain("/admin");
    expect(out).not.toContain("a good password");
  });

  const pipes: [says: string, typed: string, lines: string[]][] = [
    ["one key", "nvapi-canary-0123", ["API_KEYS=nvapi-canary-0123", "PORT=3000", MADE_UP]],
    [
      "several keys",
      "gsk_canary_1\ngsk_canary_2\n",
      ["API_KEYS=gsk_canary_1,gsk_canary_2", "PORT=3000", MADE_UP],
    ],
    ["no dashboard", "gsk_canary_1\n\n\n\n-", ["API_KEYS=gsk_canary_1", "PORT=3000"]],
    ["everybody", "gsk_canary_1\n\n8080\n3\n-", ["API_KEYS=gsk_canary_1", "PORT=8080", "PROXY_API_KEY=off"]],
    [
      "a base URL",
      "abc-canary\n\nhttps://llm.example/v1\n\n\n-",
      ["API_KEYS=abc-canary", "TARGET_BASE_URL=https://llm.example/v1", "PORT=3000"],
    ],
    [
      "keys of nobody's shape",
      "abc-canary\n\n\n\n\n-",
      ["API_KEYS=abc-canary", "PROVIDER=nvidia", "PORT=3000"],
    ],
  ];
  test.each(pipes)("works through a pipe: %s", async (_, typed, lines) => {
    const directory = folder();
    expect((await run("init", { directory, typed })).code).toBe(0);
    expect(envOf(directory).split("\n").slice(1)).toEqual([...lines, ""]);
  });

  const wrong: [says: string, typed: string | null, message: string][] = [
    ["nothing", null, "No key was given"],
    ["only what is no key", "NAME=value", "No key was given"],
    ["a port that is none", "gsk_canary_1\n\nport", "A port is a number"],
    ["a short password", "gsk_canary_1\n\n\n\nabc", "shorter than 8"],
    ["an answer that is none", "gsk_canary_1\n\n\n7", "Answer 1, 2 or 3."],
    ["a provider that is none", "abc\n\nnobody-knows", "neither a base URL"],
  ];
  test.each(wrong)("writes nothing for %s", async (_, typed, message) => {
    const directory = folder();
    const { code, err } = await run("init", { directory, typed });
    expect([code, err.includes(message)]).toEqual([2, true]);
    expect(existsSync(join(directory, ".env"))).toBe(false);
  });

  test("overwrites nothing without asking, and keeps what it replaces", async () => {
    const directory = directoryWith("API_KEYS=old-canary\n");
    const through = (line: string, typed: string, canAsk: boolean) => run(line, { directory, typed, canAsk });
    expect((await through("init", "gsk_canary_1", false)).err).toContain("Add --yes");
    expect((await through("init", "n\ngsk_canary_1", true)).code).toBe(1);
    expect(envOf(directory)).toBe("API_KEYS=old-canary\n");
    expect((await through("init --yes", "gsk_canary_1", false)).code).toBe(0);
    expect(envOf(directory)).toContain("gsk_canary_1");
    const old = () => readFileSync(join(directory, ".env.old"), "utf8");
    expect(old()).toBe("API_KEYS=old-canary\n");
    expect((await through("init", "y\ngsk_canary_2\n\n\n\n-", true)).code).toBe(0);
    expect(old()).toContain("gsk_canary_1");
  });

  test("asks again where an answer is not understood", async () => {
    const directory = folder();
    const typed = "gsk_canary_1\n\nx\n99999\n81\n1\n-";
    const { code, err } = await run("init", { directory, typed, canAsk: true });
    expect(code).toBe(0);
    expect(err.match(/A port is a number/g)?.length).toBe(2);
    expect(envOf(directory)).toContain("PORT=81\n");
  });
});
