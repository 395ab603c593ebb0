/**
 * The mirror test of what a command leaves on the developer's machine: files of bazel-bin, and files, links and pipes that
 * options name. They are the same as with the stock client, also where only what was named comes home.
 */
import { join } from "node:path";
import { type Bazel, findBazels } from "../support/bazels.ts";
import { type Comparison, Mirror, type Scenario, type Side } from "./compare.ts";

const Exit = { OK: 0, BUILD_FAILED: 1 };

const FILES = {
  "making/BUILD": `
# app makes gen.h anew on its way.
genrule(name = "gen", srcs = ["gen.in"], outs = ["gen.h"], cmd = "cp $< $@", tags = ["manual"])
genrule(name = "app", srcs = ["gen.h"], outs = ["app.txt"], cmd = "cp $< $@; echo app >> $@", tags = ["manual"])
`,
};

const scenarios: { name: string; act: Scenario }[] = [];

/** Adds a scenario. Those of one Bazel run in the order in which they stand here. */
function mirrored(name: string, act: Scenario) {
  scenarios.push({ name, act });
}

/** Runs a command that brings home what is named, and nothing else. */
function run(side: Side, args: readonly string[], comparison: Comparison = {}) {
  return side.run(args, { ...comparison, env: { RBS_OUTPUTS: undefined, ...comparison.env } });
}

/** Writes down what a file of the workspace holds. */
async function noteFile(side: Side, path: string) {
  side.note(path, await Deno.readTextFile(join(side.path, path)).catch((e) => e.name));
}

mirrored("an output that another command remakes on its way is the new one", async (side) => {
  await side.write("making/gen.in", "one\n");
  await run(side, ["build", "//making:gen"], { code: Exit.OK });
  await noteFile(side, "bazel-bin/making/gen.h");
  await side.write("making/gen.in", "two\n");
  await run(side, ["build", "//making:app"], { code: Exit.OK });
  await noteFile(side, "bazel-bin/making/gen.h");
  await noteFile(side, "bazel-bin/making/app.txt");
});

const { found, missing } = await findBazels();
for (const sentence of missing) console.log(`Not run: ${sentence}`);
const mirrors: Mirror[] = [];

for (const bazel of found) {
  const mirror = new Mirror(bazel, scenarios.map(({ act }) => act), FILES);
  mirrors.push(mirror);
  scenarios.forEach(({ name }, index) =>
    test(bazel, name, () => {
      // The other Bazels go on meanwhile: each waits more than it works.
      for (const other of mirrors) other.start();
      return mirror.compare(index);
    })
  );
}

Deno.test.afterAll(async () => {
  await Promise.all(mirrors.map((mirror) => mirror[Symbol.asyncDispose]()));
});

function test(bazel: Bazel, name: string, fn: () => Promise<void>) {
  // The mirror outlives each of its tests.
  Deno.test({ name: `Bazel ${bazel.version}: ${name}`, fn, sanitizeOps: false, sanitizeResources: false });
}
