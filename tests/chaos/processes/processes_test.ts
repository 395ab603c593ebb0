/** A short run with programs on SQLite; `deno task chaos --processes` makes longer ones, on both stores. */
import fc from "fast-check";
import assert from "node:assert/strict";
import { sqliteDatabase } from "../databases.ts";
import { runChaos } from "../run.ts";
import { operations, processScenarios } from "./scenarios.ts";

const SEED = 1;
const OPERATIONS = 30;

Deno.test("the operations of a run with programs are a function of its seed", () => {
  const drawn = (seed: number) => fc.sample(operations(OPERATIONS), { seed, numRuns: 1 })[0].join(" ");
  assert.equal(drawn(SEED), drawn(SEED));
  assert.notEqual(drawn(SEED), drawn(SEED + 1));
});

Deno.test({
  name: "whatever befalls two orchestrator programs and their agents, what must hold does",
  // gRPC's channels close a moment after they are told to.
  sanitizeOps: false,
  sanitizeResources: false,
  fn: async () => {
    // A disk that is full can take a minute to be put in order.
    const scenarios = processScenarios({
      newDatabase: sqliteDatabase,
      bazel: false,
      disk: false,
      operations: OPERATIONS,
    });
    const { runs, failure } = await runChaos({ seed: SEED, seconds: 8, scenarios });
    assert.equal(failure, undefined);
    assert(runs > 0);
  },
});
