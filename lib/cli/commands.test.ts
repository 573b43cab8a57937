import { afterAll, describe, expect, test } from "bun:test";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type OperatorCommand, parseCommand } from "./args.ts";
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
  /** What is typed when a secret is asked for. */
  typed?: string | null;
  isTerminal?: boolean;
  /** The working directory; a new one where none is given. */
  directory?: string;
}

/** Runs a command line, and keeps what it says. */
async function run(line: string, options: Options) {
  const { settings = {}, typed = null, isTerminal = false } = options;
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
      columns: Infinity,
      readSecret(question) {
        asked.push(question);
        return Promise.resolve(typed);
      },
    },
    clock: new FalseClock(NOON),
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

function commandOf(line: string): OperatorCommand {
  const command = parseCommand(line.split(" "));
  if (command.kind === "check" || command.kind === "status" || command.kind === "keys") return command;
  throw new Error(`${line} is ${JSON.stringify(command)}`);
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
    const [head, provider, , titles, first] = out.split("\n");
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

describe("keywheel keys", () => {
  test("lists the keys of the running proxy, with what upstream said of one that is out of use", async () => {
    const { settings } = adminProxy();
    const { code, out } = await run("keys list", { settings });
    expect(code).toBe(0);
    expect(out).toBe(
      [
        "PROVIDER  KEY  ID        STATE                   TODAY  A DAY  REQUESTS  REFUSED  ERRORS  LAST USED",
        `default     0  ${IDS[0]}  ready                      12     50        12        1       0  2m ago`,
        `default     1  ${IDS[1]}  disabled (invalid_key)     12     50        12        1       0  2m ago`,
        `groq        0  ${IDS[2]}  ready, but for 1 model     12     50        12        1       0  2m ago`,
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
    [`keys remove ${IDS[1]}`, [`DELETE /admin/api/providers/default/keys/${IDS[1]} {}`]],
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
    const { code, err } = await run("keys remove 0", { settings });
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
      "keys pause is asked of the running proxy, as its operator. Set ADMIN_PASSWORD, and try again.\n",
    ]);
    const { err: withPassword } = await run("keys pause 0", {
      settings: { ...settings, ADMIN_PASSWORD: "operator-canary" },
    });
    expect(withPassword).toContain("needs a running one");
  });

  test("removes from the file where no proxy can be asked", async () => {
    const directory = directoryWith(`# ours\nAPI_KEYS=${KEYS.join(",")}\nPORT=${await freePort()}\n`);
    const { code, out } = await run("keys remove 1", { directory });
    expect(code).toBe(0);
    expect(out).toContain(`The key ${IDS[1]} was removed from API_KEYS`);
    expect(envOf(directory)).toStartWith(`# ours\nAPI_KEYS=${KEYS[0]},${KEYS[2]}\n`);
  });

  test("leaves the only key where it is", async () => {
    const envText = `API_KEYS=${KEYS[0]}\nPORT=${await freePort()}\n`;
    const directory = directoryWith(envText);
    const { code, err } = await run("keys remove 0", { directory });
    expect(code).toBe(1);
    expect(err).toContain("the only one");
    expect(envOf(directory)).toBe(envText);
  });
});

describe("keywheel keys add", () => {
  test("asks for the key without showing it, and writes it to the file where no proxy can be asked", async () => {
    const directory = directoryWith(`API_KEYS=sk-any-0123\nPORT=${await freePort()}\n`);
    const { code, out, asked } = await run("keys add", { directory, typed: `ann@${KEYS[0]}:50` });
    expect(asked).toEqual(["Key for the default provider (it is not shown): "]);
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
    expect(out.match(/was added/g)?.length).toBe(3);
  });

  test("adds none of several when one of them is no key", async () => {
    const envText = `API_KEYS=sk-any-0123\nPORT=${await freePort()}\n`;
    const directory = directoryWith(envText);
    const { code, err } = await run("keys add", { directory, typed: `${KEYS[0]} "quoted"` });
    expect(code).toBe(2);
    expect(err).toStartWith("The line: key 2 begins or ends with a quotation mark.");
    expect(envOf(directory)).toBe(envText);
  });

  test("gives it to the running proxy where that can be asked", async () => {
    const { settings, asked } = adminProxy(() =>
      Response.json({ message: "It was added." }, { status: 201 }),
    );
    const { code, out } = await run("keys add groq", { settings, typed: KEYS[0] ?? "" });
    expect(asked).toEqual([`POST /admin/api/providers/groq/keys {"key":"${KEYS[0]}"}`]);
    expect([code, out]).toEqual([0, "It was added.\n"]);
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
    expect([code, err]).toEqual([2, "No key was given. Type or paste it, or pipe it in.\n"]);
    expect(envOf(directory)).toBe(envText);
  });
});
