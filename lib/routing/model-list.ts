/**
 * Model names of the user's own in an upstream's list of models. Pure.
 *
 * Each dialect has its shape of a list, and `/v1/models` may answer in any of them, so the shape is read off the list
 * itself. The names are put in front, where a person who picks a model sees them; every byte of the upstream's own
 * entries stays as it is.
 */
import type { Config } from "../config/config.ts";
import {
  JsonCursor,
  asBuffer,
  field,
  fieldText,
  isObject,
  parseJson,
  type JsonObject,
} from "../core/json.ts";
import { instantText } from "../core/clock.ts";
import { readUpTo } from "../http/body.ts";
import type { ClientApi } from "../http/request.ts";
import type { StreamedResponse, BufferedResponse } from "../http/upstream-response.ts";

/** How a dialect lists its models. */
interface Shape {
  /** The field that holds the list; null: the list is all there is. */
  list: string | null;
  /** The field of an entry that holds the name, and what stands before it there. */
  name: string;
  prefix: string;
  entry(name: string): JsonObject;
}

const OPENAI: Shape = {
  list: "data",
  name: "id",
  prefix: "",
  entry: (id) => ({ id, object: "model", created: 0, owned_by: "keywheel" }),
};

/** Together's: nothing around the list. Its clients tell by `type` what a model is for. */
const BARE: Shape = {
  ...OPENAI,
  list: null,
  entry: (id) => ({ ...OPENAI.entry(id), type: "chat", display_name: id }),
};

const ANTHROPIC: Shape = {
  list: "data",
  name: "id",
  prefix: "",
  // The epoch is what Anthropic itself writes where it knows no date.
  entry: (id) => ({ type: "model", id, display_name: id, created_at: "1970-01-01T00:00:00Z" }),
};

const GEMINI: Shape = {
  list: "models",
  name: "name",
  prefix: "models/",
  entry: (name) => ({
    name: `models/${name}`,
    displayName: name,
    supportedGenerationMethods: ["generateContent", "streamGenerateContent", "countTokens"],
  }),
};

/** A model, as its provider lists it. */
export interface ListedModel {
  /** As a client names it: `groq/llama-3.3-70b-versatile`. */
  readonly name: string;
  /** What else the provider says of it; null: nothing, it is a name of `ROUTES`. */
  readonly entry: JsonObject | null;
}

/** A list of models, all on one page. */
export function modelList(models: readonly ListedModel[], api: ClientApi): JsonObject {
  const entries = models.map((model) => modelEntry(model, api));
  switch (api) {
    case "openai":
      return { object: "list", data: entries };
    case "anthropic": {
      const [first, last] = [models[0]?.name ?? null, models.at(-1)?.name ?? null];
      return { data: entries, has_more: false, first_id: first, last_id: last };
    }
    case "google":
      return { models: entries };
  }
}

/** One model of a list. */
export function modelEntry({ name, entry }: ListedModel, api: ClientApi): JsonObject {
  switch (api) {
    case "openai":
      return { ...OPENAI.entry(name), ...entry, id: name, object: "model" };
    case "anthropic":
      return { ...ANTHROPIC.entry(name), ...nameAndDate(entry ?? {}) };
    case "google":
      return GEMINI.entry(name);
  }
}

/** What Anthropic's clients show of a model, where its provider says it. */
function nameAndDate(entry: JsonObject): JsonObject {
  const shownName = fieldText(entry, "display_name");
  const created = field(entry, "created");
  const date =
    fieldText(entry, "created_at") || (typeof created === "number" ? instantText(created * 1000) : "");
  return {
    ...(shownName === "" ? {} : { display_name: shownName }),
    ...(date === "" ? {} : { created_at: date }),
  };
}

/** Whether a request asks for the list of models. */
export function asksForModels(method: string, path: string): boolean {
  return method === "GET" && path.endsWith("/models");
}

/** Longer lists go on as they are. */
export const LONGEST_LIST_BYTES = 8 * 2 ** 20;

/** An answer to `GET /v1/models` with our routes in it, read to its end. What is no such list goes on as it is. */
export async function listingRoutes(
  answer: BufferedResponse | StreamedResponse,
  routes: Config["routes"],
): Promise<BufferedResponse | StreamedResponse> {
  const { status, headers, outcome } = answer;
  if (status !== 200 || headers.has("content-encoding")) return answer;
  let body = answer.kind === "buffered" ? answer.body : null;
  if (answer.kind === "streamed") {
    const { bytes, isWhole } = await readUpTo(answer.reader, LONGEST_LIST_BYTES, answer.first);
    if (!isWhole) return { ...answer, first: bytes, pending: null };
    body = bytes;
  }
  const names = routes.flatMap(({ name, isPattern }) => (isPattern ? [] : [name])); // nobody can ask for a pattern
  const listed = body === null ? null : withRoutes(body, names);
  headers.delete("content-length");
  return { kind: "buffered", status, headers, outcome, body: listed ?? body };
}

/**
 * The answer to `GET /v1/models` with these names in it; those that are there already are not added again. Null: it
 * is to be passed on unchanged, because it is no list that we understand, has nothing to add, or is not the last of
 * its pages (a client that reads them all must not find the names on each).
 */
export function withRoutes(body: Uint8Array, names: readonly string[]): Uint8Array<ArrayBuffer> | null {
  const bytes = asBuffer(body);
  const page = parseJson(bytes.toString("utf8"));
  const shape = shapeOf(page);
  if (shape === null || !isLastPage(page)) return null;
  const listed = listOf(page, shape.list) ?? [];
  const there = new Set(listed.map((entry) => (isObject(entry) ? fieldText(entry, shape.name) : "")));
  const missing = [...new Set(names)].filter((name) => !there.has(shape.prefix + name) && !there.has(name));
  const at = startOfList(bytes, shape.list);
  if (missing.length === 0 || at === null) return null;
  const added = missing.map((name) => JSON.stringify(shape.entry(name))).join(",");
  const inserted = Buffer.from(listed.length > 0 ? `${added},` : added);
  const longer = new Uint8Array(body.length + inserted.length);
  longer.set(body.subarray(0, at));
  longer.set(inserted, at);
  longer.set(body.subarray(at), at + inserted.length);
  return longer;
}

function shapeOf(page: unknown): Shape | null {
  const shape = [BARE, GEMINI, OPENAI].find(({ list }) => listOf(page, list) !== null);
  if (shape === undefined) return null;
  const listed = listOf(page, shape.list) ?? [];
  // Ollama and Cohere have `models` too, and other entries in it.
  const isOurs = (entry: unknown) => isObject(entry) && isName(fieldText(entry, shape.name), shape);
  if (!listed.every(isOurs)) return null;
  if (shape !== OPENAI) return listed.length > 0 || shape === GEMINI ? shape : null;
  const first = listed[0];
  const isAnthropic = isObject(first) ? fieldText(first, "type") === "model" : says(page, "has_more");
  if (isAnthropic) return ANTHROPIC;
  return listed.length > 0 || says(page, "object") ? OPENAI : null;
}

function isName(text: string, { prefix }: Shape): boolean {
  return text.length > prefix.length && text.startsWith(prefix);
}

/** The list under this name; null: there is none. */
function listOf(page: unknown, name: string | null): readonly unknown[] | null {
  const list = name === null ? page : isObject(page) ? field(page, name) : null;
  return Array.isArray(list) ? list : null;
}

function says(page: unknown, name: string): boolean {
  return isObject(page) && field(page, name) !== undefined;
}

function isLastPage(page: unknown): boolean {
  if (!isObject(page)) return true;
  return field(page, "has_more") !== true && fieldText(page, "nextPageToken") === "";
}

/** Offset behind the opening bracket of the list. Of a field that is there twice the last is what parsers take. */
function startOfList(bytes: Buffer, name: string | null): number | null {
  if (name === null) return bytes.indexOf("[") + 1;
  const fields = JsonCursor.ofObject(bytes, 0);
  let start: number | null = null;
  while (fields?.next()) if (fields.name() === name) start = fields.valueStart + 1;
  return start;
}
