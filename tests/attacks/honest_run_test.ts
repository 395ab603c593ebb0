/** What the laptop refuses of a hostile agent must not cost an honest one anything: all that `bazel run` can execute. */
import assert from "node:assert/strict";
import { dirname, join } from "node:path";
import { type Bazel, findBazels } from "../support/bazels.ts";
import { startCluster } from "../support/cluster.ts";
import { testWorkspace } from "../support/workspace.ts";

const FILES = {
  WORKSPACE: `workspace(name = "rbs_cpp")
load("//running:repository.bzl", "made")
made(name = "made_here")
`,
  "running/repository.bzl": `
def _made(context):
    context.file("WORKSPACE", "")
    context.file("BUILD", 'sh_binary(name = "tool", srcs = ["tool.sh"], data = ["data.txt"])')
    context.file("tool.sh", "#!/bin/bash\\necho external $1; cat $0.runfiles/made_here/data.txt", executable = True)
    context.file("data.txt", "data")

made = repository_rule(_made)
`,
  "running/BUILD": `
sh_binary(name = "arguments", srcs = ["arguments.sh"], args = ["from", "'the target'"])
sh_binary(name = "under", srcs = ["under.sh"])
alias(name = "other_name", actual = ":arguments")
genrule(name = "made", outs = ["made.sh"], cmd = "cp $< $@", srcs = ["arguments.sh"], executable = True)
sh_test(name = "a_test", srcs = ["a_test.sh"], args = ["one"])
exports_files(["arguments.sh"])
`,
  // Bazel 2.1 knows no such attribute.
  "with_env/BUILD": `cc_binary(name = "with_env", srcs = ["with_env.cc"], env = {"RBS_SAID": "so there"})\n`,
  "running/arguments.sh": `#!/bin/bash\nfor argument; do printf '<%s>' "$argument"; done; echo " in \${PWD##*/}"\n`,
  "running/under.sh":
    `#!/bin/bash\necho "under $*" | sed "s|/[^ ]*/||g"; while [[ $1 != /* ]]; do shift; done; exec "$@"\n`,
  "with_env/with_env.cc": `#include <cstdio>\n#include <cstdlib>\nint main() { std::puts(std::getenv("RBS_SAID")); }\n`,
  "running/a_test.sh": `#!/bin/bash\necho "a test with $*, $TEST_TARGET, $WANTED"\n`,
};

const ODD = ["", "two words", "$HOME `id` \"x\" 'y' \\z", "new\nline", "größe", "*", "a=b", "~", "{a,b}", "-c", "'"];
const SHOWN = ODD.map((argument) => `<${argument}>`).join("");

/** Arguments of `run`, what must be printed, and more variables. */
const RUNS: [what: string, args: string[], stdout: RegExp | string, env?: Record<string, string>][] = [
  ["odd arguments", ["//running:arguments", "--", ...ODD], `<from><the target>${SHOWN} in rbs_cpp\n`],
  ["an alias", ["//running:other_name"], "<from><the target> in rbs_cpp\n"],
  ["a file that was built, without runfiles", ["//running:made.sh", "--", "one"], /^<one> in \w+\n$/],
  ["a rule that builds an executable file", ["//running:made"], /^ in \w+\n$/],
  ["a file of the workspace", ["//running:arguments.sh", "--", "one"], /^<one> in \w+\n$/],
  ["a target with an environment", ["//with_env"], "so there\n"],
  ["a C++ program", ["//:hello", "--", "Linus"], /Hello, Linus!/],
  ["a binary of an external repository", ["@made_here//:tool", "--", "one"], "external one\ndata"],
  ["a command before it", ["--run_under=env -u X printf '%s\\n'", "//running:made"], /\/running\/made\.sh ?\n$/],
  ["a shell's words before it", ['--run_under=A=1; echo "$A" &&', "//running:made", "--", ...ODD], `1\n${SHOWN} in `],
  [
    "a target before it",
    ["--run_under=//running:under", "//running:made", "--", "x y"],
    /^under made\.sh x y\n<x y> in/,
  ],
  ["a target with options before it", [
    "--run_under=//running:under -o 'a b'",
    "//running:made",
  ], /^under -o a b made\.sh ?\n in/],
  ["another shell", ["--shell_executable=/bin/sh", "//running:made"], / in \w+\n$/],
  [
    "a test",
    ["--test_env=WANTED=this", "//running:a_test", "--", "x y"],
    "a test with one x y, //running:a_test, this\n",
  ],
  [
    "a test with the user's variables",
    ["--test_env=WANTED", "//running:a_test"],
    "a test with one, //running:a_test, v w\n",
    {
      WANTED: "v w",
      LD_LIBRARY_PATH: "/nowhere",
    },
  ],
  ["a command before a test", ["--run_under=env WANTED=under", "//running:a_test"], /one, .*, under\n/],
  ["a C++ test", ["//greeting:greeting_test"], /greetings are right/],
];

/**
 * Where Bazel 4.2.3's own test-setup.sh loses what a short test prints, without RBS too: 6 of 25 times when it was counted.
 * Those are run again.
 */
const LOSES_OUTPUT = /\btest$|a test /;

const { found } = await findBazels();

async function runs(bazel: Bazel, mode: string): Promise<void> {
  await using cluster = await startCluster({ args: [`--workspace=${mode}`], env: { RBS_BAZEL: bazel.path } });
  await using workspace = await testWorkspace(bazel, {
    env: cluster.env,
    startupOptions: [cluster.serverJavabase],
  });
  for (const [file, text] of Object.entries(FILES)) {
    await Deno.mkdir(dirname(join(workspace.path, file)), { recursive: true });
    await Deno.writeTextFile(join(workspace.path, file), text, { mode: 0o755 });
  }
  const failures: string[] = [];
  for (const [what, args, expected, env] of RUNS) {
    if (args[0] === "//with_env" && bazel.version.startsWith("2.")) continue;
    let tries = LOSES_OUTPUT.test(what) ? 12 : 1;
    for (; tries > 0; tries--) {
      const { code, stdout, stderr } = await workspace.run(["run", ...args], { env });
      const isRight = typeof expected === "string" ? stdout.includes(expected) : expected.test(stdout);
      if (code === 0 && isRight) break;
      if (code !== 0 || tries === 1) {
        failures.push(`${what}: exit code ${code}\n${stdout}${stderr}`);
        break;
      }
    }
  }
  assert.deepEqual(failures, [], failures.join("\n\n"));
}

for (const [i, bazel] of found.entries()) {
  // What is to be executed is the client's affair, and it is refused in the proxy: where the server's disk is matters once.
  for (const mode of i === 0 ? ["shared", "synced"] : ["synced"]) {
    Deno.test(`Bazel ${bazel.version}, ${mode}: run executes all that it can`, () => runs(bazel, mode));
  }
}
