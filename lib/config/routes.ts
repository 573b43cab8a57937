/**
 * What `ROUTES` and `FALLBACK` say: model names of your own, each a chain of targets. Pure.
 *
 * `provider/model` is a target, `>` leads on to the next one, `;` ends a route. In the name of a route `*` stands for
 * any text, and a target whose model is `*` keeps the one that the client asked for. Only the first slash divides:
 * models have slashes of their own. White space around the signs means nothing; inside a name it is a sign that was
 * forgotten. Whatever is wrong is said at once, one line a mistake.
 */
import { shown } from "./key-shapes.ts";
import { isGlob } from "../core/glob.ts";
import { alternatives } from "./parsers.ts";

/** Where a request may go. */
export interface RouteTarget {
  /** Name of a configured provider, as in `ProviderConfig.name`. */
  provider: string;
  /** null: the model that the client asked for. */
  model: string | null;
}

/** A model name of the user's own. Its targets are tried in this order; there is at least one. */
export interface RouteRule {
  /** With `*` for any text where it is a pattern. */
  name: string;
  isPattern: boolean;
  targets: RouteTarget[];
}

/** What a target may name. */
export interface KnownProvider {
  name: string;
  disabled: boolean;
}

export interface RouteList {
  /** In the order in which they are looked for: plain names, then patterns, the longest first. */
  routes: RouteRule[];
  problems: string[];
  warnings: string[];
}

export interface TargetList {
  targets: RouteTarget[];
  problems: string[];
  warnings: string[];
}

/** Longer names are not looked at when a request asks for one. */
export const LONGEST_NAME = 200;

/** Reads `name = provider/model > provider/model; name2 = …`. The first of `providers` is the default one. */
export function parseRoutes(text: string, providers: readonly KnownProvider[]): RouteList {
  const list: RouteList = { routes: [], problems: [], warnings: [] };
  const names = new Set<string>();
  const written = text.split(";").filter((entry) => entry.trim() !== "");
  for (const [index, entry] of written.entries()) {
    const equals = entry.indexOf("=");
    const name = entry.slice(0, Math.max(0, equals)).trim();
    const fault = equals === -1 ? NO_NAME : faultOfName(name);
    if (fault !== null) {
      list.problems.push(`ROUTES: route ${index + 1} ${fault}`);
      continue;
    }
    const place = `ROUTES: the route ${shown(name)}`;
    if (names.has(name)) {
      list.problems.push(`${place} stands there twice. Write one chain of both, or rename one.`);
    }
    names.add(name);
    const chain = parseChain(place, entry.slice(equals + 1), providers);
    const problems = chain.problems.length > 0 ? chain.problems : withoutModel(place, chain.targets);
    list.problems.push(...problems);
    list.warnings.push(...chain.warnings);
    list.routes.push({ name, isPattern: isGlob(name), targets: chain.targets.map(withClientsModel) });
  }
  const rank = ({ name, isPattern }: RouteRule) => (isPattern ? -name.length : -Infinity);
  list.routes.sort((one, other) => (rank(one) === rank(other) ? 0 : rank(one) - rank(other)));
  if (written.length === 0) list.problems.push("ROUTES holds no route. Write one, or remove the setting.");
  return list;
}

/** Reads `provider/model > provider`. A target without a model keeps the one that the client asked for. */
export function parseFallback(text: string, providers: readonly KnownProvider[]): TargetList {
  const chain = parseChain("FALLBACK", text, providers);
  const list = { ...chain, targets: chain.targets.map(withClientsModel) };
  if (list.targets.some(({ provider, model }) => model === null && provider === providers[0]?.name)) {
    list.warnings.push(
      "FALLBACK leads back to the default provider with the same model, which changes nothing. Remove that target, or give it another model.",
    );
  }
  return list;
}

const NO_NAME = "has no name. Write name = provider/model, and ; between two routes.";

/** What is wrong with the name of a route, or null. */
function faultOfName(name: string): string | null {
  if (name === "") return NO_NAME;
  if (name.length > LONGEST_NAME) return `has a name of more than ${LONGEST_NAME} characters. Shorten it.`;
  if (!hasSigns(name)) return null;
  return "has a name that holds white space, a comma or a >. Write name = provider/model, and ; between two routes.";
}

/** Whether there is something in a name that tells of a sign forgotten or misplaced. */
function hasSigns(name: string): boolean {
  return /[\s,>\x00-\x1f\x7f]/.test(name);
}

/** `place` begins each problem and warning. */
function parseChain(place: string, text: string, providers: readonly KnownProvider[]): TargetList {
  const list: TargetList = { targets: [], problems: [], warnings: [] };
  if (text.trim() === "") {
    list.problems.push(`${place} leads nowhere. Write provider/model after it, or remove it.`);
    return list;
  }
  for (const written of text.split(">").map((target) => target.trim())) {
    const slash = written.indexOf("/");
    const name = (slash === -1 ? written : written.slice(0, slash)).trim();
    const model = slash === -1 ? null : written.slice(slash + 1).trim();
    const fault = faultOfTarget(written, name, model);
    if (fault !== null) {
      list.problems.push(`${place} ${fault}`);
      continue;
    }
    const provider = providerNamed(name, providers);
    if (provider === null) {
      list.problems.push(`${place} names the provider ${shown(name)}, ${whichThereAre(providers)}.`);
      continue;
    }
    if (provider.disabled) {
      list.warnings.push(
        `${place} leads to ${provider.name}, which is switched off: that target is skipped.`,
      );
    }
    list.targets.push({ provider: provider.name, model });
  }
  return list;
}

function faultOfTarget(written: string, name: string, model: string | null): string | null {
  if (written === "") return "has nothing before or after a >. Write a target there, or remove the >.";
  if (hasSigns(name) || hasSigns(model ?? "")) {
    return `has the target ${shown(written)}, in which there is white space or a comma. Write > between two targets, and ; between two routes.`;
  }
  if (name === "") return `has the target ${shown(written)} without a provider. Write provider/model.`;
  if (model === "") return `has the target ${shown(written)} without a model. Write provider/model.`;
  if (model !== null && model !== CLIENTS_MODEL && isGlob(model))
    return `has the target ${shown(written)}, whose model is a pattern. Write one model, or * alone for the one that the client asked for.`;
  return null;
}

/** The default provider answers to `default` too, whatever it is called; case does not matter in a path's names. */
function providerNamed(name: string, providers: readonly KnownProvider[]): KnownProvider | null {
  const wanted = name.toLowerCase();
  const named = providers.find((provider) => provider.name === wanted);
  return named ?? (wanted === DEFAULT ? (providers[0] ?? null) : null);
}

const DEFAULT = "default";

function whichThereAre(providers: readonly KnownProvider[]): string {
  const names = new Set([DEFAULT, ...providers.map(({ name }) => name)]);
  return `of which there are no keys. Use ${alternatives([...names])}, or set X_API_KEYS for a provider x`;
}

/** Written as a target's model: the one that the client asked for. */
const CLIENTS_MODEL = "*";

function withClientsModel({ provider, model }: RouteTarget): RouteTarget {
  return { provider, model: model === CLIENTS_MODEL ? null : model };
}

/** A route without a model would hand on its own name, which no provider knows. */
function withoutModel(place: string, targets: readonly RouteTarget[]): string[] {
  return targets
    .filter(({ model }) => model === null)
    .map(
      ({ provider }) =>
        `${place} leads to ${provider} without a model. Write ${provider}/model, or ${provider}/* for the model that the client asked for.`,
    );
}
