/** A short run on each store; `deno task chaos` makes longer ones. */
import fc from "fast-check";
import assert from "node:assert/strict";
import { SpannerEmulator, withEmulator } from "../../orchestrator/testing/spanner_emulator.ts";
import { spannerDatabase, sqliteDatabase } from "./databases.ts";
import { operations, scenarios } from "./operations.ts";
import { runChaos } from "./run.ts";

const SEED = 1;

Deno.test("the operations of a run are a function of its seed", () => {
  const drawn = (seed: number) => fc.sample(operations(3), { seed, numRuns: 1 })[0].join(" ");
  assert.equal(drawn(SEED), drawn(SEED));
  assert.notEqual(drawn(SEED), drawn(SEED + 1));
});

function test(name: string, run: () => Promise<void>): void {
  // gRPC's channels close a moment after they are told to.
  Deno.test({ name, sanitizeOps: false, sanitizeResources: false, fn: run });
}

test("SQLite: whatever befalls orchestrators, agents and store, what must hold does", async () => {
  const { runs, failure } = await runChaos({ seed: SEED, seconds: 5, scenarios: scenarios(sqliteDatabase) });
  assert.equal(failure, undefined);
  assert(runs > 0);
});

withEmulator(() => {
  test("Spanner: whatever befalls orchestrators, agents and store, what must hold does", async () => {
    await using emulator = await SpannerEmulator.start();
    const { failure } = await runChaos({ seed: SEED, seconds: 5, scenarios: scenarios(spannerDatabase(emulator)) });
    assert.equal(failure, undefined);
  });
});
