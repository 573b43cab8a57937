/**
 * The keys that the prober asks after, where they are: in the pools of the providers.
 */
import type { CheckedKey } from "./key-health.ts";
import type { Clock } from "../core/clock.ts";
import type { ProviderConfig } from "../config/config.ts";
import type { Key } from "./key.ts";
import type { Patients } from "./prober.ts";
import type { KeyEvent } from "../core/events.ts";
import { probeFor } from "../providers/catalog.ts";
import type { Probe } from "../providers/catalog.ts";

/** A provider and its keys. */
export interface Ward {
  readonly config: ProviderConfig;
  readonly pool: {
    readonly keys: readonly Key[];
    revive(key: Key, now: number): void;
    disable(key: Key, said: string, now: number): void;
  };
}

/** What asks the questions. */
interface Doctor {
  readonly fetch: (url: string, init: BunFetchRequestInit) => Promise<Response>;
  readonly clock: Clock;
}

/** The keys of these providers, as the prober needs them; a reload may put others into the place of `wards`. */
export function patientsOf(wards: () => readonly Ward[], { fetch, clock }: Doctor): Patients {
  const wardOf = (provider: string) => wards().find(({ config }) => config.name === provider);
  const withKey = (provider: string, keyId: string, action: (pool: Ward["pool"], key: Key) => void) => {
    const pool = wardOf(provider)?.pool;
    const key = pool?.keys.find(({ secret }) => secret.id === keyId);
    if (pool !== undefined && key !== undefined) action(pool, key);
  };
  return {
    ask: (provider, keyId) => askAfter(wardOf(provider), keyId, { fetch, clock }),
    tellsBalance: (provider) => probeOf(wardOf(provider))?.proves === "balance",
    revive: (provider, keyId) => withKey(provider, keyId, (pool, key) => pool.revive(key, clock.now())),
    bury: (provider, keyId, said) =>
      withKey(provider, keyId, (pool, key) => pool.disable(key, said, clock.now())),
  };
}

/** The cheapest proof of a provider's keys; null: there is none that is free and certain. */
function probeOf(ward: Ward | undefined): Probe | null {
  return ward === undefined ? null : probeFor(ward.config.dialect, ward.config.baseUrl);
}

/** Asks the provider about one of its keys, outside of any request; null: there is nothing to ask, or nobody. */
async function askAfter(
  ward: Ward | undefined,
  keyId: string,
  { fetch, clock }: Doctor,
): Promise<Pick<CheckedKey, "standing" | "detail"> | null> {
  const key = ward?.config.keys.find(({ secret }) => secret.id === keyId);
  if (ward === undefined || key === undefined || probeOf(ward) === null) return null;
  const { checkKeys } = await import("./key-health.ts");
  const [checked] = await checkKeys([{ ...ward.config, keys: [key] }], { fetch, clock, onProgress() {} });
  return checked ?? null;
}

/** What an earlier run found dead, as if it had been found so now. */
export function deathsOf(wards: readonly Ward[], at: number): KeyEvent[] {
  return wards.flatMap(({ config, pool }) =>
    pool.keys.flatMap(({ disabled, secret, account, index }): KeyEvent[] => {
      if (disabled === null) return [];
      const { reason, said } = disabled;
      const where = { provider: config.name, key: index, keyId: secret.id, account, model: null };
      return [{ kind: "disabled", at, ...where, reason, until: null, said }];
    }),
  );
}
