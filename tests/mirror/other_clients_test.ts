/** Programs that call bazel themselves: ibazel, bazelisk, buildozer. Each as its users start it. */
import assert from "node:assert/strict";
import { dirname, join } from "node:path";
import { IS_FURTHER } from "../support/bazels.ts";
import { CLIENTS, npmTool } from "../support/npm_tool.ts";
import { run, type Running, start } from "../support/run.ts";
import { eventually } from "../support/eventually.ts";
import { BAZEL, Exit, type Rig, rig, testEach } from "./support/rig.ts";

const RULES = `
def _script(ctx):
    out = ctx.actions.declare_file(ctx.label.name + ".sh")
    ctx.actions.run_shell(
        inputs = ctx.files.srcs,
        outputs = [out],
        command = "(echo '#!/bin/sh'; cat %s) > %s; chmod +x %s" % (ctx.files.srcs[0].path, out.path, out.path),
    )
    return [DefaultInfo(executable = out)]

script = rule(implementation = _script, executable = True, attrs = {"srcs": attr.label_list(allow_files = True)})
script_test = rule(implementation = _script, test = True, attrs = {"srcs": attr.label_list(allow_files = True)})
`;

const BUILD = `
load("//:script.bzl", "script", "script_test")
genrule(name = "copy", srcs = ["text.txt"], outs = ["copy.txt"], cmd = "cat $(SRCS) > $@")
script(name = "tool", srcs = ["tool.txt"])
script_test(name = "good_test", srcs = ["test.txt"])
`;

/** To an editor's questions. */
interface Answers {
  found: { args: string[]; code: number; text: string }[];
  home: string;
}

/** The mode of a cluster, or that there is none. */
type Kind = "shared" | "synced" | "stock";

/** A cluster's mode says nothing about another generation of Bazel that it does not say about this machine's. */
const MODES = IS_FURTHER ? ["synced"] as const : ["shared", "synced"] as const;

/** What all tests of a kind share. */
const rigs = new Map<Kind, Promise<Rig>>();

Deno.test.afterAll(async () => {
  for (const one of rigs.values()) await (await one)[Symbol.asyncDispose]();
});

/** A workspace with its files as they are in the beginning. */
async function prepared(kind: Kind): Promise<Rig> {
  if (!rigs.has(kind)) rigs.set(kind, make(kind));
  const one = await rigs.get(kind)!;
  await Deno.writeTextFile(at(one, "app/BUILD"), BUILD);
  for (const [file, text] of [["text", "first\n"], ["tool", "echo the first tool\n"], ["test", "exit 0\n"]]) {
    await Deno.writeTextFile(at(one, `app/${file}.txt`), text);
  }
  return one;
}

/** Its .bazelrc alone says that it goes through RBS, as others' programs know no options of ours. */
async function make(kind: Kind): Promise<Rig> {
  const one = await rig(kind === "stock" ? { stock: true } : { args: [`--workspace=${kind}`] });
  const startup = one.workspace.argv([]).slice(1).map((option) => `startup ${option}\n`);
  // ibazel asks for all that a target depends on, where a rule set may come from the network.
  const query = BAZEL.bazelrc.filter((line) => line.startsWith("build --override")).map((line) =>
    `${line.replace("build", "query")}\n`
  );
  await Deno.writeTextFile(at(one, ".bazelrc"), [...startup, ...query].join(""), { append: true });
  await Deno.mkdir(at(one, "app"));
  await Deno.writeTextFile(at(one, "script.bzl"), RULES);
  return one;
}

const at = (one: Rig, path: string) => join(one.workspace.path, path);
const inside = (one: Rig, more: Record<string, string> = {}) => ({
  cwd: one.workspace.path,
  env: { ...one.workspace.env, ...more },
});

async function ibazel(one: Rig, ...args: string[]): Promise<Running> {
  return start([await npmTool(...CLIENTS.ibazel), `-bazel_path=${BAZEL.path}`, ...args], inside(one));
}

/** Ends it as a developer does: the first Ctrl-C ends what runs, and a second one ibazel. */
async function ended(running: Running) {
  const finished = running.finished.catch(() => {});
  let isOver = false;
  void finished.then(() => isOver = true);
  while (!isOver) {
    try {
      running.kill("SIGINT");
    } catch { /* it has ended just now */ }
    // Two at once are one for it.
    await Promise.race([finished, new Promise((resolve) => setTimeout(resolve, 250))]);
  }
}

/** What the stock server of an editor answers, for all modes. */
let inStock: Promise<Answers> | undefined;

for (const mode of MODES) {
  testEach(`${mode}: ibazel builds, tests and runs again with each edit`, async () => {
    const one = await prepared(mode);
    {
      await using building = await ibazel(one, "build", "//app:copy");
      for (const text of ["first\n", "second\n", "third\n"]) {
        if (text !== "first\n") await Deno.writeTextFile(at(one, "app/text.txt"), text);
        await eventually(
          async () => await Deno.readTextFile(at(one, "bazel-bin/app/copy.txt")).catch(() => "") === text,
          `ibazel has built ${JSON.stringify(text)}`,
          90_000,
        );
      }
      await ended(building);
    }
    // What it does besides is the same for both.
    if (mode === MODES[0] && MODES.length > 1) return;
    {
      await using testing = await ibazel(one, "test", "//app:good_test");
      await testing.says(/good_test .*PASSED/);
      await Deno.writeTextFile(at(one, "app/test.txt"), "exit 3\n");
      await testing.says(/good_test .*FAILED/);
      await ended(testing);
    }
    await using running = await ibazel(one, "run", "//app:tool");
    await running.says(/the first tool/);
    await Deno.writeTextFile(at(one, "app/tool.txt"), "echo the second tool\n");
    await running.says(/the second tool/);
    await ended(running);
  }, [BAZEL]);

  testEach(`${mode}: bazelisk runs the Bazel that it is told, and buildozer's edits are built`, async () => {
    const one = await prepared(mode);
    // Debian's bazel is a script that reads the same variable, and finds no Bazel of that name.
    const real = `${BAZEL.path}-${BAZEL.version.split(".")[0]}`;
    const version = await Deno.stat(real).then(() => real, () => BAZEL.path);
    const options = inside(one, { USE_BAZEL_VERSION: version });
    const bazelisk = await npmTool(...CLIENTS.bazelisk), buildozer = await npmTool(...CLIENTS.buildozer);
    const built = await run([bazelisk, "build", "//app:copy"], options);
    assert.equal(built.code, Exit.OK, built.stderr);
    assert.equal(await Deno.readTextFile(at(one, "bazel-bin/app/copy.txt")), "first\n");
    assert.equal((await run([bazelisk, "build", "//app:nothing"], options)).code, Exit.BUILD_FAILED);

    await Deno.writeTextFile(at(one, "app/more.txt"), "more\n");
    const edited = await run([buildozer, "add srcs more.txt", "//app:copy"], options);
    assert.equal(edited.code, 0, edited.stderr);
    const again = await run([bazelisk, "build", "//app:copy"], options);
    assert.equal(again.code, Exit.OK, again.stderr);
    assert.equal(await Deno.readTextFile(at(one, "bazel-bin/app/copy.txt")), "more\nfirst\n");
    const ran = await run([bazelisk, "run", "//app:tool"], options);
    assert.deepEqual([ran.code, ran.stdout], [Exit.OK, "the first tool\n"], ran.stderr);
  }, [BAZEL]);
  testEach(`${mode}: an editor's queries, by a server of their own, are stock's beside a build`, async () => {
    const [one, stock] = [await prepared(mode), await prepared("stock")];
    // A server of another output base would look for packages behind them.
    await run(["sh", "-c", "rm -f bazel-*"], inside(one));
    const build = one.start(["build", "//:sleepy"]);
    await one.acting();
    // As a language server and an IDE ask: targets for their trees, places to jump to, what a file belongs to, flags. In
    // full order: Bazel's own is another one from server to server.
    const query = ["query", "--order_output=full", "--keep_going", "--noshow_progress"];
    const asked = [
      ["info", "workspace", "execution_root", "output_path", "release"],
      [...query, "--output=proto", "kind(rule, //app/...)"],
      [...query, "--output=location", "//app:*"],
      [...query, "--output=package", "//..."],
      [...query, "--output=xml", "same_pkg_direct_rdeps(//app:text.txt)"],
      [...query, "--output=label_kind", "//app:nothing"],
      ["cquery", "--noshow_progress", "--output=label_kind", "deps(//app:copy, 1)"],
      ["help", "flags-as-proto"],
    ];
    const answers = async (side: Rig): Promise<Answers> => {
      const home = dirname(side.workspace.path), queries = `--output_base=${join(home, "queries")}`;
      const found = [];
      for (const args of asked) {
        const { code, stdoutBytes } = await side.workspace.run([queries, ...args]);
        // Both folders' names have the same length, so that a message's lengths are the same.
        const text = new TextDecoder("latin1").decode(stdoutBytes).replaceAll(home, "@");
        found.push({ args, code, text });
      }
      return { found, home };
    };
    const [ours, theirs] = [await answers(one), await (inStock ??= answers(stock))];
    assert.equal(ours.home.length, theirs.home.length);
    assert.deepEqual(ours.found, theirs.found);
    assert(theirs.found[1].text.includes("//app:copy"), "there is something to compare");
    // An edit is seen by the next query, while the build goes on.
    await Deno.writeTextFile(at(one, "app/BUILD"), `${BUILD}filegroup(name = "new")\n`);
    const edited = await one.workspace.run([`--output_base=${join(ours.home, "queries")}`, "query", "//app:new"]);
    assert.deepEqual([edited.code, edited.stdout], [Exit.OK, "//app:new\n"], edited.stderr);
    assert.equal(
      (await one.processes()).filter((p) => p.args.includes(one.marker)).length > 0,
      true,
      "it still builds",
    );
    await one.go();
    await build.finished;
    await one.buildsQuickly();
  }, [BAZEL]);
}
