/** Bazel inside of Bazel: tests that run bazel themselves, as those of rules do, in an environment of their own. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { type Bazel, IS_FURTHER } from "../support/bazels.ts";
import { PROGRAMS } from "../support/repository.ts";
import { BAZELS, Exit, rig, testEach } from "./support/rig.ts";

const RULE = `
def _script_test(ctx):
    ctx.actions.write(ctx.outputs.executable, ctx.attr.script, is_executable = True)

script_test = rule(implementation = _script_test, test = True, attrs = {"script": attr.string()})
`;

/** Its workspace's rc file sends it through RBS; nothing else that it sees knows of RBS. */
const script = ({ path: bazel, bazelrc }: Bazel, javabase: string) =>
  `#!/bin/bash -e
mkdir -p "$TEST_TMPDIR/inner" && cd "$TEST_TMPDIR/inner"
touch WORKSPACE BUILD MODULE.bazel
printf '%s\n' ${
    ["startup --server_javabase=" + javabase, ...bazelrc.filter((line) => line.startsWith("startup "))]
      .map((line) => `"${line}"`).join(" ")
  } > .bazelrc
inner() { env -i "PATH=$PATH" "HOME=$TEST_TMPDIR" ${bazel} "--output_user_root=$TEST_TMPDIR/root" "$@"; }
release=$(inner info release)
echo "inner: $release"
inner shutdown
`;

testEach("a test that runs bazel in a clean environment passes", async (bazel) => {
  const said: (string | undefined)[] = [];
  // What a session sees of the other is the same for each Bazel.
  for (const mode of IS_FURTHER ? ["synced"] : ["shared", "synced"]) {
    await using one = await rig({ bazel, args: [`--workspace=${mode}`] });
    const at = (name: string) => join(one.workspace.path, name);
    await Deno.mkdir(at("nested"));
    await Deno.writeTextFile(at("nested/script.bzl"), RULE);
    const text = JSON.stringify(script(bazel, PROGRAMS.javabase));
    await Deno.writeTextFile(
      at("nested/BUILD"),
      `load(":script.bzl", "script_test")\nscript_test(name = "nested_test", script = ${text})\n`,
    );
    const { code, stdout, stderr } = await one.run(["test", "--test_output=all", "//nested:nested_test"]);
    assert.equal(code, Exit.OK, stdout + stderr);
    said.push((stdout + stderr).match(/^inner: .*$/m)?.[0]);
  }
  assert.match(said[0] ?? "", /^inner: ./);
  assert.equal(new Set(said).size, 1);
}, BAZELS.filter(({ path }) => path.startsWith("/usr/")));
