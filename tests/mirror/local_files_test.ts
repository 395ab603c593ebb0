/**
 * The mirror test of what a command leaves on the developer's machine: files of bazel-bin, and files, links and pipes that
 * options name. They are the same as with the stock client, also where only what was named comes home.
 */
import { dirname, join } from "node:path";
import { type Bazel, findBazels } from "../support/bazels.ts";
import { start } from "../support/run.ts";
import { eventually } from "../support/eventually.ts";
import { processesNaming } from "./support/processes.ts";
import { type Comparison, Mirror, type Scenario, type Side } from "./compare.ts";

const Exit = { OK: 0, BUILD_FAILED: 1 };

const FILES = {
  "making/BUILD": `
# app makes gen.h anew on its way.
genrule(name = "gen", srcs = ["gen.in"], outs = ["gen.h"], cmd = "cp $< $@", tags = ["manual"])
genrule(name = "app", srcs = ["gen.h"], outs = ["app.txt"], cmd = "cp $< $@; echo app >> $@", tags = ["manual"])

# The first fails unless what it writes is good.
genrule(name = "half", srcs = ["half.in"], outs = ["half.txt"], cmd = "cp $< $@; grep -q good $<", tags = ["local", "manual"])
genrule(name = "whole", srcs = ["half.in"], outs = ["whole.txt"], cmd = "cp $< $@", tags = ["local", "manual"])
`,
};

const scenarios: { name: string; act: Scenario }[] = [];

/** Adds a scenario. Those of one Bazel run in the order in which they stand here. */
function mirrored(name: string, act: Scenario) {
  scenarios.push({ name, act });
}

/** Runs a command that brings home what is named, and nothing else. */
function run(side: Side, args: readonly string[], comparison: Comparison = {}) {
  const { stderr = (lines) => lines } = comparison;
  // Debian's Bazel 7 is given rule sets of the system, which is said once.
  const ours = (lines: string[]) => stderr(lines.filter((line) => !/^rbs: warning: \/usr\/share\/bazel/.test(line)));
  return side.run(args, { ...comparison, stderr: ours, env: { RBS_OUTPUTS: undefined, ...comparison.env } });
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

mirrored("after an action that failed its output is the one that it has left, or none", async (side) => {
  const targets = ["//making:half", "//making:whole"];
  for (const content of ["good\n", "bad\n"]) {
    await side.write("making/half.in", content);
    const code = content === "good\n" ? Exit.OK : Exit.BUILD_FAILED;
    await run(side, ["build", "--keep_going", ...targets], { code, stderr: withoutCounts });
    await noteFile(side, "bazel-bin/making/half.txt");
    await noteFile(side, "bazel-bin/making/whole.txt");
  }
});

mirrored("after Ctrl-C an output is the one that the action has left, and a test's log is there", async (side) => {
  const marker = `${600 + Math.random()}`;
  await side.write(
    "stuck/BUILD",
    `
load("@rules_shell//shell:sh_test.bzl", "sh_test")
genrule(
    name = "stuck",
    srcs = ["stuck.in"],
    outs = ["stuck.txt"],
    cmd = "cp $< $@; grep -q good $< || sleep ${marker}",
    tags = ["local", "manual"],
)
sh_test(name = "stuck_test", srcs = ["stuck_test.sh"], tags = ["local", "manual"])
`,
  );
  await side.write("stuck/stuck_test.sh", `#!/bin/bash\necho "the test has begun"\nsleep ${marker}\n`);
  await side.write("stuck/stuck.in", "good\n");
  await run(side, ["build", "//stuck:all", "//stuck:stuck", "//stuck:stuck_test"], { code: Exit.OK });
  await noteFile(side, "bazel-bin/stuck/stuck.txt");
  await side.write("stuck/stuck.in", "bad\n");
  await interrupted(side, ["build", "//stuck:stuck"], marker);
  await noteFile(side, "bazel-bin/stuck/stuck.txt");
  await interrupted(side, ["test", "//stuck:stuck_test"], marker);
  const log = await Deno.readTextFile(join(side.path, "bazel-testlogs/stuck/stuck_test/test.log")).catch((e) => e.name);
  side.note("test.log", /the test has begun/.test(log) || log);
  await side.exec(["rm", "-r", "stuck"]);
});

mirrored("convenience symlinks are where the command says, or go, or stay as they are", async (side) => {
  const parent = dirname(side.path);
  const links = async (what: string) => {
    const seen: string[] = [];
    for (const folder of [side.path, parent, join(parent, "links")]) {
      const names = await Array.fromAsync(Deno.readDir(folder)).catch(() => []);
      for (const { name, isSymlink } of names) {
        if (isSymlink) seen.push(`${folder}/${name} -> ${await Deno.readLink(join(folder, name))}`);
      }
    }
    side.note(what, seen.sort());
  };
  const build = async (...options: string[]) => {
    await run(side, ["build", ...options, "//making:gen"], { code: Exit.OK, stderr: () => [] });
    await links(options.join(" "));
  };
  await build(`--symlink_prefix=${parent}/links/p-`);
  await build("--symlink_prefix=../up-");
  await build("--symlink_prefix=foo-");
  for (const mode of ["clean", "ignore", "log_only", "normal"]) {
    await build(`--experimental_convenience_symlinks=${mode}`);
  }
  await Deno.remove(join(side.path, "bazel-testlogs"));
  await build("--experimental_convenience_symlinks=ignore");
  await build("--symlink_prefix=/");
  await Deno.remove(join(side.path, "bazel-bin"));
  await Deno.symlink(".", join(side.path, "bazel-bin"));
  await build();
  await run(side, ["clean"], { code: Exit.OK });
  await links("clean");
  await run(side, ["clean", "--symlink_prefix=foo-"], { code: Exit.OK });
  await links("clean --symlink_prefix=foo-");
  await side.exec(["sh", "-c", "rm -rf bazel-* foo-* ../up-* ../links"]);
});

mirrored("what cannot be left beside the outputs does not take the exit code", async (side) => {
  const plain = join(dirname(side.path), "plain");
  await Deno.writeTextFile(plain, "a file");
  await side.write("making/gen.in", "beside\n");
  for (const option of ["profile", "explain"]) {
    const args = ["build", `--${option}=${plain}/x`, "//making:gen"];
    await run(side, args, { code: Exit.OK, stderr: () => [] });
    await noteFile(side, "bazel-bin/making/gen.h");
  }
  await Deno.remove(plain);
});

mirrored(
  "a pipe gets what is written, and a file of the workspace grows while the command runs, whatever others do",
  async (side) => {
    const folder = dirname(side.path);
    const pipe = join(folder, "events.pipe"), name = "events.json", file = join(side.path, name);
    await side.exec(["mkfifo", pipe]);
    const reading = Deno.readTextFile(pipe);
    await run(side, ["build", `--build_event_json_file=${pipe}`, "//making:gen"], { code: Exit.OK, stderr: () => [] });
    side.note("the pipe's last event", lastEvent(await reading));
    side.note("the pipe", (await Deno.lstat(pipe)).isFifo);

    await Deno.writeTextFile(file, "of an earlier command\n");
    using follower = await Deno.open(file);
    const marker = `${600 + Math.random()}`;
    const rule = `genrule(name = "slow", outs = ["slow.txt"], cmd = "sleep ${marker}", tags = ["local", "manual"])\n`;
    await side.write("slow/BUILD", rule);
    await interrupted(side, ["build", `--build_event_json_file=${name}`, "//slow"], marker, async () => {
      const text = await eventually(async () => {
        const text = await Deno.readTextFile(file);
        return /"targetConfigured"/.test(text) ? text : undefined;
      }, "the events grow");
      side.note("meanwhile it begins with", Object.keys(JSON.parse(text.split("\n")[0])).sort());
      // The workspace is synced for others as well, and the file in it is still being written.
      const other = [side.bazel.path, "--noblock_for_lock", "query", "//making:gen"];
      side.note("another command", (await start(other, { cwd: side.path, env: side.env }).finished).code);
    });
    side.note("in the end it ends with", lastEvent(await Deno.readTextFile(file)));
    side.note("it is the same file", (await follower.stat()).ino === (await Deno.stat(file)).ino);
    await side.exec(["rm", "-r", "slow", pipe, file]);
  },
);

/** Whether the last of build events says that it is. */
function lastEvent(text: string): unknown {
  return JSON.parse(text.trimEnd().split("\n").at(-1)!).lastMessage;
}

/** Runs a command that is interrupted while its action sleeps. */
async function interrupted(side: Side, args: readonly string[], marker: string, meanwhile = async () => {}) {
  const env = { ...side.env, RBS_OUTPUTS: undefined };
  await using command = start([side.bazel.path, ...args], { cwd: side.path, env });
  await eventually(async () => {
    const processes = await processesNaming(marker);
    return processes.some(({ args: [name, ...rest] }) => /\bsleep$/.test(name) && rest.includes(marker));
  }, "the action runs");
  await meanwhile();
  command.kill("SIGINT");
  side.note(`exit code of ${args.join(" ")}`, (await command.finished).code);
}

/** Which of two actions runs first, and how many did then, is a matter of time. */
function withoutCounts(lines: string[]): string[] {
  return lines.filter((line) => !/^INFO: (\d+ process|Build completed)/.test(line)).sort();
}

mirrored("folders that a sandbox is told of have to exist here, and nowhere else", async (side) => {
  const folder = join(dirname(side.path), "writable");
  await Deno.mkdir(folder);
  for (const [i, option] of ["sandbox_writable_path", "sandbox_tmpfs_path", "sandbox_base"].entries()) {
    await side.write("making/gen.in", `in a sandbox, ${i}\n`);
    const args = ["--spawn_strategy=linux-sandbox", `--${option}=${folder}`, "//making:gen"];
    await run(side, ["build", ...args], { code: Exit.OK });
    await noteFile(side, "bazel-bin/making/gen.h");
  }
  await Deno.remove(folder, { recursive: true });
});

mirrored("files that options name by their absolute path are written", async (side) => {
  const file = join(dirname(side.path), "named.out");
  const generation = Number(side.bazel.version.split(".")[0]);
  const commands = [
    ["query", `--experimental_repository_resolved_file=${file}`, "//making:all"],
    ["build", `--experimental_workspace_rules_log_file=${file}`, "//making:gen"],
    ...generation < 7 ? [["dump", `--action_graph=${file}`]] : [
      ["query", `--output_file=${file}`, "//making:all"],
      ["build", `--execution_log_compact_file=${file}`, "//making:gen"],
      [
        "build",
        "--experimental_enable_execution_graph_log",
        `--experimental_execution_graph_log_path=${file}`,
        "//making",
      ],
    ],
  ];
  for (const command of commands) {
    await run(side, command);
    side.note(command.join(" "), await Deno.stat(file).then(({ isFile }) => isFile, (e) => e.name));
    await Deno.remove(file).catch(() => {});
  }
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
