/** What each Bazel on this machine makes, and whether the collector reports all that the developer needs. */
import { create } from "@bufbuild/protobuf";
import assert from "node:assert/strict";
import { dirname, join } from "node:path";
import {
  OutputsPolicy,
  type OutputsRequest,
  OutputsRequestSchema,
} from "../../proto/contract/gen/rbs/v1/command_pb.ts";
import type { Entry } from "../../proto/tree/entry.ts";
import { normalizeStderr } from "../../tests/mirror/normalize.ts";
import { type Bazel, findBazels } from "../../tests/support/bazels.ts";
import { output } from "../../tests/support/run.ts";
import { testWorkspace } from "../../tests/support/workspace.ts";
import { OutputsCollector } from "./outputs_collector.ts";
import { type Manifest, readManifest } from "./testing/manifest.ts";
import { type RealServer, realServer, type RunResult } from "./testing/real_server.ts";
import { Beneath } from "../files/beneath.ts";

const PACKAGE = {
  "defs.bzl": `
def _tree(ctx):
    tree = ctx.actions.declare_directory(ctx.label.name)
    command = "mkdir $1/sub $1/empty && echo a > $1/a && echo b > $1/sub/b && ln -s a $1/link"
    ctx.actions.run_shell(outputs = [tree], command = command, arguments = [tree.path])
    return [DefaultInfo(files = depset([tree]), runfiles = ctx.runfiles([tree]))]

tree = rule(_tree)

def _groups(ctx):
    outs = [ctx.actions.declare_file(ctx.label.name + name) for name in [".default", ".extra"]]
    for out in outs:
        ctx.actions.write(out, out.basename)
    return [DefaultInfo(files = depset(outs[:1])), OutputGroupInfo(extra = depset(outs[1:]))]

groups = rule(_groups)
`,
  "BUILD": `
load("@rules_shell//shell:sh_binary.bzl", "sh_binary")
load("@rules_shell//shell:sh_test.bzl", "sh_test")
load(":defs.bzl", "groups", "tree")

tree(name = "folder")
groups(name = "groups")
genrule(name = "odd", outs = ["sp ace%20.txt"], cmd = "echo x > '$@'")
sh_binary(name = "tool", srcs = ["tool.sh"], data = ["data.txt", ":folder"])
sh_test(name = "logs_test", size = "small", srcs = ["logs_test.sh"], shard_count = 2)
`,
  "tool.sh":
    '#!/bin/bash\ncat "$0.runfiles/rbs_cpp/outputs/folder/sub/b" "$0.runfiles/rbs_cpp/outputs/data.txt"\necho "$@"\n',
  "data.txt": "data\n",
  "logs_test.sh": '#!/bin/bash\ntouch "$TEST_SHARD_STATUS_FILE"\necho u > "$TEST_UNDECLARED_OUTPUTS_DIR/u.txt"\n',
};

/** A workspace of this Bazel with the package `outputs`, its server, and a collector for it. */
async function place(bazel: Bazel) {
  const workspace = await testWorkspace(bazel);
  const folder = join(workspace.path, "outputs");
  await Deno.mkdir(folder);
  for (const [name, text] of Object.entries(PACKAGE)) {
    await Deno.writeTextFile(join(folder, name), text, { mode: name.endsWith(".sh") ? 0o755 : 0o644 });
  }
  const server = await realServer(workspace, bazel.bazelrc);
  const { outputBase } = server;
  const storage = Beneath.open("/");
  const collector = new OutputsCollector({
    outputBase,
    workspace: workspace.path,
    storage,
    storagePath: (path) => path.slice(1),
  });
  return {
    workspace,
    server,
    bin: `${outputBase}/execroot/rbs_cpp/bazel-out/k8-fastbuild/bin`,
    async collect(args: string[], request: Partial<OutputsRequest> = {}): Promise<RunResult & { manifest?: Manifest }> {
      const outputs = create(OutputsRequestSchema, {
        policy: OutputsPolicy.TOPLEVEL,
        symlinkPrefix: new TextEncoder().encode("bazel-"),
        ...request,
      } as OutputsRequest);
      const prepared = await collector.prepare(server.args(...args), { outputs });
      const result = await server.run(prepared.args, prepared.filter);
      return { ...result, manifest: readManifest(await prepared.collect(result)) };
    },
    async [Symbol.asyncDispose]() {
      server[Symbol.dispose]();
      storage[Symbol.dispose]();
      await workspace[Symbol.asyncDispose]();
    },
  };
}

/** Leaves of the outputs only what the manifest names, as the developer's machine would have it. */
function bringHome({ outputBase }: RealServer, manifest: Manifest): Disposable {
  const there = `${outputBase}/there`;
  Deno.mkdirSync(there);
  const folders = ["execroot", "external"];
  for (const name of folders) Deno.renameSync(`${outputBase}/${name}`, `${there}/${name}`);
  const write = (entry: Entry) => {
    const { path, kind, mode, target } = entry;
    if (!path.startsWith(`${outputBase}/`)) return;
    Deno.mkdirSync(kind === "directory" ? path : dirname(path), { recursive: true });
    if (kind === "symlink") Deno.symlinkSync(target!, path);
    else if (kind === "file") {
      Deno.copyFileSync(there + path.slice(outputBase.length), path);
      Deno.chmodSync(path, mode);
    }
  };
  manifest.entries.forEach(write);
  return {
    [Symbol.dispose]() {
      for (const name of folders) {
        new Deno.Command("rm", { args: ["-rf", `${outputBase}/${name}`] }).outputSync();
        Deno.renameSync(`${there}/${name}`, `${outputBase}/${name}`);
      }
      Deno.removeSync(there);
    },
  };
}

function paths(manifest: Manifest | undefined, folder: string): string[] {
  return (manifest?.entries ?? []).map(({ path }) => path)
    .filter((path) => path.startsWith(`${folder}/`)).map((path) => path.slice(folder.length + 1)).sort();
}

const { found } = await findBazels();

for (const bazel of found) {
  Deno.test(`Bazel ${bazel.version}`, async (t) => {
    await using it = await place(bazel);
    const { collect, server, workspace, bin } = it;

    await t.step("build events change nothing that is printed, no exit code, and no analysis", async () => {
      for (
        const command of [["build", "//:hello"], ["build", "//special:failing"], ["build", "//:nothing"], ["build"]]
      ) {
        await server.run(server.args(...command));
        const stock = await server.run(server.args(...command));
        const ours = await collect(command);
        assert.equal(ours.exitCode, stock.exitCode);
        assert.deepEqual(normalizeStderr(ours.stderr), normalizeStderr(stock.stderr), command.join(" "));
        assert.doesNotMatch(ours.stderr, /Build Event|discarding analysis cache|[1-9]\d* targets configured/);
      }
    });

    await t.step("the outputs of what was named come, and nothing else", async () => {
      const { manifest, exitCode } = await collect(
        ["build", "--output_groups=+extra", ...["folder", "groups", "odd"].map((name) => `//outputs:${name}`)],
      );
      assert.equal(exitCode, 0);
      // Of a folder, 2.1.0 names only the files.
      const folders = bazel.version.startsWith("2.") ? [] : ["folder", "folder/empty", "folder/sub"];
      assert.deepEqual(
        paths(manifest, `${bin}/outputs`),
        ["folder/a", "folder/link", "folder/sub/b", "groups.default", "groups.extra", "sp ace%20.txt", ...folders]
          .sort(),
      );
      const links = paths(manifest, workspace.path);
      assert.deepEqual(links.filter((name) => name !== "MODULE.bazel.lock"), [
        "bazel-bin",
        "bazel-out",
        "bazel-testlogs",
        "bazel-workspace",
      ]);
      const again = await collect(
        ["build", "--output_groups=+extra", ...["folder", "groups", "odd"].map((name) => `//outputs:${name}`)],
        { knownManifest: manifest!.id },
      );
      assert.deepEqual([again.manifest!.unchanged, again.manifest!.entries], [true, []]);
      const cleaned = await collect(["clean"]);
      assert.deepEqual([cleaned.manifest!.cleaned, cleaned.manifest!.entries], [true, []]);
    });

    await t.step("built binaries run where only what was promised is", async () => {
      const { manifest } = await collect(["build", "//outputs:tool", "//:hello", "//greeting:greeting_test"]);
      using _home = bringHome(server, manifest!);
      assert.equal(await output([`${bin}/outputs/tool`, "x y"], { cwd: "/" }), "b\ndata\nx y\n");
      assert.match(await output([`${bin}/hello`], { cwd: "/" }), /\w/);
      await output([`${bin}/greeting/greeting_test`], { cwd: "/" });
    });

    await t.step("what `bazel run` executes comes, whatever the policy", async () => {
      const script = join(workspace.path, "script");
      const { manifest } = await collect(["run", `--script_path=${script}`, "//outputs:tool"], {
        policy: OutputsPolicy.MINIMAL,
        namedFiles: [new TextEncoder().encode(script)],
      });
      const { manifest: same, execRequest } = await collect(["run", "//outputs:tool"], {
        policy: OutputsPolicy.MINIMAL,
      });
      assert.ok(execRequest);
      assert.deepEqual(paths(same, server.outputBase), paths(manifest, server.outputBase));
      assert.ok(paths(manifest, workspace.path).includes("script"));
      using _home = bringHome(server, manifest!);
      assert.equal(await output([script, "x y"], { cwd: "/" }), "b\ndata\nx y\n");
    });

    await t.step("tests bring their logs and undeclared outputs", async () => {
      // Zipping takes a zip program, which not each machine has; older Bazels always do it.
      const flags = Number(bazel.version.split(".")[0]) < 5 ? [] : ["--nozip_undeclared_test_outputs"];
      const { manifest } = await collect(["test", ...flags, "//outputs:logs_test"]);
      const logs = paths(manifest, `${server.outputBase}/execroot/rbs_cpp/bazel-out/k8-fastbuild/testlogs/outputs`);
      for (const shard of ["shard_1_of_2", "shard_2_of_2"]) {
        for (const name of ["test.log", "test.xml"]) {
          assert.ok(logs.includes(`logs_test/${shard}/${name}`), logs.join());
        }
        assert.ok(logs.some((path) => path.startsWith(`logs_test/${shard}/test.outputs/`)), logs.join());
      }
    });

    await t.step("the user's own files of build events are read, and stay the user's", async () => {
      const rc = "--default_override=1:build:ci=--build_event_binary_file=bep";
      for (const args of [["--build_event_binary_file=bep"], [rc], [rc, "--config=ci"]]) {
        const { manifest, exitCode, stderr } = await collect(["build", ...args, "//:hello"]);
        assert.equal(exitCode, 0, stderr);
        assert.ok(paths(manifest, bin).includes("hello"), args.join(" "));
        const wrote = await Deno.remove(join(workspace.path, "bep")).then(() => true, () => false);
        assert.equal(wrote, args.length === 2 || args[0] !== rc, args.join(" "));
      }
    });
  });
}
