/**
 * To which things of an account a request refers (P35), and whether an answer says that they are not there.
 *
 * Ids stand in paths, in queries and in fields of bodies. A long body is not parsed for them but searched for the
 * names of such fields. What is found are candidates: only an id that an answer has told of before binds a request
 * to an account, so that a field which merely has such a name does no harm.
 */
import { asBuffer, JsonCursor } from "../core/json.ts";
import {
  addId,
  collectionOf,
  fieldAt,
  idOf,
  idsAddressed,
  LONGEST_ID,
  markAt,
  placesOf,
  textAt,
} from "./resources.ts";

/** Candidates of one request that are looked at: more would not tell more. */
const MOST_CANDIDATES = 64;
/** References to the latest turns that are looked at: all turns of a conversation are of one account. */
const MOST_TURNS = 16;

/**
 * The ids that a request refers to, the most telling first: in its path from left to right, in its query, then in its
 * body by the rank of their fields.
 */
export function idsIn(path: string, query: string, method: string, body: Uint8Array | null): string[] {
  const found = new Set(idsAddressed(path, query));
  const isWritten = method === "POST" || method === "PUT" || method === "PATCH";
  const fields = body === null || !isWritten ? NO_FIELDS : fieldsOf(path);
  if (fields.length === 0 || body === null || !isJson(body)) return [...found];
  const bytes = asBuffer(body);
  for (const field of fields) {
    if (field === TURNS) addTurns(found, bytes);
    else addIdsOfField(found, bytes, field);
  }
  return [...found];
}

const NO_FIELDS: readonly string[] = [];
/** Stands for what refers to an earlier turn otherwise than by a field of its own: see `addTurns`. */
const TURNS = "turns";
const CHAT_FIELDS = quoted("file_id");
const MESSAGES_FIELDS = quoted("container file_id");
const GEMINI_FIELDS = quoted(
  "cachedContent cached_content fileUri file_uri fileSearchStoreNames file_search_store_names",
);
const RESPONSES_FIELDS = [
  ...quoted("previous_response_id conversation"),
  TURNS,
  ...quoted("container vector_store_ids file_ids file_id"),
];
const INTERACTIONS_FIELDS = quoted("previous_interaction_id file_search_store_names uri");
/** Of what is made out of other things. Such bodies are short. */
const RESOURCE_FIELDS = [
  ...quoted("thread_id assistant_id agent_id conversation conversation_id container_id vector_store_id"),
  ...quoted(
    "vector_store_ids library_ids dataset_id input_file_id input_files training_file validation_file",
  ),
  ...quoted("file_ids file_id uri"),
  ...GEMINI_FIELDS,
];

/** Names as they stand in JSON. */
function quoted(names: string): string[] {
  return names.split(" ").map((name) => `"${name}"`);
}

/** The fields in which bodies sent to a path hold ids. */
function fieldsOf(path: string): readonly string[] {
  switch (collectionOf(path)) {
    case null:
      if (path.endsWith("/chat/completions")) return CHAT_FIELDS;
      if (path.includes("/messages")) return MESSAGES_FIELDS;
      return path.includes("/models/") ? GEMINI_FIELDS : NO_FIELDS;
    case "responses":
      return RESPONSES_FIELDS;
    case "interactions":
      return INTERACTIONS_FIELDS;
    case "batches": // of Anthropic: many requests in one body
      return path.includes("/messages/") ? MESSAGES_FIELDS : RESOURCE_FIELDS;
    case "async/chat/completions":
      return CHAT_FIELDS;
    default:
      return RESOURCE_FIELDS;
  }
}

/** A form, or a file's own bytes, refers to nothing. */
function isJson(body: Uint8Array): boolean {
  const first = body[0] === 0x7b ? 0x7b : body.find((byte) => byte > 0x20);
  return first === 0x7b /* { */ || first === 0x5b; /* [ */
}

function addIdsOfField(found: Set<string>, bytes: Buffer, name: string): void {
  let hits = 0;
  for (const at of placesOf(bytes, name)) {
    hits += 1;
    if (hits > MOST_CANDIDATES || found.size >= MOST_CANDIDATES) return;
    const field = fieldAt(bytes, at);
    if (field !== null) addIdsOfValue(found, bytes, field);
  }
}

/** An id, a list of ids, or something that has one. */
function addIdsOfValue(found: Set<string>, bytes: Buffer, value: JsonCursor): void {
  addId(found, idOfText(bytes, value));
  const items = JsonCursor.ofArray(bytes, value.valueStart);
  while (items?.next() && found.size < MOST_CANDIDATES) addId(found, idOfText(bytes, items));
  addIdOfObject(found, bytes, value.valueStart);
}

/** The `id` of the object that begins at `start`, where one does. */
function addIdOfObject(found: Set<string>, bytes: Buffer, start: number): void {
  const fields = JsonCursor.ofObject(bytes, start);
  while (fields?.next()) if (fields.name() === "id") return addId(found, idOfText(bytes, fields));
}

/** The id that a value is; null where it is no text, or none that could be an id. */
function idOfText(bytes: Buffer, value: JsonCursor): string | null {
  const start = value.valueStart;
  if (bytes[start] !== 0x22 /* " */ || value.valueEnd() - start > LONGEST_ID) return null;
  return idOf(value.text() ?? "");
}

/**
 * Earlier turns of the Responses API that only their account has or can read: items that are named and not there,
 * reasoning and images that are there by their id alone, and reasoning that is encrypted for the organization (else
 * "Encrypted content organization_id did not match the target organization", openai/codex#13724, 2026-03). Items that
 * are there in full (`msg_`, `fc_`) any account takes.
 */
function addTurns(found: Set<string>, bytes: Buffer): void {
  forEachFromEnd(bytes, '"item_reference"', (at) =>
    addIdOfObject(found, bytes, bytes.lastIndexOf(0x7b /* { */, at)),
  );
  for (const beginning of ['"rs_', '"ig_']) {
    forEachFromEnd(bytes, beginning, (at) => {
      const isId = /"id"\s*:\s*$/.test(bytes.toString("latin1", Math.max(0, at - 16), at));
      if (isId) addId(found, textAt(bytes, at));
    });
  }
  forEachFromEnd(bytes, '"encrypted_content"', (at) => {
    const field = fieldAt(bytes, at);
    if (field !== null) addId(found, markAt(bytes, field.valueStart));
  });
}

/** The last places first: the latest turns. */
function forEachFromEnd(bytes: Buffer, text: string, visit: (at: number) => void): void {
  let hits = 0;
  for (let at = bytes.lastIndexOf(text); at >= 0; at = at > 0 ? bytes.lastIndexOf(text, at - 1) : -1) {
    hits += 1;
    if (hits > MOST_TURNS) return;
    visit(at);
  }
}

/** An id that a provider made, by how it begins. */
const MADE_BY_PROVIDER =
  /^(?:(?:asst|batch|cntr|container|conv|fc|file|ftjob|ig|msg|msgbatch|resp|rs|thread|upload|video|vs)[_-][\w-]*\d|gAAAA)/;

/**
 * Of the ids that a request referred to, those that a good answer proves to be of its account. Not all: a field of the
 * user's own may have such a name (`metadata.thread_id`), and nobody looked at what is in it.
 */
export function idsProvenBy(path: string, ids: readonly string[]): string[] {
  const isAddressed = (id: string) => path.includes(id) && id.length >= 8 && /\d/.test(id);
  return ids.filter((id) => MADE_BY_PROVIDER.test(id) || isAddressed(id));
}

/** An answer that says of something that it is not there, without naming it. */
const SAYS_NOT_HERE =
  /"previous_response_not_found"|Invalid `?previous_response_id|"invalid_encrypted_content"|CachedContent not found/;
/** One that names it, or at least says what kind of thing it is. */
const NOT_FOUND = /not found|no such|not exist|\bno \w+(?: \w+)? found|permission|ownership/i;
const KIND_OF_THING = /\b(?:assistant|container|conversation|file|item|response|thread|vector.?store)s?\b/i;

/**
 * Whether an answer says that what the request refers to is not with this account: it may be with another. `unknown`:
 * those of its ids whose account is not known; for a known one nobody else needs to be asked.
 */
export function saysNotHere(
  { status, body }: { readonly status: number; readonly body: string },
  path: string,
  query: string,
  unknown: readonly string[],
): boolean {
  if (unknown.length === 0 || (status !== 400 && status !== 403 && status !== 404)) return false;
  if (status === 404 && idsAddressed(path, query).some((id) => unknown.includes(id))) return true;
  if (SAYS_NOT_HERE.test(body)) return true;
  if (!NOT_FOUND.test(body)) return false;
  return unknown.some((id) => body.includes(id)) || (status === 404 && KIND_OF_THING.test(body));
}
