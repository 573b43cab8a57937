/**
 * P49: what the proxy promises of retries, keys, streams and accounts, a pool of the library promises too. The same
 * tests, over both: here the stages stand on `createPooledFetch`.
 */
import { afterAll } from "bun:test";
import { stageOn } from "./fixture.ts";

const before = stageOn("library");
afterAll(() => void stageOn(before));

// As modules of their own: those of the same name stand on the proxy, and run only once.
for (const path of [
  "../../proxy.test.ts",
  "./passage.test.ts",
  "./blame.test.ts",
  "./routing.test.ts",
  "../http/failed-streams.test.ts",
  "../routing/resource-owners.binding.test.ts",
  "../routing/encrypted-reasoning.test.ts",
])
  await import(`${path}?over=library`);
