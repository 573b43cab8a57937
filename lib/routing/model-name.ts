/**
 * Where a request names its model, and the same request with another one in that place. Pure.
 *
 * Nearly all name it in a field of a JSON body; uploads of sound and pictures in a field of a form; Gemini in the path.
 */
import { asBuffer, findTopLevelString, replaceTopLevelString } from "../core/json.ts";
import type { Bytes } from "../http/body.ts";

/** What of a request may name a model. */
export interface Naming {
  readonly path: string;
  /** Its `content-type`; null: it has none. */
  readonly contentType: string | null;
  readonly body: Bytes | null;
}

/** No provider has a longer name; a client's text is not kept, nor logged, at any length. */
const LONGEST_MODEL = 200;
/** `/v1beta/models/gemini-pro:generateContent` */
const IN_PATH = /(\/models\/)([^/]+)(:\w+)$/;
/** `/openai/deployments/my-gpt/chat/completions`: Azure's limits are those of a deployment. */
const DEPLOYMENT = /\/deployments\/([^/]+)\//;

/** The model that a request names; null: none, or a name that can be none. */
export function modelOf({ path, contentType, body }: Naming): string | null {
  const inPath = IN_PATH.exec(path)?.[2] ?? DEPLOYMENT.exec(path)?.[1];
  const model = inPath ?? (body === null ? null : modelOfBody(contentType, body));
  return model === null || model.length > LONGEST_MODEL ? null : model;
}

function modelOfBody(contentType: string | null, body: Bytes): string | null {
  const boundary = boundaryOf(contentType);
  if (boundary === null) return findTopLevelString(body, "model")?.value ?? null;
  const field = modelField(boundary, body);
  return field === null ? null : asBuffer(body).toString("utf8", field.start, field.end);
}

/** The body with another model in it, and nothing else changed; as it is where it names none. */
export function bodyWithModel(body: Bytes, contentType: string | null, model: string): Bytes {
  const boundary = boundaryOf(contentType);
  if (boundary === null) {
    const found = findTopLevelString(body, "model");
    return found === null ? body : replaceTopLevelString(body, found, model);
  }
  const field = modelField(boundary, body);
  if (field === null || /[\r\n]/.test(model)) return body;
  const written = new TextEncoder().encode(model);
  const replaced = new Uint8Array(body.length + written.length - (field.end - field.start));
  replaced.set(body.subarray(0, field.start));
  replaced.set(written, field.start);
  replaced.set(body.subarray(field.end), field.start + written.length);
  return replaced;
}

/** The path with another model in it; as it is where it names none. */
export function pathWithModel(path: string, model: string): string {
  return path.replace(IN_PATH, (_, before: string, _old: string, behind: string) => {
    return before + encodeURIComponent(model) + behind;
  });
}

/** The boundary of a form (RFC 2046, section 5.1.1); null: it is no form. */
function boundaryOf(contentType: string | null): string | null {
  if (contentType === null || !/^multipart\/form-data\b/i.test(contentType)) return null;
  const found = /;\s*boundary=(?:"([^"]{1,70})"|([^\s;"]{1,70}))/i.exec(contentType);
  return found?.[1] ?? found?.[2] ?? null;
}

/** More parts no form has that names a model; more bytes no part has before its content (RFC 7578). */
const MOST_PARTS = 64;
const LONGEST_PART_HEAD = 2048;

/** Where the content of the part called `model` stands; null: there is none. Files are jumped over unread. */
function modelField(boundary: string, body: Bytes): { start: number; end: number } | null {
  const bytes = asBuffer(body);
  const delimiter = Buffer.from(`\r\n--${boundary}`);
  let at = bytes.indexOf(delimiter.subarray(2));
  for (let part = 0; part < MOST_PARTS && at >= 0; part++) {
    const head = at + delimiter.length - (part === 0 ? 2 : 0);
    const end = bytes.indexOf(delimiter, head);
    if (end < 0) return null;
    const start = bytes.indexOf("\r\n\r\n", head) + 4;
    const isRead = start > 3 && start <= end && start - head <= LONGEST_PART_HEAD;
    if (isRead && NAMED_MODEL.test(bytes.toString("latin1", head, start))) return { start, end };
    at = end;
  }
  return null;
}

const NAMED_MODEL = /^content-disposition:[^\r\n]*;\s*name="?model"?\s*(?:;|\r)/im;
