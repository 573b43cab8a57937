/**
 * The models that a request may be understood to name: what the limits of its client hold for. Pure, and no part of the
 * library, whose program is its own only client.
 */
import { asBuffer, JsonCursor } from "../core/json.ts";
import type { Bytes } from "../http/body.ts";
import { unescaped } from "../http/request.ts";
import { bounded, boundaryOf, LONGEST_PART_HEAD, modelField, modelOfPath, NAMED_MODEL } from "./route.ts";
import type { NamedModels, Naming } from "../pool/client-limits.ts";

/**
 * Every model that upstream may understand a request to name. Null: nobody can tell. Of members that are there twice
 * parsers take the last; some read `Model` for `model`, too. Of paths that hold a model all are known here that any
 * provider of the catalogue has.
 */
export function namedModelsOf(naming: Naming, query = ""): NamedModels | null {
  const named = modelsNamedIn(naming);
  const inQuery = formModels(query);
  return named === null || inQuery.length === 0 ? named : { ...named, all: [...named.all, ...inQuery] };
}

/** The values of every `model` in a form or a query. */
function formModels(text: string): string[] {
  if (!/model|%/i.test(text)) return [];
  return [...new URLSearchParams(text)].flatMap(([name, value]) =>
    name.toLowerCase() === "model" ? [value] : [],
  );
}

function modelsNamedIn({ path, contentType, body }: Naming): NamedModels | null {
  const model = modelOfPath(path);
  const plainPath = unescaped(path.replaceAll(/%2f/gi, "%252F")); // a slash within a name stays one
  const inPath = model ?? modelOfPath(plainPath) ?? otherModelOfPath(plainPath);
  if (inPath !== null) {
    const ofBatch = path.includes(":batch") && body !== null ? modelsOfRequests(body) : [];
    return ofBatch && { all: [unescaped(inPath), ...ofBatch], model: bounded(model) };
  }
  if (body === null) return { all: [], model: null };
  const boundary = boundaryOf(contentType);
  if (boundary !== null) {
    if (mayBeReadOtherwise(boundary, body)) return null;
    const field = modelField(boundary, body, { takesLast: true });
    const name = field === null ? null : asBuffer(body).toString("utf8", field.start, field.end);
    return { all: name === null ? [] : [name], model: bounded(name) };
  }
  if (contentType !== null && /^multipart\//i.test(contentType)) return null;
  const fields = JsonCursor.ofObject(body, 0);
  // Called JSON and none that is read here: letters of two or four bytes, or packed without saying so.
  const isUnreadable = body.length > 0 && (fields === null || body[1] === 0);
  if (isUnreadable && /^$|json/i.test(contentType ?? "")) return null;
  let last: string | null = null;
  let listed = 0;
  const others = new Set<string>();
  if (/\bx-www-form-urlencoded\b/i.test(contentType ?? "")) {
    if (body.length <= LONGEST_FORM_BYTES)
      for (const name of formModels(asBuffer(body).toString())) others.add(name);
    else if (fields === null) return null;
  }
  while (fields?.next()) {
    const name = fields.name();
    const lower = name?.toLowerCase();
    // To these OpenRouter turns when the first one fails.
    const list = lower === "models" ? JsonCursor.ofArray(body, fields.valueStart) : null;
    while (list?.next()) {
      listed += 1;
      if (listed > MOST_MODELS_NAMED) return null;
      others.add(list.text() ?? "");
    }
    if (lower !== undefined && HOLDERS_OF_MODEL.has(lower)) {
      const inner = JsonCursor.ofObject(body, fields.valueStart);
      while (inner?.next()) if (inner.isNamed("model")) others.add(inner.text() ?? "");
      if (inner?.hasGivenUp) return null;
    }
    if (lower === "requests") {
      const ofBatch = modelsOfBatch(body, fields.valueStart);
      if (ofBatch === null) return null;
      for (const name of ofBatch) others.add(name);
    }
    if (lower !== "model") continue;
    const value = fields.text();
    if (name === "model") last = value;
    else if (value !== null) others.add(value);
  }
  if (fields?.hasGivenUp) return null;
  return { all: last === null ? [...others] : [last, ...others], model: bounded(last) };
}

/** Parts of a body in which a model may stand: OpenAI's realtime sessions and evals. */
const HOLDERS_OF_MODEL: ReadonlySet<string> = new Set(["session", "data_source"]);

/** Where a request of a batch says what it asks for: Anthropic's, Mistral's, Gemini's. */
const PARTS_OF_BATCH: ReadonlySet<string> = new Set(["params", "body", "request"]);

const NO_MODELS: ReadonlySet<string> = new Set();

/** Those that the requests of Gemini's `:batchEmbedContents` name, beside the path: `models/pro`. */
function modelsOfRequests(body: Bytes): readonly string[] | null {
  const named = new Set<string>();
  const fields = JsonCursor.ofObject(body, 0);
  while (fields?.next()) {
    const ofBatch = fields.isNamed("requests") ? modelsOfBatch(body, fields.valueStart) : NO_MODELS;
    if (ofBatch === null) return null;
    for (const name of ofBatch) named.add(name.replace(/^models\//, ""));
  }
  return fields?.hasGivenUp ? null : [...named];
}

/** The models of a list of requests (`/v1/messages/batches`); null: they are more than anybody looks at. */
function modelsOfBatch(body: Bytes, start: number): ReadonlySet<string> | null {
  const named = new Set<string>();
  const requests = JsonCursor.ofArray(body, start);
  const add = (at: number, layer: number) => {
    const fields = JsonCursor.ofObject(body, at);
    while (fields?.next()) {
      const name = fields.name()?.toLowerCase() ?? "";
      const value = name === "model" ? fields.text() : null;
      if (value !== null) named.add(value);
      if (layer === 0 && PARTS_OF_BATCH.has(name)) add(fields.valueStart, 1);
    }
    return fields?.hasGivenUp !== true;
  };
  while (requests?.next()) if (!add(requests.valueStart, 0) || named.size > MOST_MODELS_NAMED) return null;
  return named;
}

/** A longer form of this kind nobody sends. */
const LONGEST_FORM_BYTES = 256 * 1024;

/**
 * `/v1/models/gpt-4o`, `/hf-inference/models/org/name`, `/ai/run/@cf/meta/llama-3` of Cloudflare, and methods of
 * Google's that stand behind something else than a model: `/v1beta/tunedModels/mine:generateContent`.
 */
function otherModelOfPath(path: string): string | null {
  const behind = /\/(?:models|run)\/(.+)$/.exec(path)?.[1];
  if (behind !== undefined) return behind;
  const [, name, method] = /^([^:]+):(\w+)$/.exec(path.slice(path.lastIndexOf("/") + 1)) ?? [];
  return name !== undefined && method !== undefined && /generate|predict|embed/i.test(method) ? name : null;
}

/** More models nobody names. */
const MOST_MODELS_NAMED = 1000;
/** More parts nobody sends. */
const MOST_PARTS_READ = 10_000;

/**
 * Whether another parser may find a `model` in this form that is not found here: its parts do not end as the standard
 * says, or are more than anybody sends, or one has a head that is too long, writes its name in another way, or packs
 * its content.
 */
function mayBeReadOtherwise(boundary: string, body: Bytes): boolean {
  const bytes = asBuffer(body);
  const mark = `--${boundary}`;
  for (let at = 0, part = 0; part < MOST_PARTS_READ; part += 1) {
    if (!bytes.subarray(at, at + mark.length).equals(Buffer.from(mark))) return true;
    const head = at + mark.length;
    const sign = bytes.toString("latin1", head, head + 2);
    if (sign !== "\r\n") return sign !== "--" || bytes.indexOf(mark, head) >= 0;
    const end = bytes.indexOf("\r\n\r\n", head);
    if (end < 0 || end - head > LONGEST_PART_HEAD) return true;
    const fields = bytes.toString("latin1", head, end + 2);
    if (ODD_PART.test(fields) && !NAMED_MODEL.test(fields)) return true;
    if (/^content-transfer-encoding: *(?![78]bit|binary)/im.test(fields)) return true;
    at = bytes.indexOf(mark, end);
    if (bytes.toString("latin1", at - 2, at) !== "\r\n") return true;
  }
  return true;
}

/** Names `model` in one of the ways in which that may be written. */
const ODD_PART = /\bname\*?\s*=[\s"']*(?:[\w-]{1,20}'\w{0,20}')?model["';\s]/i;
