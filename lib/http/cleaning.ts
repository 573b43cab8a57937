/**
 * Takes the key that upstream may have echoed out of what it answered, before anybody reads it (P29).
 *
 * What cannot be read cannot be cleaned: a body that is packed in a way nobody here can undo may hold the key, so it
 * does not go out at all. A note stands in its place.
 */
import { textOf } from "./body.ts";
import type { Bytes } from "./body.ts";
import { redact } from "../core/secret.ts";
import type { Secret } from "../core/secret.ts";
import type { Unpacked } from "./unpack.ts";

/**
 * The body of an answer without the key; its fields are cleaned in place. `sent`: the very bytes, which are returned
 * where they are what they say and the key is not in them. Else the body goes out unpacked.
 */
export function withoutSecret(sent: Bytes, unpacked: Unpacked, headers: Headers, secret: Secret): Bytes {
  cleanFields(headers, secret);
  const { plain, extent } = unpacked;
  if (extent === "none") {
    describeAnew(headers);
    headers.set("content-type", "application/json");
    return new TextEncoder().encode(UNREADABLE);
  }
  const text = textOf(plain);
  const clean = redact(text, [secret]);
  if (clean === text && extent === "whole") return sent;
  describeAnew(headers);
  return clean === text ? plain : new TextEncoder().encode(clean);
}

/** In the place of an error that cannot be read. */
const UNREADABLE = JSON.stringify({
  type: "error",
  error: {
    type: "upstream_protocol_error",
    code: "upstream_protocol_error",
    message:
      "The provider's error is packed in a way that cannot be undone. As a key may stand in it, it is left out.",
    param: null,
  },
});

/** Fields that tell something of the bytes that were sent. */
const ABOUT_BYTES = [
  "content-encoding",
  "content-length",
  "content-md5",
  "content-digest",
  "repr-digest",
  "digest",
  "etag",
];

function describeAnew(headers: Headers): void {
  for (const name of ABOUT_BYTES) headers.delete(name);
}

function cleanFields(headers: Headers, secret: Secret): void {
  const cookies = headers.getSetCookie();
  for (const [name, value] of [...headers]) {
    const clean = redact(value, [secret]);
    if (name !== "set-cookie" && clean !== value) headers.set(name, clean);
  }
  const cleanCookies = cookies.map((cookie) => redact(cookie, [secret]));
  if (cleanCookies.every((cookie, index) => cookie === cookies[index])) return;
  headers.delete("set-cookie");
  for (const cookie of cleanCookies) headers.append("set-cookie", cookie);
}
