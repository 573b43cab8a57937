import { expect, test } from "bun:test";
import { Pool } from "../../proxy.ts";
import { parseConfig } from "../config/config.ts";
import { toAll } from "../core/events.ts";
import type { KeyEvent } from "../core/events.ts";
import { fingerprint, Secret } from "../core/secret.ts";
import { createLog, logObserver } from "../observability/log.ts";
import { Webhook } from "../observability/webhook.ts";
import type { Lease, Need } from "../pool/key.ts";
import type { Outcome, Verdict } from "../providers/verdict.ts";
import { FalseClock } from "./fixture.ts";

const SEC = 1000;
const MINUTE = 60 * SEC;
const SERVED: Verdict = { kind: "served" };
const BUSY: Verdict = {
  kind: "overloaded",
  scope: "provider",
  refusesAll: false,
  pauseMs: null,
  maybeBilled: false,
  said: "warming up",
};

function limitedFor(ms: number): Verdict {
  const pause = { kind: "for", ms } as const;
  return { kind: "rate_limited", scope: "key", pause, reason: "rate_limit", said: "slow down" };
}

function revoked(certain: boolean): Verdict {
  return { kind: "revoked", certain, said: "no such key" };
}

/** A pool of two keys, and everybody who reads its events as in the program. */
class Stand {
  readonly clock = new FalseClock();
  readonly events: KeyEvent[] = [];
  readonly posted: { title: string; events: { kind: string }[] }[] = [];
  readonly pool: Pool;
  readonly webhook: Webhook;
  #written = "";
  #arrival = 0;
  readonly #log = createLog({
    level: "debug",
    format: "json",
    clock: this.clock,
    write: (text) => (this.#written += text),
  });

  constructor() {
    const { clock } = this;
    const random = () => 0.5;
    const parsed = parseConfig({ API_KEYS: "ann@key-a-canary,key-b-canary", PROVIDER: "openai" });
    if (!parsed.ok) throw new Error(parsed.problems.join("\n"));
    const fetch = async (_: string, { body }: RequestInit) => {
      this.posted.push(JSON.parse(String(body)));
      return new Response("ok");
    };
    const url = new Secret("https://chat.example.com/hook/canary0123456789");
    this.webhook = new Webhook({ url, clock, random, fetch, log: this.#log });
    const recorder = { keyChanged: (event: KeyEvent) => void this.events.push(event) };
    const observer = toAll([logObserver(this.#log), this.webhook, recorder]);
    const [provider] = parsed.config.providers;
    this.pool = new Pool(provider, 24 * 60 * MINUTE, { clock, random, observer, keeper: null });
  }

  get firstKey() {
    return this.pool.keys[0]!;
  }

  get logged(): { event: string; level: string }[] {
    this.#log.flush();
    return this.#written.split("\n").flatMap((line) => (line === "" ? [] : [JSON.parse(line)]));
  }

  lease(): Lease {
    const result = this.pool.lease(this.#need(), this.clock.now());
    if (result.kind === "no_key") throw new Error(`no key: ${result.why}`);
    return result;
  }

  /** A request that waits for nothing. */
  asks(): void {
    void this.pool.acquire(this.#need());
  }

  attempt(outcome: Outcome): void {
    const lease = this.lease();
    if (outcome.kind === "served") this.pool.responseStarted(lease, outcome, this.clock.now(), null);
    this.pool.settle(lease, outcome, this.clock.now());
  }

  /** The first key is refused as invalid for a request that the second one then serves. */
  proveInvalid(): void {
    const need = this.#need();
    for (const outcome of [revoked(true), { kind: "served" }] satisfies Verdict[]) {
      const lease = this.pool.lease(need, this.clock.now());
      if (lease.kind === "no_key") throw new Error(`no key: ${lease.why}`);
      this.pool.settle(lease, outcome, this.clock.now());
    }
  }

  /** Fails at each chance for so long. */
  async failFor(durationMs: number): Promise<void> {
    const until = this.clock.now() + durationMs;
    for (let nth = 0; nth < 5; nth++) this.attempt(BUSY);
    while (this.clock.now() < until) {
      await this.clock.advance(Math.max(SEC, this.pool.pausedUntil - this.clock.now()));
      this.attempt(BUSY);
    }
  }

  #need(): Need {
    const arrival = this.#arrival++;
    return {
      arrival,
      waitUntil: this.clock.now(),
      deferredAt: 0,
      signal: new AbortController().signal,
      model: null,
      conversation: null,
      tried: new Set(),
      reuseAt: 0,
      unsuited: new Set(),
      isUncounted: false,
      boundTo: null,
    };
  }
}

const NAME = `Key ann@${fingerprint("key-a-canary")}`;

/** How a kind of event comes about, and what is read of it in the end. */
interface Case {
  happens(stand: Stand): void | Promise<void>;
  readonly line: [event: string, level: string];
  /** What the webhook says; null: nobody is told of this. */
  readonly told: string | null;
}

// A kind without a row does not compile.
const CASES: Record<KeyEvent["kind"], Case> = {
  cooled: {
    happens: (stand) => stand.attempt(limitedFor(5 * MINUTE)),
    line: ["key_cooled", "info"],
    told: null,
  },
  disabled: {
    happens: (stand) => stand.proveInvalid(),
    line: ["key_disabled", "warn"],
    told: `keywheel: ${NAME} of the default provider is out of use`,
  },
  doubted: {
    happens: (stand) => stand.attempt(revoked(false)),
    line: ["key_doubted", "warn"],
    told: null,
  },
  back: {
    async happens(stand) {
      stand.proveInvalid();
      await stand.clock.advance(MINUTE);
      stand.pool.revive(stand.firstKey, stand.clock.now());
    },
    line: ["key_back", "info"],
    told: `keywheel: ${NAME} of the default provider works again`,
  },
  paused_by_hand: {
    happens: ({ pool, firstKey, clock }) => pool.setPaused(firstKey, true, clock.now()),
    line: ["paused_by_hand", "info"],
    told: null,
  },
  resumed_by_hand: {
    happens({ pool, firstKey, clock }) {
      pool.setPaused(firstKey, true, clock.now());
      pool.setPaused(firstKey, false, clock.now());
    },
    line: ["resumed_by_hand", "info"],
    told: null,
  },
  provider_paused: {
    happens: (stand) => stand.failFor(2 * MINUTE),
    line: ["provider_paused", "warn"],
    told: "keywheel: the default provider is paused",
  },
  provider_up: {
    async happens(stand) {
      await stand.failFor(2 * MINUTE);
      await stand.clock.advance(MINUTE);
      stand.attempt(SERVED);
    },
    line: ["provider_up", "info"],
    told: "keywheel: the default provider is up again",
  },
  pool_dry: {
    happens(stand) {
      for (let nth = 0; nth < 2; nth++) stand.attempt(limitedFor(5 * MINUTE));
      stand.asks();
    },
    line: ["pool_dry", "warn"],
    told: "keywheel: No key of the default provider can serve",
  },
  pool_recovered: {
    async happens(stand) {
      for (let nth = 0; nth < 2; nth++) stand.attempt(limitedFor(5 * MINUTE));
      stand.asks();
      await stand.clock.advance(6 * MINUTE);
      stand.attempt(SERVED);
    },
    line: ["pool_recovered", "info"],
    told: "keywheel: the default provider serves again",
  },
};

test.each(Object.entries(CASES))(
  "%s is sent by the pool, logged, and told to those who want to know",
  async (kind, { happens, line, told }) => {
    const stand = new Stand();
    await happens(stand);
    const sent = stand.events.findLast((event) => event.kind === kind);
    expect(sent).toMatchObject({ provider: "default", kind });
    expect(sent?.at).toBeWithin(0, stand.clock.wall() + 1);
    expect(stand.logged.find(({ event }) => event === line[0])?.level).toBe(line[1]);
    await stand.clock.advance(2 * MINUTE); // until all messages are out
    const message = stand.posted.find(({ events }) => events.some((event) => event.kind === kind));
    expect(message?.title ?? null).toBe(told);
    stand.webhook.close();
    expect(JSON.stringify([stand.events, stand.posted, stand.logged])).not.toContain("canary");
  },
);

test.each<[sentence: string, outcome: Outcome]>([
  ["a good answer", SERVED],
  ["a request that it refuses", { kind: "rejected", said: "" }],
  ["a key that it refuses", revoked(true)],
  ["a limit that it names", limitedFor(SEC)],
  ["a model that it refuses to one key", { kind: "unsuited", scope: "key", said: "" }],
])("provider_up is sent once, when what comes after a pause is %s", async (_, outcome) => {
  const stand = new Stand();
  for (let nth = 0; nth < 5; nth++) stand.attempt(BUSY);
  await stand.clock.advance(2 * SEC);
  stand.attempt(outcome);
  stand.attempt(SERVED);
  const ofProvider = stand.events.filter(({ key }) => key === null);
  expect(ofProvider.map(({ kind }) => kind)).toEqual(["provider_paused", "provider_up"]);
});

test("a pause that is over, with nobody asking since, is told to nobody", async () => {
  const stand = new Stand();
  for (let nth = 0; nth < 5; nth++) stand.attempt(BUSY);
  await stand.clock.advance(10 * MINUTE);
  expect(stand.posted).toEqual([]);
  stand.attempt(SERVED);
  await stand.clock.advance(MINUTE);
  expect([stand.events.map(({ kind }) => kind), stand.posted]).toEqual([
    ["provider_paused", "provider_up"],
    [],
  ]);
});
