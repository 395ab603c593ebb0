/** What becomes of each path that an option names is known, for each Bazel of this machine. */
import assert from "node:assert/strict";
import { optionsOf, unlisted } from "../../tools/path_options.ts";
import { findBazels } from "../support/bazels.ts";

const { found, missing } = await findBazels();
for (const sentence of missing) console.log(`Not run: ${sentence}`);

for (const bazel of found) {
  Deno.test(`Bazel ${bazel.version}: each option that names a path stands in the table`, async () => {
    assert.deepEqual(unlisted(await optionsOf(bazel.path)).map(({ name }) => name), []);
  });
}
