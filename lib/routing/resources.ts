/**
 * The ids of resources that belong to one account: files, batches, stored responses, threads and their like (P35).
 * Which paths are theirs, of which ones an answer tells, to which ones a request refers, and whether an answer says
 * that one is not with the account that was asked. Who owns them is kept in `resource-owners.ts`.
 *
 * Ids stand in paths, in queries and in fields of bodies. A long body is not parsed for them: it is searched for the
 * names of such fields. What is found are candidates. Only an id that an answer has told of before binds a request to
 * an account, so a field that merely has such a name does no harm.
 */
import { asBuffer, JsonCursor } from "../core/json.ts";
import { unescaped } from "../http/request.ts";

/** What paths call the collections that belong to an account. Behind the name comes an id, a verb, or nothing. */
const COLLECTIONS = [
  // OpenAI, and whoever has its paths; `jobs` of fine_tuning, and of batch with Mistral
  "assistants|batches|chat/completions(?=/)|containers|conversations|evals|files|jobs|responses|skills|threads",
  "uploads|vector_stores|videos",
  // Gemini
  "cachedContents|corpora|fileSearchStores|interactions|operations|tunedModels",
  // Mistral, then Perplexity, xAI, Cohere, Together, Groq, OpenRouter and DashScope
  "agents|libraries",
  "async/chat/completions|chat/deferred-completion|collections|datasets|embed-jobs|fine-tunes|fine_tunings",
  "generation|tasks",
].join("|");
const COLLECTION = new RegExp(`/(${COLLECTIONS})(?=[/:]|$)`);

/** A Gemini model at a work that is asked for later. */
const LONG_WORK = /:(?:batchGenerateContent|asyncBatchEmbedContent|predictLongRunning)$/;

/** Content that is handed out as it is: nothing in it tells of anything. */
const DOWNLOAD = /(?:\/content|\/results|:download)$/;

/** Whether the answer to such a request may tell of things that its account owns. Cheap: asked of every request. */
export function isStateful(path: string, method: string): boolean {
  if (method === "DELETE" || method === "HEAD" || method === "OPTIONS") return false;
  return (COLLECTION.test(path) || LONG_WORK.test(path)) && !DOWNLOAD.test(path);
}

const STORE = Buffer.from('"store"');
const CODE_EXECUTION = Buffer.from('"code_execution');

/** Whether a request asks the provider to keep something of which its path says nothing. */
export function asksToKeep(path: string, body: Uint8Array | null): boolean {
  if (body === null) return false;
  if (path.endsWith("/chat/completions")) return has(body, STORE) && asksToStore(asBuffer(body));
  return path.endsWith("/messages") && has(body, CODE_EXECUTION); // its container can be used again
}

const NAMES_FILE = ["file_id"].map((name) => Buffer.from(name));
const NAMES_FILE_OF_GEMINI = ["achedContent", "ached_content", "ileUri", "ile_uri"].map((name) =>
  Buffer.from(name),
);

/**
 * Whether the body of a request may name something of an account, of which nothing may be known yet: a file that was
 * made elsewhere. Cheap: asked of every request whose path leads into no collection.
 */
export function mayNameThing(path: string, body: Uint8Array | null): boolean {
  if (body === null) return false;
  const names = path.includes("/models/") ? NAMES_FILE_OF_GEMINI : NAMES_FILE;
  return names.some((name) => has(body, name));
}

function asksToStore(bytes: Buffer): boolean {
  const isTrue = (at: number) => {
    const near = nearby(bytes, at);
    return near[fieldIn(near)?.valueStart ?? -1] === 0x74; // t
  };
  return placesOf(bytes, '"store"').take(MOST_CANDIDATES).some(isTrue);
}

/** Asked of every request: neither a view of the bytes nor a text to look for is made. */
function has(bytes: Uint8Array, part: Buffer): boolean {
  return Buffer.prototype.indexOf.call(bytes, part) >= 0;
}

/** What nearly every request asks for; the long pattern need not be tried on it. */
const BUSY_PATHS: ReadonlySet<string> = new Set(
  ["chat/completions", "completions", "embeddings", "messages", "models"].flatMap((name) => [
    `/v1/${name}`,
    `/${name}`,
  ]),
);

/** The collection that a path leads into, as paths call it; null: into none. */
export function collectionOf(path: string): string | null {
  if (BUSY_PATHS.has(path)) return null;
  return COLLECTION.exec(path)?.[1] ?? null;
}

/** What stands behind a collection's name and is no id. */
const VERBS = wordsOf(
  "characters compact completions edits extensions generations input_tokens runs search upload",
);

/** Parameters that hold an id, or a mark in a list: the next page of an account's list is with that account. */
const QUERY_NAMES = [...wordsOf("id upload_id after before after_id before_id pageToken page_token page")];

/** The ids in path and query: what a request is addressed to. The outermost thing comes first. */
export function idsAddressed(path: string, query: string): string[] {
  const found = COLLECTION.exec(path);
  if (found === null) return [];
  const [, ...segments] = path.slice(found.index + found[0].length).split("/");
  const named = segments.map((segment) => unescaped(segment).replace(/:[a-zA-Z]+$/, ""));
  // Behind the first id come names of other collections: only what looks like an id is one.
  const inPath = named.filter((name, index) => (index === 0 ? !VERBS.has(name) : PREFIXED.test(name)));
  const parameters = query === "" ? null : new URLSearchParams(query);
  const inQuery = parameters === null ? [] : QUERY_NAMES.map((name) => parameters.get(name) ?? "");
  return [...inPath, ...inQuery].flatMap((text) => idOf(text) ?? []);
}

/** The id that is no more after a good answer to this request; null: none. */
export function idEndedBy(path: string, method: string): string | null {
  if (method !== "DELETE") return null;
  const [id, ...inner] = idsAddressed(path, "");
  return inner.length === 0 && id !== undefined ? id : null; // DELETE /vector_stores/vs_1/files/file-1 leaves the file
}

/** Collections whose things are used with others of the account: a vector store is made of files. */
const USED_TOGETHER = wordsOf(
  "agents assistants collections corpora evals fileSearchStores files libraries skills threads uploads vector_stores",
);

/**
 * Whether a request that names no known id is better sent to the provider's home account
 * (lib/routing/resource-owners.ts), where that can be had now: it makes a thing that will be used together with others,
 * or it asks for a list, which should be the same list each time. A file for a batch is used alone: batches are spread
 * over the accounts.
 */
export function prefersMainAccount(path: string, method: string, body: Uint8Array | null): boolean {
  const found = COLLECTION.exec(path);
  if (found === null || path.length > found.index + found[0].length) return false;
  if (method === "GET") return true;
  return method === "POST" && USED_TOGETHER.has(found[1] ?? "") && !isForBatch(body);
}

/** How far from its beginning or end a form's `purpose` is looked for: the file between may be large. */
const FORM_EDGE_BYTES = 2048;

function isForBatch(body: Uint8Array | null): boolean {
  if (body === null) return false;
  const bytes = asBuffer(body);
  const edges = [bytes.subarray(0, FORM_EDGE_BYTES), bytes.subarray(-FORM_EDGE_BYTES)];
  const purpose = /name="?purpose"?\r\n(?:[^\r]+\r\n)*\r\nbatch\r\n|"purpose"\s*:\s*"batch"/;
  return edges.some((edge) => purpose.test(edge.toString("latin1")));
}

/** Ids that are learnt of one answer; lists are longer only where nobody looks at them. */
const MOST_LEARNT = 1000;

/**
 * The ids that the JSON of a good answer tells of: what was made, what was asked for, what a list holds, and what
 * belongs to them. Also of the beginning of one that has not come whole. `path` and `method` are the request's.
 */
export function learnIds(path: string, method: string, body: Uint8Array): string[] {
  if (method === "DELETE" || DOWNLOAD.test(path)) return [];
  if (isOfTurns(path)) return learnIdsOfStream(path, body);
  const bytes = asBuffer(body);
  const found = new Set<string>();
  try {
    const answer: unknown = JSON.parse(bytes.toString());
    for (const owned of Array.isArray(answer) ? answer : [answer]) addOwned(found, owned, "outermost");
  } catch {
    // Only its beginning is here.
    for (const id of idFields(bytes)) if (PREFIXED.test(id) && found.size < MOST_LEARNT) found.add(id);
  }
  return [...found];
}

/** Whether answers are turns of a conversation rather than things and lists of them. */
function isOfTurns(path: string): boolean {
  const collection = collectionOf(path);
  if (collection === null) return !LONG_WORK.test(path);
  return collection === "responses" || collection === "interactions";
}

/** Fields of an answer that hold the id of something of the account's, or the mark of its list's next page. */
const OWNED_FIELDS = wordsOf(
  `id agent_id assistant_id batch_id container_id error_file error_file_id file_id input_file_id library_id
  output_file output_file_id response_id run_id task_id thread_id training_file validation_file vector_store_id
  nextPageToken next_page_token next_page`,
);
/** Fields that hold something of the account's whole. */
const HOLDERS = wordsOf("container conversation file output response");
/** Lists of the account's whose items are ids themselves. */
const LISTED_IDS = wordsOf("file_ids input_files result_files");

function addOwned(found: Set<string>, owned: unknown, depth: "outermost" | "inner"): void {
  if (typeof owned !== "object" || owned === null) return;
  for (const [name, value] of Object.entries(owned)) {
    if (found.size >= MOST_LEARNT) return;
    if (typeof value === "string") {
      // Gemini's `name` is a path: `files/abc`. Anybody else's is a name that the user gave.
      const isPath = name === "name" && COLLECTION.test(`/${value}`);
      if (isPath || OWNED_FIELDS.has(name)) addId(found, idOf(value));
    } else if (Array.isArray(value)) {
      addOwnedItems(found, name, value, depth);
    } else if (depth === "outermost" && HOLDERS.has(name)) {
      addOwned(found, value, "inner");
    }
  }
}

function addOwnedItems(found: Set<string>, name: string, items: readonly unknown[], depth: string): void {
  for (const item of items) {
    if (LISTED_IDS.has(name) && typeof item === "string") addId(found, idOf(item));
    else if (depth === "outermost") addOwned(found, item, "inner");
  }
}

/** Ids that are learnt of one turn: itself, its conversation, and its first items. The next turn refers to all. */
const MOST_OF_TURN = 4;
/** Encrypted texts that are learnt of one turn: of its first item, as it began and as it ended. */
const MOST_MARKS = 3;
/** An id, or the beginning of an encrypted text, that the end of a chunk cuts is no longer than this. */
const TAIL_BYTES = 160;

/**
 * Watches an answer go by, a stream of events or JSON, for ids: `push` every chunk. An id that two chunks share is
 * found; one that comes again is told of once.
 */
export class StreamIds {
  readonly #shape: RegExp;
  readonly #told = new Set<string>();
  #marks = 0;
  #tail = asBuffer(new Uint8Array());

  /** `path` of the request: it tells what ids to look for. */
  constructor(path: string) {
    if (collectionOf(path) !== null) this.#shape = PREFIXED;
    else this.#shape = path.endsWith("/messages") ? /^container_/ : /^(?:chatcmpl|gen)-/;
  }

  /** All is known: further chunks need not be pushed. */
  get isDone(): boolean {
    return this.#shape === PREFIXED ? this.#hasIds && this.#marks >= MOST_MARKS : this.#told.size > 0;
  }

  get #hasIds(): boolean {
    return this.#told.size - this.#marks >= MOST_OF_TURN;
  }

  /** What this chunk tells of that was not known before. */
  push(chunk: Uint8Array): string[] {
    if (this.isDone) return [];
    const bytes = this.#tail.length === 0 ? asBuffer(chunk) : Buffer.concat([this.#tail, chunk]);
    this.#tail = bytes.subarray(-TAIL_BYTES);
    const before = this.#told.size;
    if (!this.#hasIds) this.#addIds(bytes);
    if (this.#shape === PREFIXED) this.#addMarks(bytes);
    return this.#told.size === before ? [] : [...this.#told].slice(before);
  }

  #addIds(bytes: Buffer): void {
    for (const id of idFields(bytes)) {
      if (this.#hasIds) return;
      if (this.#shape.test(id)) this.#told.add(id);
    }
  }

  #addMarks(bytes: Buffer): void {
    for (const at of placesOf(bytes, '"encrypted_content"')) {
      const near = nearby(bytes, at);
      const field = fieldIn(near);
      const mark = field === null ? null : markAt(near, field.valueStart);
      if (mark === null || this.#told.has(mark)) continue;
      if (this.#marks >= MOST_MARKS) return;
      this.#marks += 1;
      this.#told.add(mark);
    }
  }
}

/** The ids in the first event or events of a stream. `path` is the request's. */
export function learnIdsOfStream(path: string, firstEvents: Uint8Array): string[] {
  return new StreamIds(path).push(firstEvents);
}

/** The texts in all fields called `id`, as far as they are short and have no escapes. */
function* idFields(bytes: Buffer): Generator<string> {
  for (const at of placesOf(bytes, '"id"')) {
    const near = nearby(bytes, at);
    const field = fieldIn(near);
    const id = field === null ? null : textAt(near, field.valueStart);
    if (id !== null) yield id;
  }
}

// ── What ids and their fields look like ─────────────────────────────────────────────────────────────────────────

/** No provider has longer ids; marks of pages can be long. */
export const LONGEST_ID = 512;

/** `file-abc1`, `resp_abc1`, or a UUID. */
export const PREFIXED =
  /^(?:[a-z][a-z0-9]{0,11}[_-][\w-]*\d[\w-]*|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})$/i;

/** The id that a text is, or ends with: `files/abc`, `https://…/v1beta/files/abc`. Null: it is none. */
export function idOf(text: string): string | null {
  if (text.includes("://") && !text.includes("/files/")) return null; // any page of the web
  const id = text.includes("/") ? text.slice(text.lastIndexOf("/") + 1) : text;
  return id.length <= LONGEST_ID && /^[\w.:=+~-]{3,}$/.test(id) ? id : null;
}

/** Fields that name the address to which the rest of an upload is sent: Gemini's, and of Google's other protocol. */
const UPLOAD_ADDRESSES = ["x-goog-upload-url", "location"] as const;
/** Longer addresses are not looked at. */
const LONGEST_ADDRESS = 4096;

/**
 * The id of the upload that an answer opened (https://ai.google.dev/api/files, "resumable", 2026-11); null: none. What
 * is sent with it becomes a file of the account that opened it.
 */
export function uploadIdIn(headers: Headers): string | null {
  for (const name of UPLOAD_ADDRESSES) {
    const address = headers.get(name);
    if (address === null || address.length > LONGEST_ADDRESS) continue;
    const query = address.indexOf("?");
    const id = query < 0 ? null : new URLSearchParams(address.slice(query)).get("upload_id");
    if (id !== null) return idOf(id);
  }
  return null;
}

export function addId(found: Set<string>, id: string | null): void {
  if (id !== null) found.add(id);
}

/** The offsets at which a text stands, one after the other. */
export function* placesOf(bytes: Buffer, text: string): Generator<number> {
  for (let at = bytes.indexOf(text); at >= 0; at = bytes.indexOf(text, at + text.length)) yield at;
}

/** So far behind the name of a field its value is looked at: ids and lists of ids are short, and a body may be long. */
const NEARBY_BYTES = 8192;

/** What stands at `at` and a little behind it, so that no look at one place costs more than this. */
function nearby(bytes: Buffer, at: number): Buffer {
  return bytes.subarray(at, at + NEARBY_BYTES);
}

/**
 * The field whose name begins where `near` does, with its quotation mark, its value at hand; null: there is none. A
 * quotation mark within a JSON text is escaped: what is found so is no word of a prompt.
 */
function fieldIn(near: Buffer): JsonCursor | null {
  const field = new JsonCursor(near, 0, 0x7d /* } */);
  return field.next() ? field : null;
}

/** The short text without escapes whose opening quote is at `start`; null: there is none, or its end is not here. */
export function textAt(bytes: Buffer, start: number): string | null {
  if (bytes[start] !== 0x22 /* " */) return null;
  const text = bytes.toString("latin1", start + 1, start + 2 + LONGEST_ID);
  const end = text.indexOf('"');
  return end < 0 ? null : idOf(text.slice(0, end));
}

/** So much of an encrypted text tells it from all others: it begins with its time and 16 bytes of chance. */
const MARK_CHARACTERS = 48;

/** The beginning of the encrypted text whose opening quote is at `start`; null: it is none, or not all here yet. */
export function markAt(bytes: Buffer, start: number): string | null {
  if (bytes[start] !== 0x22 /* " */) return null;
  const text = bytes.toString("latin1", start + 1, start + 1 + MARK_CHARACTERS);
  const end = text.indexOf('"');
  const mark = end < 0 ? text : text.slice(0, end);
  const isHere = end >= 0 || text.length === MARK_CHARACTERS;
  return isHere && /^[\w+/=.-]{16,}$/.test(mark) ? mark : null;
}

function wordsOf(list: string): ReadonlySet<string> {
  return new Set(list.split(/\s+/));
}

// ── The ids that a request refers to ────────────────────────────────────────────────────────────────────────────

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
  if (fields.length === 0 || body === null) return [...found];
  const bytes = asBuffer(body);
  if (beginsAsForm(body)) addIdsOfForm(found, bytes);
  if (!beginsAsJson(body)) return [...found];
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
      if (path.includes("/models/")) return GEMINI_FIELDS;
      return BUSY_PATHS.has(path) ? NO_FIELDS : RESOURCE_FIELDS;
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

/** A form of several parts (RFC 7578). */
function beginsAsForm(body: Uint8Array): boolean {
  return body[0] === 0x2d && body[1] === 0x2d; // --
}

const FORM_FIELDS = new Set(RESOURCE_FIELDS.map((name) => name.slice(1, -1)));
/** The head of a form's field and its value, as far as they are short. */
const FORM_FIELD =
  /^form-data;[^\r\n]*?\bname="?(\w+)(?:\[\w*\])?"?[^\r\n]*\r\n(?:[^\r\n]+\r\n)*\r\n([^\r\n]+)\r\n/;

function addIdsOfForm(found: Set<string>, bytes: Buffer): void {
  for (const at of placesOf(bytes, "form-data").take(MOST_CANDIDATES)) {
    const [, name = "", value = ""] =
      FORM_FIELD.exec(bytes.toString("latin1", at, at + 2 * LONGEST_ID)) ?? [];
    if (FORM_FIELDS.has(name)) addId(found, idOf(value));
  }
}

/** A file's own bytes refer to nothing. */
function beginsAsJson(body: Uint8Array): boolean {
  let at = 0;
  while (body[at] === 0x20 || body[at] === 0x0a || body[at] === 0x0d || body[at] === 0x09) at += 1;
  return body[at] === 0x7b /* { */ || body[at] === 0x5b; /* [ */
}

function addIdsOfField(found: Set<string>, bytes: Buffer, name: string): void {
  let hits = 0;
  for (const at of placesOf(bytes, name)) {
    hits += 1;
    if (hits > MOST_CANDIDATES || found.size >= MOST_CANDIDATES) return;
    const near = nearby(bytes, at);
    const field = fieldIn(near);
    if (field !== null) addIdsOfValue(found, near, field);
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
  forEachFromEnd(bytes, '"item_reference"', (at) => {
    const from = Math.max(0, at - NEARBY_BYTES);
    const start = bytes.subarray(from, at).lastIndexOf(0x7b /* { */);
    if (start >= 0) addIdOfObject(found, nearby(bytes, from + start), 0);
  });
  for (const beginning of ['"rs_', '"ig_']) {
    forEachFromEnd(bytes, beginning, (at) => {
      if (isIdAt(bytes, at)) addId(found, textAt(bytes, at));
    });
  }
  addMarks(found, bytes);
}

/** What the encrypted texts of a body are told from each other by. */
function addMarks(found: Set<string>, bytes: Buffer): void {
  forEachFromEnd(bytes, '"encrypted_content"', (at) => {
    const near = nearby(bytes, at);
    const field = fieldIn(near);
    if (field !== null) addId(found, markAt(near, field.valueStart));
  });
}

function isIdAt(bytes: Buffer, at: number): boolean {
  return /"id"\s{0,4}:\s{0,4}$/.test(bytes.toString("latin1", Math.max(0, at - 16), at));
}

/**
 * Of the ids that `idsIn` finds, those whose content is in the body and encrypted: the marks of encrypted texts, and
 * reasoning that has such a text. Some providers let any account read it, others only the organization that made it.
 */
export function encryptedIdsIn(body: Uint8Array | null): ReadonlySet<string> {
  const found = new Set<string>();
  if (body === null || !beginsAsJson(body)) return found;
  const bytes = asBuffer(body);
  addMarks(found, bytes);
  if (found.size === 0) return found;
  forEachFromEnd(bytes, '"rs_', (at) => {
    if (isIdAt(bytes, at) && isEncryptedItem(bytes, at)) addId(found, textAt(bytes, at));
  });
  return found;
}

/** The id of an item stands near its beginning, and a summary is mostly shorter than this. */
const ID_BEHIND_BYTES = 256;
const ITEM_BYTES = 64 * 1024;

/** Whether the item whose id stands at `at` has an encrypted text of its own. */
function isEncryptedItem(whole: Buffer, at: number): boolean {
  const from = Math.max(0, at - ID_BEHIND_BYTES);
  const bytes = whole.subarray(from, at + ITEM_BYTES);
  const start = bytes.subarray(0, at - from).lastIndexOf(0x7b /* { */);
  const fields = start < 0 ? null : JsonCursor.ofObject(bytes, start);
  while (fields?.next()) if (fields.name() === "encrypted_content") return bytes[fields.valueStart] === 0x22;
  return false;
}

/** An answer that says that this account cannot read what is encrypted (openai/codex#13724, 2026-03). */
const CANNOT_READ =
  /"invalid_encrypted_content"|encrypted content.{0,120}(?:could not be|did not match|cannot be)/i;

/** Whether an answer says that its account cannot read the encrypted texts of the request. */
export function saysCannotRead(status: number, body: string): boolean {
  return (status === 400 || status === 403) && CANNOT_READ.test(body);
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
const SAYS_MISSING =
  /"previous_response_not_found"|Invalid `?previous_response_id|"invalid_encrypted_content"|CachedContent not found/;
/** One that names it, or at least says what kind of thing it is. */
const NOT_FOUND = /not found|no such|not exist|\bno \w+(?: \w+)? found|permission|ownership/i;
const KIND_OF_THING = /\b(?:assistant|container|conversation|file|item|response|thread|vector.?store)s?\b/i;

/**
 * Whether an answer says that what the request refers to is not with this account: it may be with another. `unknown`:
 * those of its ids whose account is not known; for a known one nobody else needs to be asked.
 */
export function saysMissing(
  { status, body }: { readonly status: number; readonly body: string },
  path: string,
  query: string,
  unknown: readonly string[],
): boolean {
  if (unknown.length === 0 || (status !== 400 && status !== 403 && status !== 404)) return false;
  if (status === 404 && idsAddressed(path, query).some((id) => unknown.includes(id))) return true;
  if (SAYS_MISSING.test(body)) return true;
  if (!NOT_FOUND.test(body)) return false;
  return unknown.some((id) => body.includes(id)) || (status === 404 && KIND_OF_THING.test(body));
}
