export function conversationOf(_path: string, _headers: Headers, _body: Uint8Array | null): number | null {
  return null;
}
export function rendezvous(conversation: number, seed: number): number {
  return Math.imul(conversation ^ seed, 0x9e3779b1) >>> 0;
}
export function seedOf(id: string): number {
  return parseInt(id, 16) >>> 0;
}
