import { afterAll, beforeAll, describe, expect, spyOn, test } from "bun:test";
import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { certificateFiles, type Config, type FileOf, loadConfig, parseConfig } from "./config.ts";
import { parseEnvFile } from "./env-file.ts";
import { PROVIDER_SETTINGS, SETTINGS } from "./settings.ts";
import { type Dialect, DIALECTS } from "../providers/verdict.ts";
import { defaultBaseUrl } from "../providers/catalog.ts";
import { banner } from "../cli/startup.ts";

type Variables = Record<string, string>;

/** The configuration of an environment that has no mistakes. */
function configOf(environment: Variables, file: Variables = {}): Config {
  const parsed = parseConfig({ API_KEYS: "key-one", ...environment }, new Map(Object.entries(file)));
  if (!parsed.ok) throw new Error(parsed.problems.join("\n"));
  return parsed.config;
}

function problemsOf(environment: Variables, fileOf?: FileOf): string[] {
  const parsed = parseConfig(environment, new Map(), fileOf);
  return parsed.ok ? [] : parsed.problems;
}

/** Without the one about keys that begin like nobody's, as those of most tests do. */
function warningsOf(environment: Variables, file: Variables = {}): string[] {
  const { warnings } = parseConfig(environment, new Map(Object.entries(file)));
  return warnings.filter((warning) => !warning.includes("begin like those of no provider"));
}

/** Keys as they were written, in order. */
function poolOf(config: Config, index = 0) {
  const keys = config.providers[index]?.keys ?? [];
  return keys.map(({ secret, account, dailyLimit }) => [secret.reveal(), account, dailyLimit]);
}

describe("without any setting but a key, the configuration", () => {
  test("is the documented default in every field", () => {
    const { providers, ...rest } = configOf({});
    expect(rest).toEqual({
      listen: { kind: "tcp", hostname: "0.0.0.0", port: 3000 },
      access: { mode: "protected" },
      corsOrigins: [],
      maxCooldownMs: 86_400_000,
      maxAttempts: null,
      maxWaitMs: 100_000,
      exhaustedStatus: 503,
      connectTimeoutMs: 10_000,
      firstByteTimeoutMs: 300_000,
      streamIdleTimeoutMs: 120_000,
      maxBodyBytes: 32 * 1024 * 1024,
      maxInFlight: 2048,
      maxBufferedBytes: 256 * 1024 * 1024,
      drainMs: 30_000,
      logLevel: "info",
      logFormat: null,
      logDir: null,
      logRetentionDays: 14,
      routes: [],
      fallback: [],
      fallbackAfterMs: 2000,
      models: "default",
      clientLimits: [],
      clientZone: "UTC",
      statePath: "keywheel.db",
      stateServer: null,
      certificateFiles: [],
      adminPassword: null,
      webhookUrl: null,
    });
    expect(providers.map(({ keys: _, retryStatus, baseUrl, ...provider }) => provider)).toEqual([
      {
        name: "default",
        dialect: "nvidia",
        cooldownMs: 60_000,
        rpm: "auto",
        dailyLimit: null,
        timezone: null,
        strategy: "round-robin",
        recognisedBy: null,
        isAssumed: true,
        upstreamProxy: null,
        disabled: false,
      },
    ]);
    expect(providers[0].baseUrl.href).toBe("https://integrate.api.nvidia.com/v1");
    expect([...providers[0].retryStatus]).toEqual([429, 500, 502, 503, 504, 520, 521, 522, 523, 524, 529]);
  });

  test("does without warnings", () => {
    const environment = { API_KEYS: "nvapi-one", PATH: "/bin", HOME: "/root", LANG: "C" };
    expect(parseConfig(environment).warnings).toEqual([]);
  });
});

describe("a setting that is understood", () => {
  const table: [says: string, environment: Variables, expected: Partial<Config>][] = [
    ["seconds may have decimals", { MAX_WAIT_SEC: "0.5" }, { maxWaitMs: 500 }],
    ["a clock of 0 is off", { CONNECT_TIMEOUT_SEC: "0" }, { connectTimeoutMs: 0 }],
    ["a number of attempts is binding", { MAX_ATTEMPTS: "3" }, { maxAttempts: 3 }],
    ["megabytes are bytes within", { MAX_BODY_MB: "0.5" }, { maxBodyBytes: 524_288 }],
    ["an empty value is no value", { MAX_BODY_MB: " " }, { maxBodyBytes: 32 * 1024 * 1024 }],
    ["a larger body makes room for itself", { MAX_BODY_MB: "512" }, { maxBufferedBytes: 512 * 1024 * 1024 }],
    ["a request may go on at once", { FALLBACK_AFTER_SEC: "0" }, { fallbackAfterMs: 0 }],
    ["the status of exhaustion may be 429", { EXHAUSTED_STATUS: "429" }, { exhaustedStatus: 429 }],
    ["a word may be in capitals", { LOG_LEVEL: "DEBUG" }, { logLevel: "debug" }],
    ["the log format may be fixed", { LOG_FORMAT: "json" }, { logFormat: "json" }],
    ["the log may go to a directory", { LOG_DIR: "/var/log/k" }, { logDir: "/var/log/k" }],
    ["its files may be kept longer", { LOG_RETENTION_DAYS: "90" }, { logRetentionDays: 90 }],
    ["port 0 is any free one", { PORT: "0" }, { listen: { kind: "tcp", hostname: "0.0.0.0", port: 0 } }],
    [
      "an IPv6 address needs no brackets, and may have them",
      { HOST: "[::1]" },
      { listen: { kind: "tcp", hostname: "::1", port: 3000 } },
    ],
    ["unix: is a socket", { HOST: "unix:/run/k.sock" }, { listen: { kind: "unix", path: "/run/k.sock" } }],
    ["off lets everyone in", { PROXY_API_KEY: "off" }, { access: { mode: "open" } }],
    ["a star is every origin", { CORS_ORIGINS: "*" }, { corsOrigins: ["*"] }],
    [
      "origins become what browsers send",
      { CORS_ORIGINS: "https://A.example:443/, chrome-extension://AbC app://obsidian.md" },
      { corsOrigins: ["https://a.example", "chrome-extension://abc", "app://obsidian.md"] },
    ],
  ];
  test.each(table)("%s", (_, environment, expected) => {
    expect(configOf(environment)).toMatchObject(expected);
  });

  const memory: [says: string, environment: Variables, megabytes: number | null, buffered: number][] = [
    ["a quarter of the memory of the unit", {}, 512, 128],
    ["256 MB on a large machine", {}, 24_000, 256],
    ["256 MB where nothing is known", {}, null, 256],
    ["one body where memory is small", {}, 100, 32],
    ["one body, where that may be larger", { MAX_BODY_MB: "64" }, 100, 64],
    ["what is written", { MAX_BUFFERED_MB: "500" }, 512, 500],
  ];
  test.each(memory)("P43 of bodies together is %s", (_, environment, megabytes, buffered) => {
    const bytes = megabytes === null ? null : megabytes * 2 ** 20;
    const parsed = parseConfig({ API_KEYS: "k", ...environment }, new Map(), undefined, bytes);
    expect(parsed.ok && parsed.config.maxBufferedBytes).toBe(buffered * 2 ** 20);
  });

  test("of the environment wins over the file, but an empty one does not", () => {
    const config = configOf({ MAX_WAIT_SEC: "1", DRAIN_SEC: "" }, { MAX_WAIT_SEC: "2", DRAIN_SEC: "3" });
    expect([config.maxWaitMs, config.drainMs]).toEqual([1000, 3000]);
  });
});

describe("the default provider", () => {
  const table: [says: string, environment: Variables, dialect: string, baseUrl: string][] = [
    [
      "is told by its address",
      { TARGET_BASE_URL: "https://api.groq.com/openai/v1" },
      "groq",
      "https://api.groq.com/openai/v1",
    ],
    [
      "is generic at an unknown address",
      { TARGET_BASE_URL: "http://10.0.0.7:8000" },
      "generic",
      "http://10.0.0.7:8000/",
    ],
    [
      "loses trailing slashes",
      { TARGET_BASE_URL: "https://a.example/v1//" },
      "generic",
      "https://a.example/v1",
    ],
    [
      "may be said to speak another dialect",
      { TARGET_BASE_URL: "https://a.example/v1", PROVIDER: "Anthropic" },
      "anthropic",
      "https://a.example/v1",
    ],
    [
      "is where the catalogue has it when only PROVIDER is set",
      { PROVIDER: "groq" },
      "groq",
      "https://api.groq.com/openai/v1",
    ],
  ];
  test.each(table)("%s", (_, environment, dialect, baseUrl) => {
    const [provider] = configOf(environment).providers;
    expect([provider.dialect as string, provider.baseUrl.href]).toEqual([dialect, baseUrl]);
  });

  test("has mistakes of its dialect and of its address reported together", () => {
    const problems = problemsOf({ API_KEYS: "k1", PROVIDER: "opnai", TARGET_BASE_URL: "localhost:8000" });
    expect(problems).toEqual([
      expect.stringContaining("PROVIDER is opnai."),
      expect.stringContaining("TARGET_BASE_URL is not an address."),
    ]);
  });

  const faults: [says: string, environment: Variables, problem: string][] = [
    ["no scheme", { TARGET_BASE_URL: "localhost:8000/v1" }, "TARGET_BASE_URL is not an address."],
    ["another scheme", { TARGET_BASE_URL: "ftp://a.example" }, "TARGET_BASE_URL is not an address."],
    ["a password", { TARGET_BASE_URL: "https://u:canary@a.example" }, "has a user name or a password in it"],
    ["a query", { TARGET_BASE_URL: "https://a.example/?key=canary" }, "has a query or a fragment"],
    ["a placeholder", { TARGET_BASE_URL: "https://{canary}.example/v1" }, "has a placeholder in it"],
    [
      "an endpoint",
      { TARGET_BASE_URL: "https://a.example/v1/chat/completions" },
      "is the address of one endpoint",
    ],
    ["our own address", { TARGET_BASE_URL: "http://localhost:3000/v1" }, "on which keywheel itself listens"],
    [
      "a dialect without an address",
      { PROVIDER: "azure" },
      "azure has no address common to all. Set TARGET_BASE_URL.",
    ],
    ["an unknown dialect", { PROVIDER: "opnai" }, "PROVIDER is opnai. Use openai, azure, "],
  ];
  test.each(faults)("is refused for %s", (_, environment, problem) => {
    const problems = problemsOf({ API_KEYS: "k1", ...environment });
    expect(problems).toEqual([expect.stringContaining(problem)]);
    expect(problems.join()).not.toContain("canary");
  });
});

describe("without TARGET_BASE_URL and PROVIDER, the provider", () => {
  const table: [keys: string, dialect: string, prefix: string | null][] = [
    ["nvapi-0001", "nvidia", "nvapi-"],
    ["sk-proj-0001,sk-svcacct-0002", "openai", "sk-proj-"],
    ["sk-ant-api03-0001", "anthropic", "sk-ant-"],
    ["sk-or-v1-0001", "openrouter", "sk-or-"],
    ["bob@gsk_0001:50", "groq", "gsk_"],
    ["AIzaSy0001", "gemini", "AIza"],
    ["xai-0001", "xai", "xai-"],
    ["csk-0001", "cerebras", "csk-"],
    ["hf_0001", "huggingface", "hf_"],
    ["pplx-0001", "perplexity", "pplx-"],
    ["fw_0001", "fireworks", "fw_"],
    ["github_pat_0001,ghp_0002", "github", "github_pat_"],
    ["tgp_v1_0001", "together", "tgp_v1_"],
    ["sk-0001", "nvidia", null],
    ["0123456789abcdef", "nvidia", null],
  ];
  test.each(table)("of %s is %s", (keys, dialect, prefix) => {
    const parsed = parseConfig({ API_KEYS: keys });
    const provider = parsed.ok ? parsed.config.providers[0] : null;
    expect(provider).toMatchObject({ dialect, recognisedBy: prefix });
    expect(provider?.baseUrl.href).toBe(new URL(defaultBaseUrl(dialect as Dialect) ?? "").href);
    const guessed = parsed.warnings.filter((warning) => warning.includes("begin like those of no provider"));
    expect(guessed).toHaveLength(prefix === null ? 1 : 0);
  });

  test("is told by the keys of a file too", () => {
    const parsed = parseConfig({ API_KEYS_FILE: "/k" }, new Map(), () => ({
      ok: true,
      text: "gsk_1\ngsk_2",
    }));
    expect(parsed.ok && parsed.config.providers[0].dialect).toBe("groq");
  });

  test("is said in the banner, and why", () => {
    const config = configOf({ API_KEYS: "gsk_0001" });
    const lines = banner(config, {
      version: "1",
      url: "http://127.0.0.1:3000",
      envFile: null,
      addresses: [],
    });
    expect(lines).toContain("groq, as the keys begin with gsk_");
    expect(
      banner(configOf({ API_KEYS: "gsk_0001", PROVIDER: "groq" }), {
        version: "1",
        url: "x",
        envFile: null,
        addresses: [],
      }),
    ).not.toContain("begin with");
  });

  test("is warned of where only some keys begin so", () => {
    const { warnings, ok } = parseConfig({ API_KEYS: "gsk_0001,canary,gsk_0002" });
    expect([ok, warnings]).toEqual([
      true,
      [expect.stringContaining("1 of 3 keys does not begin with gsk_, and all are sent to groq.")],
    ]);
  });

  test("is not guessed aloud where there are mistakes", () => {
    expect(parseConfig({ API_KEYS: "Bearer abc" }).warnings).toEqual([]);
  });

  test("cannot be told where keys of several begin differently", () => {
    expect(problemsOf({ API_KEYS: "gsk_0001,sk-ant-0002,AIza0003" })).toEqual([
      "API_KEYS holds keys of groq, anthropic and gemini, and each provider has its own list. Put them into GROQ_API_KEYS, ANTHROPIC_API_KEYS and GEMINI_API_KEYS.",
    ]);
  });
});

describe("P39 a key of another company", () => {
  const table: [says: string, environment: Variables, problem: string][] = [
    [
      "at the address of a known provider",
      { API_KEYS: "gsk_1,sk-proj-canary", TARGET_BASE_URL: "https://api.groq.com/openai/v1" },
      "API_KEYS: key 2 begins like a key of openai, but api.groq.com is groq.",
    ],
    [
      "at the provider that is named",
      { API_KEYS: "nvapi-canary", PROVIDER: "openai" },
      "key 1 begins like a key of nvidia",
    ],
    [
      "in the list of a named provider",
      { GROQ_API_KEYS: "csk-canary" },
      "GROQ_API_KEYS: key 1 begins like a key of cerebras",
    ],
    [
      "in a list that has an address of its own",
      { PAID_API_KEYS: "sk-or-canary", PAID_BASE_URL: "https://api.anthropic.com" },
      "put it into OPENROUTER_API_KEYS, or correct PAID_BASE_URL",
    ],
    [
      "where only the host tells",
      { API_KEYS: "hf_canary", TARGET_BASE_URL: "https://integrate.api.nvidia.com/v1", PROVIDER: "generic" },
      "begins like a key of huggingface",
    ],
    ["of Google at another", { API_KEYS: "AIzacanary", PROVIDER: "mistral" }, "begins like a key of gemini"],
    [
      "in a provider that is off",
      { GROQ_API_KEYS: "xai-canary", GROQ_DISABLED: "true" },
      "begins like a key of xai",
    ],
  ];
  test.each(table)("is refused %s", (_, environment, problem) => {
    const problems = problemsOf(environment);
    expect(problems).toEqual([expect.stringContaining(problem)]);
    expect(problems.join()).not.toContain("canary");
  });

  test("is counted where there are many", () => {
    const keys = Array.from({ length: 9 }, (_, index) => `gsk_${index}`).join();
    expect(problemsOf({ API_KEYS: keys, PROVIDER: "openai" })).toEqual([
      ...Array.from({ length: 3 }, () => expect.stringContaining("begins like a key of groq")),
      "6 more keys of API_KEYS are of another company than api.openai.com.",
    ]);
  });

  test("in a list without an address is asked about", () => {
    expect(problemsOf({ PAID_API_KEYS: "gsk_canary" })).toEqual([
      expect.stringContaining("for its own address set PAID_PROVIDER=groq."),
    ]);
  });

  const fine: [says: string, environment: Variables][] = [
    [
      "a gateway takes keys of everybody",
      { API_KEYS: "gsk_1,sk-ant-2", TARGET_BASE_URL: "https://gateway.example/v1" },
    ],
    [
      "a gateway does so with a dialect too",
      { API_KEYS: "sk-ant-2", TARGET_BASE_URL: "https://gw.example", PROVIDER: "groq" },
    ],
    ["a server of this machine too", { API_KEYS: "nvapi-1", TARGET_BASE_URL: "http://127.0.0.1:8000/v1" }],
    [
      "Google's keys are for both of its services",
      { API_KEYS: "AIza1", TARGET_BASE_URL: "https://us-aiplatform.googleapis.com/v1" },
    ],
    ["a bare sk- is in use at many", { API_KEYS: "sk-1", PROVIDER: "deepseek" }],
    ["an unknown beginning is nobody's", { API_KEYS: "abc123", PROVIDER: "mistral" }],
    ["its own company takes it", { API_KEYS: "sk-or-1", TARGET_BASE_URL: "https://openrouter.ai/api/v1" }],
  ];
  test.each(fine)("is not seen where %s", (_, environment) => {
    expect(problemsOf(environment)).toEqual([]);
  });
});

describe("a named provider", () => {
  const shapeOf = ({ providers }: Config) => providers.map(({ name, dialect }) => `${name}:${dialect}`);

  test("comes after the default, in the order of environment and file", () => {
    const config = configOf({ GROQ_API_KEYS: "g1" }, { OPENAI_API_KEYS: "o1", GROQ_API_KEYS: "g2" });
    expect(shapeOf(config)).toEqual(["default:nvidia", "groq:groq", "openai:openai"]);
    expect(poolOf(config, 1)).toEqual([["g1", null, null]]);
  });

  test("is the default, under its own name, where there is no API_KEYS", () => {
    const config = configOf({ API_KEYS: "", GROQ_API_KEYS: "g1", OPENAI_API_KEYS: "o1" });
    expect(shapeOf(config)).toEqual(["groq:groq", "openai:openai"]);
  });

  test("needs nothing but keys where the catalogue has its address", () => {
    for (const dialect of DIALECTS.filter((dialect) => defaultBaseUrl(dialect) !== null)) {
      const config = configOf({ API_KEYS: "", [`${dialect.toUpperCase()}_API_KEYS`]: "k1" });
      expect(shapeOf(config)).toEqual([`${dialect}:${dialect}`]);
      expect(config.providers[0].baseUrl.href).toStartWith(defaultBaseUrl(dialect) ?? "");
    }
  });

  test("may have any name when its address is given", () => {
    const config = configOf({ MY_CORP_API_KEYS: "c1", MY_CORP_BASE_URL: "https://llm.corp.example/v1" });
    expect(shapeOf(config)).toEqual(["default:nvidia", "my_corp:generic"]);
  });

  test("may have any name when its catalogue entry is given", () => {
    const config = configOf({ WORK_API_KEYS: "c1", WORK_PROVIDER: "groq" });
    expect(shapeOf(config)).toEqual(["default:nvidia", "work:groq"]);
    expect(config.providers[1]?.baseUrl.href).toBe("https://api.groq.com/openai/v1");
  });

  test("speaks the dialect of its name at an address nobody knows", () => {
    const config = configOf({ OLLAMA_API_KEYS: "c1", OLLAMA_BASE_URL: "http://10.0.0.7:11434/v1" });
    expect(shapeOf(config)).toEqual(["default:nvidia", "ollama:ollama"]);
  });

  test("has settings of its own, else those of all, else the defaults", () => {
    const [own, groq] = configOf({
      GROQ_API_KEYS: "g1",
      RPM: "40",
      DAILY_LIMIT: "50",
      COOLDOWN_SEC: "5",
      GROQ_RPM: "off",
      GROQ_DAILY_LIMIT: "off",
      GROQ_TIMEZONE: "america/los_angeles",
      GROQ_RETRY_STATUS: "429",
      GROQ_DISABLED: "true",
    }).providers;
    expect(own).toMatchObject({ rpm: 40, dailyLimit: 50, cooldownMs: 5000, timezone: null, disabled: false });
    expect(groq).toMatchObject({
      rpm: "off",
      dailyLimit: null,
      cooldownMs: 5000,
      timezone: "America/Los_Angeles",
      disabled: true,
    });
    expect([...(groq?.retryStatus ?? [])]).toEqual([429]);
  });

  const faults: [says: string, environment: Variables, problem: string][] = [
    [
      "a name without an address",
      { GROK_API_KEYS: "g1" },
      "GROK_BASE_URL is not set, and grok is not in the catalogue of providers. Set GROK_BASE_URL to its address, or remove GROK_API_KEYS. Or is GROQ_API_KEYS meant?",
    ],
    ["what should be the clients' key", { PROXY_API_KEYS: "p1" }, "Or is PROXY_API_KEY meant?"],
    [
      "a reserved name",
      { ADMIN_API_KEYS: "a1" },
      "ADMIN_API_KEYS names a provider that cannot be: the path /admin/ is taken.",
    ],
    [
      "a name whose setting means something else",
      { MAX_API_KEYS: "a1" },
      "MAX_COOLDOWN_SEC is a setting of its own",
    ],
    [
      "a bad switch",
      { GROQ_API_KEYS: "g1", GROQ_DISABLED: "perhaps" },
      "GROQ_DISABLED is perhaps. Use true or false, or remove it.",
    ],
    [
      "a bad setting",
      { GROQ_API_KEYS: "g1", GROQ_RPM: "0" },
      "GROQ_RPM is 0. Use a whole number from 1 to 100000, auto or off, or remove it",
    ],
  ];
  test.each(faults)("is refused for %s", (_, environment, problem) => {
    expect(problemsOf({ API_KEYS: "k1", ...environment })).toEqual([expect.stringContaining(problem)]);
  });
});

describe("a strategy", () => {
  test.each(["round-robin", "sticky", "lru", "quota", "Affinity"])("may be %s", (strategy) => {
    expect(configOf({ STRATEGY: strategy }).providers[0].strategy as string).toBe(strategy.toLowerCase());
  });
});

describe("STATE", () => {
  const table: [says: string, environment: Variables, statePath: string | null][] = [
    ["is a file in the working directory", {}, "keywheel.db"],
    ["is off", { STATE: "OFF" }, null],
    ["is a path of your own", { STATE: "/srv/k.db" }, "/srv/k.db"],
    ["is in the directory that systemd gives", { STATE_DIRECTORY: "/var/lib/k" }, "/var/lib/k/keywheel.db"],
    ["is in the first of several", { STATE_DIRECTORY: "/var/lib/k:/var/lib/l" }, "/var/lib/k/keywheel.db"],
    ["has its own name there", { STATE_DIRECTORY: "/var/lib/k/", STATE: "./s.db" }, "/var/lib/k/s.db"],
    ["is elsewhere in spite of it", { STATE_DIRECTORY: "/var/lib/k", STATE: "/srv/k.db" }, "/srv/k.db"],
    ["is off in spite of it", { STATE_DIRECTORY: "/var/lib/k", STATE: "off" }, null],
    ["is not led astray by an empty one", { STATE_DIRECTORY: " " }, "keywheel.db"],
  ];
  test.each(table)("%s", (_, environment, statePath) => {
    expect(configOf(environment).statePath).toBe(statePath);
  });

  test("takes STATE_DIRECTORY from systemd only, not from the file", () => {
    expect(configOf({}, { STATE_DIRECTORY: "/elsewhere" }).statePath).toBe("keywheel.db");
  });

  const faults: [says: string, text: string, problem: string][] = [
    [
      "another server",
      "mysql://h/x",
      "STATE is mysql://h/x. Use the path of a file, such as ./keywheel.db, or off",
    ],
    ["a directory", "/var/lib/k/", "STATE is /var/lib/k/. Use the path of a file"],
    ["a key", "nvapi-canary0123456789", "STATE is [hidden: it looks like a key]. Use the path of a file"],
  ];
  test.each(faults)("is refused for %s", (_, text, problem) => {
    const problems = problemsOf({ API_KEYS: "k1", STATE: text });
    expect(problems).toEqual([expect.stringContaining(problem)]);
    expect(problems.join()).not.toContain("canary");
  });
});

describe("ADMIN_PASSWORD", () => {
  test("is a secret of any characters that can be typed", () => {
    const { adminPassword } = configOf({ ADMIN_PASSWORD: "pässword with <blanks> & signs" });
    expect(adminPassword?.reveal()).toBe("pässword with <blanks> & signs");
  });

  const faults: [says: string, text: string, problem: string][] = [
    ["fewer than 8 characters", "canary7", "is shorter than 8 characters and can be guessed."],
    ["fewer than 8 letters of many bytes", "ääää模型", "is shorter than 8 characters"],
    ["a control character", "canary\x07canary", "holds a control character."],
    ["an example", "change-me!", "is one that everybody would try."],
    ["a word that is none", "Password123", "is one that everybody would try."],
    ["one letter again and again", "aaaaaaaa", "is one that everybody would try."],
    ["a pool key", "canary-pool", "is one of the pool's own keys."],
    ["a key of a named provider", "canary-groq", "is one of the pool's own keys."],
    ["a client's key", "canary-client", "is one of the keys in PROXY_API_KEY."],
  ];
  test.each(faults)("is refused for %s, and not shown", (_, text, problem) => {
    const problems = problemsOf({
      API_KEYS: "k1,canary-pool",
      GROQ_API_KEYS: "canary-groq",
      PROXY_API_KEY: "c1=canary-client",
      ADMIN_PASSWORD: text,
    });
    expect(problems).toEqual([expect.stringContaining(`ADMIN_PASSWORD ${problem}`)]);
    expect(problems[0]).toEndWith(", or remove it for no /admin.");
    expect(problems.join()).not.toContain(text);
  });
});

describe("WEBHOOK_URL", () => {
  test("is a secret address", () => {
    const { webhookUrl } = configOf({ WEBHOOK_URL: "https://hooks.example/services/T0/canary?x=1" });
    expect(webhookUrl?.reveal()).toBe("https://hooks.example/services/T0/canary?x=1");
  });

  const faults: [says: string, text: string][] = [
    ["no scheme", "hooks.example/canary"],
    ["another scheme", "ftp://hooks.example/canary"],
    ["no host", "https:///canary"],
    ["a placeholder", "https://hooks.example/<canary>"],
    ["one in dots", "https://canary.example/services/..."],
    ["a space", "https://hooks.example/a canary"],
  ];
  test.each(faults)("is refused for %s, and not shown", (_, text) => {
    const problems = problemsOf({ API_KEYS: "k1", WEBHOOK_URL: text });
    expect(problems).toEqual([
      "WEBHOOK_URL is not a web address. Use an address that begins with https:// or http://, or remove it.",
    ]);
  });
});

describe("ROUTES and FALLBACK", () => {
  test("name the providers that are configured", () => {
    const { routes, fallback } = configOf({
      GROQ_API_KEYS: "g1",
      ROUTES: "fast = groq/llama > default/meta/llama-3",
      FALLBACK: "groq",
    });
    expect(routes).toEqual([
      {
        name: "fast",
        isPattern: false,
        targets: [
          { provider: "groq", model: "llama" },
          { provider: "default", model: "meta/llama-3" },
        ],
      },
    ]);
    expect(fallback).toEqual([{ provider: "groq", model: null }]);
  });

  test("call a named provider the default one where there is no other", () => {
    const { routes, fallback } = configOf({
      API_KEYS: "",
      GROQ_API_KEYS: "g1",
      ROUTES: "a = default/x > groq/y",
      FALLBACK: "default/z",
    });
    expect(routes[0]?.targets.map(({ provider }) => provider)).toEqual(["groq", "groq"]);
    expect(fallback).toEqual([{ provider: "groq", model: "z" }]);
  });

  test("may stand on several lines of the file", () => {
    const { values } = parseEnvFile(
      'API_KEYS=k1\nROUTES="\n  a = default/x\n    > default/y;\n  b = default/z\n"\n',
    );
    const parsed = parseConfig({}, values);
    expect(parsed.ok && parsed.config.routes.map(({ name, targets }) => [name, targets.length])).toEqual([
      ["a", 2],
      ["b", 1],
    ]);
  });

  test("stand in the banner, and no secret does", () => {
    const config = configOf({
      GROQ_API_KEYS: "g1",
      ROUTES: "fast = groq/x; smart = default/y",
      FALLBACK: "groq/z > groq",
      ADMIN_PASSWORD: "canary-password",
      WEBHOOK_URL: "https://hooks.example/canary",
    });
    const text = banner(config, { version: "1", url: "http://127.0.0.1:3000", envFile: null, addresses: [] });
    expect(text).toContain("\n  routes     fast, smart\n  fallback   groq/z > groq\n");
    expect(text).not.toContain("canary");
  });

  test("are not blamed for a provider that has a mistake of its own", () => {
    const problems = problemsOf({
      API_KEYS: "k1",
      GROK_API_KEYS: "g1",
      ROUTES: "a = grok/x",
      FALLBACK: "grok",
    });
    expect(problems).toEqual([expect.stringContaining("GROK_BASE_URL is not set")]);
  });

  test("have their mistakes reported together with all others", () => {
    const problems = problemsOf({ API_KEYS: "k1", ROUTES: "a = b/c", FALLBACK: ">", LOG_LEVEL: "x" });
    expect(problems.map((line) => line.split(/[: ]/)[0])).toEqual(["LOG_LEVEL", "ROUTES", "FALLBACK"]);
  });

  test("tell of a target that is switched off", () => {
    const environment = { API_KEYS: "k1", GROQ_API_KEYS: "g1", GROQ_DISABLED: "true" };
    expect(warningsOf({ ...environment, ROUTES: "a = groq/x > default/y", FALLBACK: "groq" })).toEqual([
      "ROUTES: the route a leads to groq, which is switched off: that target is skipped.",
      "FALLBACK leads to groq, which is switched off: that target is skipped.",
    ]);
  });
});

describe("a mistake", () => {
  const table: [says: string, environment: Variables, problem: string][] = [
    [
      "too few attempts",
      { MAX_ATTEMPTS: "0" },
      "MAX_ATTEMPTS is 0. Use a whole number from 1 up, or remove it for the default, 10.",
    ],
    [
      "seconds with a unit",
      { COOLDOWN_SEC: "60s" },
      "COOLDOWN_SEC is 60s. Use seconds from 0 up, such as 60 or 0.5, without a unit, or remove it for the default, 60.",
    ],
    ["negative seconds", { DRAIN_SEC: "-1" }, "DRAIN_SEC is -1. Use seconds from 0 up"],
    [
      "more seconds than a date can hold",
      { MAX_COOLDOWN_SEC: "99999999999" },
      "MAX_COOLDOWN_SEC is 99999999999.",
    ],
    [
      "a port that is none",
      { PORT: "65536" },
      "PORT is 65536. Use a whole number from 0 to 65535, or remove it for the default, 3000.",
    ],
    [
      "a host with a port",
      { HOST: "127.0.0.1:80" },
      "HOST is 127.0.0.1:80. Use an address or a host name without scheme and port",
    ],
    ["a relative socket", { HOST: "unix:k.sock" }, "HOST is unix:k.sock."],
    [
      "a zone that is none",
      { TIMEZONE: "Mars/Olympus" },
      "TIMEZONE is Mars/Olympus. Use the name of an IANA time zone",
    ],
    [
      "a status that is no error",
      { EXHAUSTED_STATUS: "200" },
      "EXHAUSTED_STATUS is 200. Use a whole number from 400 to 599",
    ],
    ["a list that is none", { RETRY_STATUS: "5xx" }, "RETRY_STATUS is 5xx. Use statuses and ranges"],
    [
      "a strategy that is none",
      { STRATEGY: "random" },
      "STRATEGY is random. Use round-robin, sticky, lru, quota or affinity, or remove it",
    ],
    [
      "an origin with a path",
      { CORS_ORIGINS: "https://a.example/app" },
      "CORS_ORIGINS is https://a.example/app. Use origins",
    ],
    [
      "an origin with a wildcard",
      { CORS_ORIGINS: "https://*.a.example" },
      "CORS_ORIGINS is https://*.a.example.",
    ],
    ["a space in a number", { MAX_IN_FLIGHT: "1 000" }, 'MAX_IN_FLIGHT is "1 000".'],
    ["more requests a minute than can be counted", { RPM: "100001" }, "RPM is 100001. Use a whole number"],
    ["a log that is kept for no day", { LOG_RETENTION_DAYS: "0" }, "LOG_RETENTION_DAYS is 0. Use a whole"],
    ["a log that goes to a server", { LOG_DIR: "https://a.example/x" }, "LOG_DIR is https://a.example/x."],
    ["a body of nothing", { MAX_BODY_MB: "0" }, "MAX_BODY_MB is 0. Use megabytes, more than 0"],
  ];
  test.each(table)("is named: %s", (_, environment, problem) => {
    expect(problemsOf({ API_KEYS: "k1", ...environment })).toEqual([expect.stringContaining(problem)]);
  });

  test("is reported together with all others", () => {
    const problems = problemsOf({
      PORT: "x",
      RPM: "x",
      GROQ_API_KEYS: "g1",
      LOG_LEVEL: "x",
      API_KEYS: "<key>",
    });
    expect(problems.map((line) => line.split(" ")[0])).toEqual(["PORT", "API_KEYS:", "RPM", "LOG_LEVEL"]);
    for (const line of problems) expect(line).not.toContain("\n");
  });

  test("of having no key at all says how to go on", () => {
    const [problem = "", ...others] = problemsOf({ PATH: "/bin" });
    expect(others).toEqual([]);
    expect(problem).toContain("API_KEYS=");
    expect(problem).toContain("keywheel --demo");
  });

  test("never shows a key, wherever it was put", () => {
    const key = "nvapi-canary0123456789abcdef";
    const names = Object.keys(SETTINGS).flatMap((name) => [name, `GROQ_${name}`]);
    for (const name of [...names, "GROQ_BASE_URL", "GROQ_DISABLED", "PROT", "API_KEY"]) {
      for (const value of [key, `${key} ${key}é`, `https://${key}@x/?k=${key}`, `unix:${key}`, `"${key}"`]) {
        const environment = { GROQ_API_KEYS: "g1", [name]: value };
        for (const parsed of [
          parseConfig(environment),
          parseConfig({}, new Map(Object.entries(environment))),
        ]) {
          const said = [...parsed.warnings, ...(parsed.ok ? [] : parsed.problems)];
          expect(said.join("\n")).not.toContain("canary");
        }
      }
    }
  });
});

describe("a warning", () => {
  const doubtful: [says: string, environment: Variables, warnings: string[]][] = [
    ["is not needed for a strategy", { STRATEGY: "sticky", GROQ_API_KEYS: "g1", GROQ_STRATEGY: "lru" }, []],
    [
      "tells of a buffer that is too small",
      { MAX_BUFFERED_MB: "1" },
      [
        "MAX_BUFFERED_MB is less than MAX_BODY_MB: a body between the two is always refused. Raise the one or lower the other.",
      ],
    ],
  ];
  test.each(doubtful)("%s", (_, environment, warnings) => {
    expect(warningsOf({ API_KEYS: "k1", ...environment })).toEqual(warnings);
  });

  const plain: [url: string, isTold: boolean][] = [
    ["http://10.0.0.7:8000/v1", true],
    ["http://models.lan/v1", true],
    ["https://10.0.0.7/v1", false],
    ["http://localhost:8000/v1", false],
    ["http://127.1.2.3:8000/v1", false],
    ["http://[::1]:8000/v1", false],
  ];
  test.each(plain)("about keys that go unencrypted to %s: %p", (url, isTold) => {
    const told = [expect.stringContaining("TARGET_BASE_URL begins with http://")];
    expect(warningsOf({ API_KEYS: "k1", TARGET_BASE_URL: url })).toEqual(isTold ? told : []);
  });

  test("tells of a star for origins when nobody is asked for a key", () => {
    expect(warningsOf({ API_KEYS: "k1", CORS_ORIGINS: "*" })).toEqual([
      expect.stringContaining("every web page"),
    ]);
    expect(warningsOf({ API_KEYS: "k1", CORS_ORIGINS: "*", PROXY_API_KEY: "long-enough" })).toEqual([]);
  });

  test("tells of an address that belongs to nobody", () => {
    expect(warningsOf({ GROQ_API_KEYS: "k1", TARGET_BASE_URL: "https://a.example" })).toEqual([
      "TARGET_BASE_URL has no effect without API_KEYS: the first named provider is the default.",
    ]);
  });

  /** `null`: nothing is said. */
  const names: [written: string, inFile: string | null, inEnvironment: string | null][] = [
    ["API_KEY", "API_KEYS", "API_KEYS"],
    ["APIKEYS", "API_KEYS", "API_KEYS"],
    ["api-keys", "API_KEYS", "API_KEYS"],
    ["TARGET_BASEURL", "TARGET_BASE_URL", "TARGET_BASE_URL"],
    ["TRAGET_BASE_URL", "TARGET_BASE_URL", "TARGET_BASE_URL"],
    ["MAX_ATEMPS", "MAX_ATTEMPTS", null],
    ["PROT", "PORT", "PORT"],
    ["GROQ_RMP", "GROQ_RPM", "GROQ_RPM"],
    ["GROQ_DAILY_LIMITS", "GROQ_DAILY_LIMIT", "GROQ_DAILY_LIMIT"],
    ["OPENAI_API_KEY", "OPENAI_API_KEYS", null],
    ["OPENAI_BASE_URL", null, null],
    ["STAGE", null, null],
    ["LOGLEVEL", "LOG_LEVEL", null],
    ["port", "PORT", null],
    ["PATH", null, null],
    ["HOME", null, null],
    ["HOSTNAME", null, null],
    ["NODE_ENV", null, null],
    ["DATABASE_URL", null, null],
    ["STATE_DIRECTORY", null, null],
    ["constructor", null, null],
  ];
  test.each(names)(
    "about %s names %p in the file and %p in the environment",
    (written, inFile, inEnvironment) => {
      const said = (meant: string | null) =>
        meant === null ? [] : [`${written} is not a setting and has no effect. Did you mean ${meant}?`];
      expect(warningsOf({ GROQ_API_KEYS: "g1" }, { [written]: "x" })).toEqual(said(inFile));
      expect(warningsOf({ GROQ_API_KEYS: "g1", [written]: "x" })).toEqual(said(inEnvironment));
    },
  );

  test("about API_KEY is not given in the environment where API_KEYS is set", () => {
    expect(warningsOf({ API_KEYS: "k1", API_KEY: "x" })).toEqual([]);
  });
});

describe("the files", () => {
  let root = "";
  const at = (...parts: string[]) => join(root, ...parts);
  beforeAll(() => {
    root = mkdtempSync(join(tmpdir(), "keywheel-config-"));
    for (const folder of ["both", "program", "bare", "folder/.env"])
      mkdirSync(at(folder), { recursive: true });
    writeFileSync(at("both/.env"), "API_KEYS=here\nAPI_KEYS_FILE=keys\nMAX_WAIT_SEC=7");
    writeFileSync(at("both/keys"), "more\n");
    writeFileSync(at("both/other.env"), "API_KEYS=other");
    writeFileSync(at("both/bad.env"), "API_KEYS=nvapi-1\ncanary\nPORT=x\nPORT=y", { mode: 0o600 });
    writeFileSync(at("program/.env"), "API_KEYS=beside");
  });
  afterAll(() => rmSync(root, { recursive: true }));

  const load = (workingDirectory: string, envFile: string | null = null, environment: Variables = {}) =>
    loadConfig({
      environment,
      envFile,
      workingDirectory: at(workingDirectory),
      programDirectory: at("program"),
    });
  const keysOf = (loaded: Awaited<ReturnType<typeof load>>) =>
    loaded.ok ? poolOf(loaded.config).map(([key]) => key) : [];

  test("are .env of the working directory, and the key files it names", async () => {
    const loaded = await load("both");
    expect(keysOf(loaded)).toEqual(["here", "more"]);
    expect(loaded.envFile).toBe(at("both/.env"));
    expect(loaded.watched).toEqual([at("both/.env"), at("both/keys")]);
  });

  test("are else .env beside the executable, and the other is waited for", async () => {
    const loaded = await load("bare");
    expect(keysOf(loaded)).toEqual(["beside"]);
    expect(loaded.watched).toEqual([at("bare/.env"), at("program/.env")]);
  });

  test("are else those of the installed service", async () => {
    const found = {
      environment: {},
      envFile: null,
      workingDirectory: at("bare"),
      programDirectory: at("bare"),
    };
    const loaded = await loadConfig({ ...found, systemEnvFile: at("both/.env") });
    expect(loaded.ok ? [] : loaded.problems).toEqual([expect.stringContaining("API_KEYS_FILE is keys")]);
    expect(loaded.watched.slice(0, 2)).toEqual([at("bare/.env"), at("both/.env")]);
    const nearer = await loadConfig({
      ...found,
      programDirectory: at("program"),
      systemEnvFile: at("both/.env"),
    });
    expect(keysOf(nearer)).toEqual(["beside"]);
    const named = await loadConfig({
      ...found,
      envFile: at("both/other.env"),
      systemEnvFile: at("both/.env"),
    });
    expect(keysOf(named)).toEqual(["other"]);
  });

  test("of the installed service that may not be read are a problem only where the keys are not known", async () => {
    const systemEnvFile = at("secret.env");
    writeFileSync(systemEnvFile, "API_KEYS=nvapi-1", { mode: 0o000 });
    const found = {
      envFile: null,
      workingDirectory: at("bare"),
      programDirectory: at("bare"),
      systemEnvFile,
    };
    const text = spyOn(Bun, "file").mockImplementation(((path: string) => ({
      text: () =>
        Promise.reject(
          Object.assign(new Error(path), { code: path === systemEnvFile ? "EACCES" : "ENOENT" }),
        ),
    })) as unknown as typeof Bun.file);
    try {
      const alone = await loadConfig({ ...found, environment: {} });
      expect(alone.ok ? [] : alone.problems).toEqual([
        `${systemEnvFile}: it may not be read. It holds the settings of the installed service: use sudo, or name another file with --env-file PATH.`,
      ]);
      const other = await loadConfig({ ...found, environment: { API_KEYS: "nvapi-2" } });
      expect(keysOf(other)).toEqual(["nvapi-2"]);
    } finally {
      text.mockRestore();
    }
  });

  test("are warned of where everybody may read them", async () => {
    for (const [mode, warnings] of [
      [0o600, 0],
      [0o640, 0],
      [0o644, 1],
      [0o604, 1],
    ] as const) {
      const path = at(`mode-${mode}.env`);
      writeFileSync(path, "API_KEYS=nvapi-1");
      chmodSync(path, mode);
      const loaded = await load("bare", path);
      expect(loaded.warnings).toHaveLength(warnings);
      if (warnings > 0) expect(loaded.warnings[0]).toEndWith(`chmod 600 ${path}`);
    }
  });

  test("are not warned of where it is a device, which keeps nothing", async () => {
    const loaded = await loadConfig({
      environment: { API_KEYS: "nvapi-1" },
      envFile: "/dev/null",
      workingDirectory: "/",
      programDirectory: "/",
    });
    expect(loaded).toMatchObject({ ok: true, warnings: [] });
  });

  const certificates: [says: string, text: string | null, problem: string | null][] = [
    ["are fine", "# ours\n-----BEGIN CERTIFICATE-----\nAA==\n", null],
    ["have to be there", null, "there is no such file"],
    ["have to hold one", "canary", "it holds no certificate"],
  ];
  test.each(certificates)("with certificates %s", async (_, text, problem) => {
    const path = at(`ca-${text?.length}.pem`);
    if (text !== null) writeFileSync(path, text);
    writeFileSync(at("ca.env"), `API_KEYS=nvapi-1\nNODE_EXTRA_CA_CERTS=${path}\n`, { mode: 0o600 });
    const loaded = await load("bare", at("ca.env"));
    expect(loaded.ok && loaded.config.certificateFiles).toEqual(problem === null && [path]);
    expect(loaded.ok ? [] : loaded.problems).toEqual(
      problem === null ? [] : [expect.stringContaining(`NODE_EXTRA_CA_CERTS is ${path}: ${problem}`)],
    );
    const places = { envFile: at("ca.env"), workingDirectory: at("bare"), programDirectory: at("bare") };
    expect([...(await certificateFiles({ ...places, environment: {} }))]).toEqual([
      ["NODE_EXTRA_CA_CERTS", path],
    ]);
    expect((await certificateFiles({ ...places, environment: { NODE_EXTRA_CA_CERTS: "/x" } })).size).toBe(0);
  });

  test("are only the one that is named", async () => {
    expect(keysOf(await load("both", "other.env"))).toEqual(["other"]);
  });

  test("are not needed where the environment says everything", async () => {
    const loaded = await loadConfig({
      environment: { API_KEYS: "real" },
      envFile: null,
      workingDirectory: at("bare"),
      programDirectory: at("bare"),
    });
    expect([keysOf(loaded), loaded.envFile]).toEqual([["real"], null]);
  });

  test("lose against the environment", async () => {
    const loaded = await load("both", null, { API_KEYS: "real", MAX_WAIT_SEC: "1" });
    expect(keysOf(loaded)).toEqual(["real", "more"]);
    expect(loaded.ok && loaded.config.maxWaitMs).toBe(1000);
  });

  test("are a problem when the named one is missing, or .env is a directory", async () => {
    const missing = await load("both", "none.env");
    expect(missing.ok ? [] : missing.problems).toEqual([
      `${at("both/none.env")}: there is no such file. Correct the path or the file's permissions.`,
    ]);
    const folder = await load("folder");
    expect(folder.ok ? [] : folder.problems).toEqual([expect.stringContaining("it is a directory")]);
  });

  test("have all their mistakes reported at once, with the path", async () => {
    const loaded = await load("both", "bad.env");
    expect(loaded.ok ? [] : loaded.problems).toEqual([
      expect.stringContaining(`${at("both/bad.env")}: Line 2 is not NAME=value.`),
      expect.stringContaining("PORT is y."),
    ]);
    expect(loaded.warnings).toEqual([
      expect.stringContaining("bad.env: Line 4 sets PORT again, after line 3."),
    ]);
  });
});

describe(".env.example", () => {
  const text = readFileSync(join(import.meta.dir, "..", "..", ".env.example"), "utf8");
  const uncommented = text.replace(/^# (?=[A-Z][A-Z0-9_]*=)/gm, "");
  const { values, problems, warnings } = parseEnvFile(uncommented);

  test("sets nothing as it stands", () => {
    expect([...parseEnvFile(text).values]).toEqual([]);
  });

  test("works once API_KEYS is uncommented", () => {
    const file = parseEnvFile(text.replace("# API_KEYS=", "API_KEYS="));
    expect(parseConfig({}, file.values)).toMatchObject({ ok: true, warnings: [] });
  });

  test("names every setting once, with a provider groq as the example, and nothing else", () => {
    const named = PROVIDER_SETTINGS.map((setting) => `GROQ_${setting}`);
    expect([...values.keys()].sort()).toEqual([...Object.keys(SETTINGS), ...named].sort());
    expect([problems, warnings]).toEqual([[], []]);
  });

  test("states the defaults", () => {
    const stated = [...values].filter(([name]) => name !== "API_KEYS" && !name.startsWith("GROQ_"));
    expect(Object.fromEntries(stated)).toEqual(
      Object.fromEntries(
        Object.entries(SETTINGS)
          .filter(([name]) => name !== "API_KEYS")
          .map(([name, fallback]) => [name, fallback ?? ""]),
      ),
    );
  });

  test("uncommented as a whole is the default configuration", () => {
    const parsed = parseConfig({}, values);
    const plain = configOf({
      API_KEYS: values.get("API_KEYS") ?? "",
      GROQ_API_KEYS: values.get("GROQ_API_KEYS") ?? "",
    });
    // Nothing has to be told by the keys where the address is written.
    plain.providers[0].recognisedBy = null;
    // Without the setting the number of attempts grows with the number of keys; with it, it is binding.
    expect(parsed).toMatchObject({ ok: true, config: { ...plain, maxAttempts: 10 } });
  });
});

describe("docs/settings.md", () => {
  const text = readFileSync(join(import.meta.dir, "..", "..", "docs", "settings.md"), "utf8");
  /** `- **\`RPM\`** (\`auto\`): …` to its name and what stands between the brackets. */
  const described = [...text.matchAll(/^- \*\*`([A-Z0-9_]+)`\*\* \(((?:[^()]|\([^()]*\))*)\): \S/gm)].map(
    ([, name = "", brackets = ""]): [string, string] => [name, brackets.replace(/\s+/g, " ")],
  );

  test("describes every setting once, with a provider groq as the example, and nothing else", () => {
    const named = PROVIDER_SETTINGS.map((setting) => `GROQ_${setting}`);
    expect(described.map(([name]) => name).sort()).toEqual([...Object.keys(SETTINGS), ...named].sort());
  });

  test("states the defaults", () => {
    const defaults = Object.entries(SETTINGS).filter(([, fallback]) => fallback !== null);
    const stated = new Map(described);
    expect(defaults.map(([name]) => [name, stated.get(name)])).toEqual(
      defaults.map(([name, fallback]) => [name, `\`${fallback}\``]),
    );
  });

  test("gives no default where there is none", () => {
    const without = new Set(
      Object.entries(SETTINGS).flatMap(([name, fallback]) => (fallback === null ? [name] : [])),
    );
    const invented = described.filter(([name, brackets]) => without.has(name) && /^`[^`]*`$/.test(brackets));
    expect(invented).toEqual([]);
  });

  test("names every provider that PROVIDER may be", () => {
    const missing = DIALECTS.filter((dialect) => !text.includes(`\`${dialect}\``));
    expect(missing).toEqual([]);
  });
});
