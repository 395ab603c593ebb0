/**
 * A part of what `deno task compare` does for as long as one likes, and from anywhere. Here it begins with what was once
 * found by that, so that what fails was broken by the last change. RBS_TEST_SEED: where to begin.
 */
import assert from "node:assert/strict";
import { findBazels } from "../support/bazels.ts";
import { startCluster } from "../support/cluster.ts";
import { compareRandomly } from "./random.ts";

const SECONDS = { shared: 40, synced: 80 };
const { found: [bazel] } = await findBazels({ npm: false });
const seed = Number(Deno.env.get("RBS_TEST_SEED") ?? 31320721);

for (const [mode, seconds] of Object.entries(SECONDS)) {
  Deno.test(`${mode}: random workspaces are as with stock Bazel`, { ignore: !bazel }, async () => {
    console.log(`seed ${seed} (RBS_TEST_SEED)`);
    await using cluster = await startCluster({ args: [`--workspace=${mode}`], env: { RBS_BAZEL: bazel.path } });
    const { failure, steps } = await compareRandomly(bazel, cluster, { seed, seconds });
    assert.ok(failure === undefined, failure ?? "");
    assert.ok(steps > 0);
  });
}
