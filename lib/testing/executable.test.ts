import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import {
  chmodSync,
  existsSync,
  linkSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import packageFile from "../../package.json";
import { USAGE } from "../cli/args.ts";
import { TEST_CA, TEST_TLS } from "./certificate.ts";
import { startHttpProxy } from "./http-proxy.ts";
import {
  chunk,
  connectRaw,
  EVENT_STREAM_HEAD,
  httpAnswer,
  LAST_CHUNK,
  startRawProvider,
  until,
  type RawConnection,
} from "./fixture.ts";

const FOLDER = mkdtempSync(join(tmpdir(), "keywheel-"));
const EXECUTABLE = join(FOLDER, "bin", "keywheel");
const REQUEST = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}";
const DONE = "data: [DONE]\n\n";

beforeAll(async () => {
  mkdirSync(join(FOLDER, "bin"));
  const build = Bun.spawn(["bash", join(import.meta.dir, "../../build.sh"), "--host", EXECUTABLE], {
    env: { ...process.env, BUN: process.execPath },
    stdout: "pipe",
    stderr: "pipe",
  });
  if ((await build.exited) !== 0)
    throw new Error(`build.sh failed: ${await new Response(build.stderr).text()}`);
}, 60_000);

afterAll(() => rmSync(FOLDER, { recursive: true }));

/** An empty directory to run in. */
function emptyFolder(): string {
  return mkdtempSync(join(FOLDER, "cwd-"));
}

interface Running extends AsyncDisposable {
  readonly pid: number;
  /** Where it listens. */
  readonly url: string;
  stdout(): string;
  stderr(): string;
  signal(name: "SIGTERM" | "SIGINT"): void;
  readonly exited: Promise<number>;
}

interface Launch {
  words?: string[];
  environment?: Record<string, string>;
  folder?: string;
  executable?: string;
}

/** The executable with nothing in its environment but what is given. */
function launch({
  words = [],
  environment = {},
  folder = emptyFolder(),
  executable = EXECUTABLE,
}: Launch): Omit<Running, "url"> {
  const child = Bun.spawn([executable, ...words], {
    cwd: folder,
    env: environment,
    stdout: "pipe",
    stderr: "pipe",
  });
  const text = { stdout: "", stderr: "" };
  const read = async (name: "stdout" | "stderr") => {
    for await (const bytes of child[name]) text[name] += Buffer.from(bytes).toString();
  };
  const all = Promise.all([read("stdout"), read("stderr"), child.exited]);
  return {
    pid: child.pid,
    stdout: () => text.stdout,
    stderr: () => text.stderr,
    signal: (name) => child.kill(name),
    exited: all.then(([, , code]) => code),
    async [Symbol.asyncDispose]() {
      child.kill("SIGKILL");
      await child.exited;
    },
  };
}

/** Runs it to its end. */
async function run(options: Launch): Promise<{ code: number; stdout: string; stderr: string }> {
  await using child = launch(options);
  const code = await child.exited;
  return { code, stdout: child.stdout(), stderr: child.stderr() };
}

/** Runs it until it says where it listens: a free port of loopback, unless told otherwise. */
async function serve(options: Launch): Promise<Running> {
  const environment = { HOST: "127.0.0.1", PORT: "0", ...options.environment };
  const child = launch({ ...options, environment });
  const address = () => /http:\/\/127\.0\.0\.1:\d+(?=\/v1\b)/.exec(child.stdout())?.[0];
  let code: number | null = null;
  void child.exited.then((exitCode) => (code = exitCode));
  await until("it listens, or ends", () => address() !== undefined || code !== null, 10_000);
  const url = address();
  if (url === undefined) throw new Error(`it ended with ${code}: ${child.stderr()}`);
  return { ...child, url };
}

describe("the executable", () => {
  test("says its version, as build.sh stamped it", async () => {
    for (const word of ["--version", "-V"]) {
      const { code, stdout, stderr } = await run({ words: [word] });
      expect([code, stderr]).toEqual([0, ""]);
      expect(stdout).toMatch(/^keywheel \d+\.\d+\.\d+(?:\+[0-9a-f]{7,}(?:\.changed)?)?\n$/);
      expect(stdout).toStartWith(`keywheel ${packageFile.version}`);
    }
  });

  test("helps", async () => {
    const { code, stdout, stderr } = await run({ words: ["--help"] });
    expect([code, stderr, stdout.trim()]).toEqual([0, "", USAGE.trim()]);
  });

  const wrong: [says: string, words: string[], message: string][] = [
    ["an unknown command", ["launch"], "There is no command launch."],
    ["an unknown option", ["--prot"], "There is no option --prot."],
    ["an option of Bun's", ["--preload=x.ts"], "There is no option --preload."],
    ["two commands", ["serve", "serve"], "serve is one command too many."],
  ];
  test.each(wrong)("ends with 2 and says so on stderr: %s", async (_, words, message) => {
    const { code, stdout, stderr } = await run({ words, environment: { API_KEYS: "key-a" } });
    expect([code, stdout]).toEqual([2, ""]);
    expect(stderr).toStartWith(message);
    expect(stderr).toContain("--help");
  });

  test("ends with 2 and tells all mistakes of the configuration at once, one a line, on stderr", async () => {
    const environment = { PORT: "many", MAX_ATTEMPTS: "0", RETRY_STATUS: "5xx", TARGET_BASE_URL: "nowhere" };
    const { code, stdout, stderr } = await run({ environment });
    expect([code, stdout]).toEqual([2, ""]);
    const lines = stderr.trim().split("\n");
    for (const name of [...Object.keys(environment), "API_KEYS"]) {
      expect(lines.filter((line) => line.includes(name)).length).toBeGreaterThan(0);
    }
    expect(lines.length).toBe(5);
    expect(lines.find((line) => line.startsWith("PORT"))).toContain("many");
  });

  test("ends with 1 and a clear sentence where the port is taken", async () => {
    await using provider = startRawProvider(() => {});
    const { port } = new URL(provider.url);
    const { code, stdout, stderr } = await run({
      environment: { API_KEYS: "nvapi-a", HOST: "127.0.0.1", PORT: port },
    });
    expect([code, stdout]).toEqual([1, ""]);
    expect(stderr.trim().split("\n").length).toBe(1);
    expect(stderr).toContain(`Port ${port} is taken`);
  });

  test("runs a demo, and prints a command that works when it is pasted", async () => {
    await using demo = await serve({ words: ["--demo"] });
    const command = /^ *(curl .*)$/m.exec(demo.stdout())?.[1] ?? "";
    const answer: unknown = JSON.parse(await paste(command));
    expect(answer).toMatchObject({
      object: "chat.completion",
      model: "demo",
      choices: [{ finish_reason: "stop" }],
    });
    const health: unknown = await (await fetch(`${demo.url}/health`)).json();
    expect(health).toMatchObject({ status: "ok", keys: 3 });
    demo.signal("SIGINT");
    expect(await demo.exited).toBe(0);
    expect(demo.stderr()).toBe("");
  });

  test("gives more than 256 clients their streams at once (P24)", async () => {
    await using provider = startRawProvider((_, connection) => {
      connection.write(EVENT_STREAM_HEAD);
      connection.write(chunk('data: {"choices":[{"delta":{"content":"a"}}]}\n\n'));
    });
    await using proxy = await serve({
      environment: { API_KEYS: "key-a", TARGET_BASE_URL: provider.url, PROVIDER: "openai" },
    });
    const clients = await Promise.all(Array.from({ length: 300 }, () => connectRaw(proxy.url)));
    for (const client of clients) client.write(REQUEST);
    await until(
      "all have their first event",
      () => clients.every((client) => client.received().includes("choices")),
      8000,
    );
    expect(provider.openConnections).toBe(300);
    for (const client of clients) client.reset();
  });
});

/** What a command prints that is pasted into a shell. Where there is no curl, `sh` still takes it apart. */
async function paste(command: string): Promise<string> {
  const folder = emptyFolder();
  const isThere = Bun.which("curl") !== null;
  const standIn = join(folder, "curl");
  writeFileSync(standIn, '#!/bin/sh\nfor word in "$@"; do printf "%s\\n" "$word"; done\n');
  chmodSync(standIn, 0o755);
  const PATH = isThere ? process.env["PATH"] : `${folder}:${process.env["PATH"]}`;
  const shell = Bun.spawn(["sh", "-c", command], { env: { PATH }, stdout: "pipe" });
  const printed = await new Response(shell.stdout).text();
  if (isThere) return printed;
  const [silent, url, asHeader, header = "", asBody, body] = printed.split("\n");
  expect([silent, asHeader, asBody]).toEqual(["-s", "-H", "-d"]);
  const [name = "", value = ""] = header.split(": ");
  return (await fetch(url ?? "", { method: "POST", headers: { [name]: value }, body: body ?? null })).text();
}

describe("the executable as a service", () => {
  test.each<[says: string, stream: (file: { dev: number; ino: number }) => string, begins: string]>([
    ["its severity where stdout is the journal", ({ dev, ino }) => `${dev}:${ino}`, '<6>{"time"'],
    ["nothing where the journal is another file", ({ dev, ino }) => `${dev}:${ino + 1}`, '{"time"'],
    ["nothing where there is no journal", () => "", '{"time"'],
  ])("has before each line of its log %s", async (_says, stream, begins) => {
    const folder = emptyFolder();
    const path = join(folder, "stdout");
    writeFileSync(path, "");
    const environment = { API_KEYS: "nvapi-1", PORT: "0", HOST: "127.0.0.1", STATE: "off" };
    const child = Bun.spawn([EXECUTABLE], {
      cwd: folder,
      env: { ...environment, JOURNAL_STREAM: stream(statSync(path)) },
      stdout: Bun.file(path),
      stderr: "ignore",
    });
    await until("it listens", () => readFileSync(path, "utf8").includes("base URL"));
    child.kill("SIGTERM");
    expect(await child.exited).toBe(0);
    const [line] = readFileSync(path, "utf8")
      .split("\n")
      .filter((text) => text.includes('"draining"'));
    expect(line).toStartWith(begins);
  });
});

describe("the executable at its end (P31)", () => {
  /** The proxy with one stream under way, whose provider and client a test holds. */
  async function streaming(
    settings: Record<string, string>,
    play: (
      proxy: Running,
      upstream: RawConnection,
      received: () => string,
      client: { isClosed: boolean },
    ) => Promise<void>,
  ): Promise<void> {
    let upstream: RawConnection | null = null;
    await using provider = startRawProvider((_, connection) => {
      upstream = connection;
      connection.write(EVENT_STREAM_HEAD);
      connection.write(chunk('data: {"choices":[{"delta":{"content":"one"}}]}\n\n'));
    });
    const target = { API_KEYS: "key-a", TARGET_BASE_URL: provider.url, PROVIDER: "openai" };
    await using proxy = await serve({ environment: { ...target, ...settings } });
    const client = await connectRaw(proxy.url);
    client.write(REQUEST);
    await until("the stream runs", () => client.received().includes("one"));
    if (upstream === null) throw new Error("no upstream");
    await play(proxy, upstream, () => client.received().toString(), client);
  }

  test.each(["SIGTERM", "SIGINT"] as const)(
    "takes nothing new after %s, lets a stream finish, and ends with 0",
    async (name) => {
      await streaming({}, async (proxy, upstream, received) => {
        const idle = await connectRaw(proxy.url);
        idle.write("GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n");
        await until("an idle connection", () => idle.received().includes("uptime_sec"));
        proxy.signal(name);
        await until("the port is closed", () => isRefused(proxy.url));
        await until("the idle connection is closed", () => idle.isClosed);
        upstream.write(chunk('data: {"choices":[{"delta":{"content":"two"},"finish_reason":"stop"}]}\n\n'));
        upstream.write(chunk(DONE) + LAST_CHUNK);
        expect(await proxy.exited).toBe(0);
        expect(received()).toContain("two");
        expect(received()).toContain(DONE);
        expect(received()).toEndWith(LAST_CHUNK);
        expect(proxy.stdout()).toContain('"event":"draining"');
        expect(proxy.stdout()).toContain('"status":200'); // the last request's line is not lost
        expect(proxy.stderr()).toBe("");
      });
    },
  );

  // Under `bun run` the stream was cut: the terminal signals the whole group, and the parent passes its signal on.
  test("takes a Ctrl-C that comes twice for one, and lets the stream finish", async () => {
    await streaming({}, async (proxy, upstream, received) => {
      proxy.signal("SIGINT");
      await until("it drains", () => proxy.stdout().includes('"event":"draining"'));
      proxy.signal("SIGINT");
      upstream.write(chunk('data: {"choices":[{"delta":{"content":"two"},"finish_reason":"stop"}]}\n\n'));
      upstream.write(chunk(DONE) + LAST_CHUNK);
      expect(await proxy.exited).toBe(0);
      expect(received()).toEndWith(LAST_CHUNK);
    });
  });

  test("ends at once at a second signal", async () => {
    await streaming({ DRAIN_SEC: "60" }, async (proxy, _, received) => {
      proxy.signal("SIGTERM");
      await until("it drains", () => proxy.stdout().includes('"event":"draining"'));
      const since = performance.now();
      proxy.signal("SIGTERM");
      expect(await proxy.exited).toBe(0);
      expect(performance.now() - since).toBeLessThan(1000);
      expect(received()).not.toEndWith(LAST_CHUNK);
    });
  });

  test("cuts what still streams after DRAIN_SEC, never with a clean end, and ends with 0", async () => {
    await streaming({ DRAIN_SEC: "0.1" }, async (proxy, _, received, client) => {
      proxy.signal("SIGTERM");
      expect(await proxy.exited).toBe(0);
      await until("the client is cut off", () => client.isClosed);
      expect(received()).toContain("DRAIN_SEC");
      expect(received()).not.toEndWith(LAST_CHUNK);
    });
  });

  // A supervisor that saw the line with the address and changed its mind killed the process: exit code 143.
  test("ends with 0 at once where nothing is under way, as soon as it says where it listens", async () => {
    for (let round = 0; round < 10; round++) {
      await using proxy = await serve({ environment: { API_KEYS: "key-a", DRAIN_SEC: "60" } });
      proxy.signal("SIGTERM");
      expect(await proxy.exited).toBe(0);
    }
  });
});

/** Whether a port takes no connection any more; the answer is that of the last time it was asked. */
function isRefused(url: string): boolean {
  const { port } = new URL(url);
  return !readFileSync("/proc/net/tcp", "utf8")
    .split("\n")
    .some((line) =>
      line.includes(`:${Number(port).toString(16).toUpperCase().padStart(4, "0")} 00000000:0000 0A`),
    );
}

describe("a provider whose certificate a company's CA has signed", () => {
  const server = Bun.serve({
    port: 0,
    hostname: "127.0.0.1",
    tls: TEST_TLS,
    fetch: ({ headers }) =>
      headers.get("authorization") === null
        ? new Response("{}", { status: 401 })
        : Response.json({ data: [], choices: [{ message: { content: "hi" }, finish_reason: "stop" }] }),
  });
  afterAll(() => server.stop(true));
  const settings = `API_KEYS=sk-1\nPROVIDER=openai\nTARGET_BASE_URL=https://localhost:${server.port}/v1\nMAX_ATTEMPTS=1\nSTATE=off\n`;
  const chatAt = (url: string) =>
    fetch(`${url}/v1/chat/completions`, { method: "POST", body: '{"model":"m"}' });

  /** A directory with these settings, private to its owner. */
  function folderOf(text: string): string {
    const folder = emptyFolder();
    writeFileSync(join(folder, ".env"), text, { mode: 0o600 });
    writeFileSync(join(folder, "ca.pem"), TEST_CA);
    return folder;
  }

  test("is not reached, and the client reads why and what to do", async () => {
    await using proxy = await serve({ folder: folderOf(settings) });
    const answer = await chatAt(proxy.url);
    expect(answer.status).toBe(502);
    expect(await answer.text()).toMatch(
      /at localhost:\d+: its certificate is not signed .* NODE_EXTRA_CA_CERTS=/,
    );
  });

  test.each(["NODE_EXTRA_CA_CERTS", "SSL_CERT_FILE"])(
    "is reached where the settings file names it in %s",
    async (name) => {
      const folder = folderOf(`${settings}${name}=ca.pem\n`);
      await using proxy = await serve({ folder });
      expect((await chatAt(proxy.url)).status).toBe(200);
      expect(proxy.stderr()).toBe("");
      const { code, stdout } = await run({ words: ["check"], folder });
      expect([code, stdout]).toEqual([0, expect.stringContaining("works")]);
    },
  );

  test("is reached where the environment names it", async () => {
    const folder = folderOf(settings);
    await using proxy = await serve({ folder, environment: { NODE_EXTRA_CA_CERTS: join(folder, "ca.pem") } });
    expect((await chatAt(proxy.url)).status).toBe(200);
  });

  test("P39 is not reached by checking no certificate at all", async () => {
    const folder = folderOf(settings);
    for (const value of ["0", "false"]) {
      const environment = { NODE_TLS_REJECT_UNAUTHORIZED: value };
      await using proxy = await serve({ folder, environment });
      expect((await chatAt(proxy.url)).status).toBe(502);
      expect(proxy.stderr()).toContain(`NODE_TLS_REJECT_UNAUTHORIZED=${value} is ignored`);
      const { code, stderr } = await run({ words: ["check"], folder, environment });
      expect([code, stderr]).toEqual([1, expect.stringContaining("is ignored")]);
    }
  });

  test("is reached through a proxy that opens a tunnel", async () => {
    await using way = await startHttpProxy(server.port ?? 0);
    const text = settings.replace("localhost", "provider.test");
    const folder = folderOf(
      `${text}NODE_EXTRA_CA_CERTS=ca.pem\nUPSTREAM_PROXY=http://127.0.0.1:${way.port}\n`,
    );
    await using proxy = await serve({ folder });
    expect((await chatAt(proxy.url)).status).toBe(200);
    const { code, stdout } = await run({ words: ["check"], folder });
    expect([code, stdout]).toEqual([0, expect.stringContaining("works")]);
    const tunnels = way.heads.filter((head) => head.startsWith(`CONNECT provider.test:${server.port} `));
    expect(tunnels.length).toBe(way.heads.length);
    expect(tunnels.length).toBeGreaterThan(1);
  });
});

describe("what the executable reads", () => {
  /** The key with which it asks upstream. */
  async function keyUsed(launchOptions: Launch): Promise<string | null | undefined> {
    await using provider = startRawProvider((_, connection) => connection.write(httpAnswer(200, "{}")));
    const environment = { TARGET_BASE_URL: provider.url, PROVIDER: "openai", ...launchOptions.environment };
    await using proxy = await serve({ ...launchOptions, environment });
    await fetch(`${proxy.url}/v1/models`);
    return provider.requests[0]?.key;
  }

  function folderWith(files: Record<string, string>): string {
    const folder = emptyFolder();
    for (const [name, text] of Object.entries(files)) writeFileSync(join(folder, name), text);
    return folder;
  }

  test("is .env of the working directory, with nothing expanded or cut", async () => {
    const folder = folderWith({ ".env": "API_KEYS=key-$HOME#1${X}\n" });
    expect(await keyUsed({ folder, environment: { HOME: "/root" } })).toBe("key-$HOME#1${X}");
  });

  test("is no .env.local, .env.production or .env.development, which only Bun reads", async () => {
    const other = "API_KEYS=wrong-key\n";
    const folder = folderWith({
      ".env": "API_KEYS=right-key\n",
      ".env.local": other,
      ".env.production": other,
      ".env.development": other,
    });
    expect(await keyUsed({ folder })).toBe("right-key");
  });

  test("is the environment before the file", async () => {
    const folder = folderWith({ ".env": "API_KEYS=file-key\n" });
    expect(await keyUsed({ folder, environment: { API_KEYS: "environment-key" } })).toBe("environment-key");
  });

  test("is the file that --env-file names, and no other", async () => {
    const folder = folderWith({ ".env": "API_KEYS=wrong-key\n", "my.env": "API_KEYS=right-key\n" });
    expect(await keyUsed({ folder, words: ["serve", "--env-file", "my.env"] })).toBe("right-key");
    expect(await keyUsed({ folder, words: ["--env-file=my.env"] })).toBe("right-key");
  });

  test("is .env beside the executable where the working directory has none", async () => {
    const home = folderWith({ ".env": "API_KEYS=beside-key\n" });
    linkSync(EXECUTABLE, join(home, "keywheel"));
    expect(await keyUsed({ executable: join(home, "keywheel") })).toBe("beside-key");
  });

  // Bun's own reading of .env would take its settings from there too; this one prints every key that is sent.
  test("is nothing that Bun would obey in .env", async () => {
    const obeyed = "BUN_CONFIG_VERBOSE_FETCH=curl\n";
    const folder = folderWith({ ".env": `API_KEYS=key-a\n${obeyed}`, ".env.local": obeyed });
    await using provider = startRawProvider((_, connection) => connection.write(httpAnswer(200, "{}")));
    await using proxy = await serve({
      folder,
      environment: { TARGET_BASE_URL: provider.url, PROVIDER: "openai" },
    });
    await fetch(`${proxy.url}/v1/models`);
    proxy.signal("SIGTERM");
    await proxy.exited;
    expect(proxy.stdout() + proxy.stderr()).not.toContain("key-a");
    expect(provider.requests[0]?.key).toBe("key-a");
  });

  test("is no code of the working directory", async () => {
    const files = {
      "bunfig.toml": 'preload = ["./bait.ts"]\n[run]\npreload = ["./bait.ts"]\n',
      "bait.ts": 'require("node:fs").writeFileSync(`taken-${process.pid}`, "");\n',
      "package.json": '{"imports":{"#x":"./bait.ts"},"type":"commonjs"}',
      "tsconfig.json": '{"compilerOptions":{"paths":{"*":["./bait.ts"]}}}',
    };
    const folder = folderWith(files);
    await run({ folder, words: ["--version"] });
    expect(await keyUsed({ folder, environment: { API_KEYS: "key-a" } })).toBe("key-a");
    await run({ folder, words: ["launch"] });
    expect(readdirSync(folder).filter((name) => name.startsWith("taken"))).toEqual([]);
    // The bait is a good one: Bun itself takes it.
    await Bun.spawn([process.execPath, "-e", "0"], { cwd: folder, env: {}, stderr: "ignore" }).exited;
    expect(readdirSync(folder).filter((name) => name.startsWith("taken")).length).toBe(1);
  });
});

describe("no key is ever told (P29)", () => {
  const POOL = ["one", "two", "three", "four"].map((name) => `sk-canary+${name}/0123=4567_${name}XYZ`);
  const CLIENT = "client-canary+0123/4567=89_XYZ";
  const PRESENTED = "wrong-canary+0123/4567=89_XYZ";
  const SECRETS = [...POOL, CLIENT, PRESENTED];

  /** Every spelling of a secret, and of most of it, that a text could be searched for. */
  const spellings = SECRETS.flatMap((secret) => {
    const forms = [
      secret,
      secret.slice(0, 14),
      secret.slice(-12),
      encodeURIComponent(secret),
      encodeURIComponent(secret).toLowerCase(),
    ];
    for (const before of ["", "x", "xx"]) {
      const digits = Buffer.from(before + secret).toString("base64");
      forms.push(digits.slice(4, -4), digits.slice(4, -4).replaceAll("+", "-").replaceAll("/", "_"));
    }
    forms.push(Buffer.from(secret).toString("hex"));
    return forms.map((form) => ({ secret, form }));
  });

  /** Which secrets a text tells, by their number: a failing test must not tell them either. */
  function told(text: string): number[] {
    return [
      ...new Set(
        spellings.filter(({ form }) => text.includes(form)).map(({ secret }) => SECRETS.indexOf(secret)),
      ),
    ];
  }

  test("the search finds every spelling it is for", () => {
    const [first = ""] = POOL;
    const texts = [
      first,
      `"${first}"`,
      encodeURIComponent(first),
      btoa(first),
      btoa(`a:${first}\n`),
      btoa(`ab:${first}`),
      first.slice(0, -2),
    ];
    for (const text of texts) expect(told(text)).toEqual([0]);
    expect(told("sk-canary")).toEqual([]);
  });

  test("in a whole run: not in an answer, /health, stdout, stderr, the process list or a file", async () => {
    // An answer between two failures, so that the provider is not taken for down; what ends a key's life at last.
    const answers = [400, 500, 404, 503, 422, 429, 402, 403];
    const ways: ((key: string) => { text: string; fields?: Record<string, string>; pack?: boolean })[] = [
      (key) => ({ text: `Refused: ${key}` }),
      (key) => ({ text: `See /help?key=${encodeURIComponent(key)}` }),
      (key) => ({ text: btoa(`user:${key}`) }),
      (key) => ({
        text: "no",
        fields: {
          "x-message": key,
          "x-error-message": `${key} ${btoa(key)}`,
          "www-authenticate": `Bearer realm="${key}"`,
        },
      }),
      (key) => ({ text: `Refused: ${key} ${encodeURIComponent(key)} ${btoa(key)}`, pack: true }),
      (key) => ({ text: `${"long ".repeat(56)}${key}` }),
    ];
    await using provider = startRawProvider((request, connection) => {
      const [, status = "400", way = "0"] = /\/(\d+)\/(\d+)/.exec(request.target) ?? [];
      const { text, fields: own = {}, pack = false } = ways[Number(way)]?.(request.key ?? "") ?? { text: "" };
      // Without a hint, three refusals in a row would be taken for everybody's (P11).
      const fields = status === "429" ? { ...own, "retry-after": "0" } : own;
      const body = JSON.stringify({ error: { message: text, type: "invalid_request_error" } });
      if (pack)
        connection.write(
          httpAnswer(Number(status), Bun.gzipSync(body), { ...fields, "content-encoding": "gzip" }),
        );
      else connection.write(httpAnswer(Number(status), body, fields));
    });

    const folder = emptyFolder();
    writeFileSync(join(folder, "keys.txt"), `${POOL.slice(2).join("\n")}\n`);
    writeFileSync(
      join(folder, ".env"),
      `API_KEYS="alice@${POOL[0]}:5000, ${POOL[1]}"\nAPI_KEYS_FILE=keys.txt\nPROXY_API_KEY=bob=${CLIENT}\n`,
    );
    const given = readdirSync(folder);
    const environment = {
      TARGET_BASE_URL: provider.url,
      PROVIDER: "openai",
      LOG_LEVEL: "debug",
      MAX_WAIT_SEC: "0.05",
      COOLDOWN_SEC: "0.001",
      MAX_COOLDOWN_SEC: "0.001",
      MAX_ATTEMPTS: "3",
    };
    await using proxy = await serve({ folder, environment });

    const seen: [where: string, text: string][] = [];
    const ask = async (path: string, init: RequestInit = {}) => {
      const response = await fetch(proxy.url + path, { redirect: "manual", ...init });
      const text = `${JSON.stringify([...response.headers])} ${await response.text()}`;
      seen.push([`${init.method ?? "GET"} ${path.replace(/\?.*/, "?…")}: ${response.status}`, text]);
      return response.status;
    };
    const authorized = { authorization: `Bearer ${CLIENT}` };
    for (const way of ways.keys()) {
      for (const status of answers)
        await ask(`/v1/${status}/${way}`, { method: "POST", body: "{}", headers: authorized });
    }
    for (const status of answers) await ask(`/v1/${status}/3`, { method: "HEAD", headers: authorized });
    const asked = provider.requests.map(({ target }) => target).filter((target) => target !== "/v1/models");
    expect(new Set(asked).size).toBe(answers.length * ways.length);
    for (const way of ways.keys()) await ask(`/v1/401/${way}`, { headers: authorized });
    expect(new Set(provider.requests.map(({ key }) => key))).toEqual(new Set(POOL));
    for (const path of [
      "/health",
      "/metrics",
      "/admin",
      "/admin/api/keys",
      "/v1/x%2f..",
      "/.env",
      "/keys.txt",
    ]) {
      await ask(path, { headers: authorized });
      await ask(path);
    }
    expect(await ask("/v1/400/0", { headers: { "x-api-key": PRESENTED } })).toBe(401);
    expect(await ask(`/v1/400/0?key=${encodeURIComponent(PRESENTED)}`)).toBe(401);
    await ask(`/v1/400/0?key=${encodeURIComponent(CLIENT)}`);
    seen.push(["the process list", readFileSync(`/proc/${proxy.pid}/cmdline`, "utf8")]);
    seen.push([
      "upstream",
      provider.requests
        .map(({ head, body }) => head + body.toString())
        .join("\n")
        .replaceAll(/sk-canary\S+/g, ""),
    ]);

    proxy.signal("SIGTERM");
    expect(await proxy.exited).toBe(0);
    expect(proxy.stdout().length).toBeGreaterThan(1000);
    seen.push(["stdout", proxy.stdout()], ["stderr", proxy.stderr()]);
    for (const name of readdirSync(folder)) {
      if (!given.includes(name)) seen.push([name, readFileSync(join(folder, name), "latin1")]);
    }
    expect(seen.filter(([, text]) => told(text).length > 0).map(([where]) => where)).toEqual([]);
  });

  const mistaken: [says: string, environment: Record<string, string>][] = [
    ["for another setting", { PROVIDER: POOL[0] ?? "", PORT: POOL[1] ?? "", RPM: POOL[2] ?? "" }],
    ["with a letter that no key has", { API_KEYS: `${POOL[0]}é,${POOL[1]}` }],
    ["with a limit that is none", { API_KEYS: `${POOL[0]}:0` }],
    ["in the address", { TARGET_BASE_URL: `http://user:${POOL[0]}@nowhere.example/v1?key=${POOL[1]}` }],
    ["as the path of a key file", { API_KEYS_FILE: POOL[0] ?? "" }],
    ["as the name of a setting", { [`${POOL[0]}_API_KEYS`]: POOL[1] ?? "" }],
  ];
  test.each(mistaken)("in a complaint about the configuration: a key %s", async (_, environment) => {
    const { code, stdout, stderr } = await run({ environment });
    expect(code).toBe(2);
    expect(stderr).not.toBe("");
    expect(told(stdout + stderr)).toEqual([]);
  });

  test("in a complaint about the command line or the env file", async () => {
    const folder = emptyFolder();
    writeFileSync(join(folder, ".env"), `${POOL[0]}\nAPI_KEYS="${POOL[1]}\n`);
    for (const words of [[], ["keys", "add", POOL[0] ?? ""], [POOL[0] ?? ""], [`--key=${POOL[0]}`]]) {
      const { code, stdout, stderr } = await run({ folder, words });
      // A file that cannot be read cannot be changed either: that is a failure, not a wrong usage.
      expect([words.length, code]).toEqual([words.length, words[0] === "keys" ? 1 : 2]);
      expect(told(stdout + stderr)).toEqual([]);
    }
    expect(existsSync(join(folder, ".env"))).toBe(true);
  });
});
