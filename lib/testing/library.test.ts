/**
 * P49: what the proxy promises of retries, keys, streams and accounts, a pool of the library promises too. The same
 * tests, over both: here the stages stand on `createPooledFetch`.
 */
import { afterAll } from "bun:test";
import { stageOn } from "./fixture.ts";

const before = stageOn("library");
afterAll(() => void stageOn(before));

await import("../../proxy.test.ts");
await import("./passage.test.ts");
await import("./blame.test.ts");
await import("./routing.test.ts");
await import("../http/failed-streams.test.ts");
await import("../routing/resource-owners.binding.test.ts");
await import("../routing/encrypted-reasoning.test.ts");
