/**
 * The attacker is a build action, and wants the developer's own Bazel to execute something later, when RBS is switched off:
 * it changes an external repository and a runfiles tree, and has them brought home along with what vouches for them.
 */
import assert from "node:assert/strict";
import { dirname, join } from "node:path";
import { repoHash } from "../../proto/bazel/workspace.ts";
import { findBazels } from "../support/bazels.ts";
import { startCluster } from "../support/cluster.ts";
import { run } from "../support/run.ts";
import { tempDir } from "../support/temp_dir.ts";
import { testWorkspace } from "../support/workspace.ts";

const { found } = await findBazels({ npm: false });
const [BAZEL] = found;

/** @param executed The file that is made by who executes what was planted. */
const files = (executed: string) => ({
  WORKSPACE: `load("//:repository.bzl", "made")\nmade(name = "made_here")\n`,
  "repository.bzl": `
def _made(context):
    context.file("WORKSPACE", "")
    context.file("BUILD", 'exports_files(["tool.sh"])')
    context.file("tool.sh", "#!/bin/bash\\necho honest", executable = True)

made = repository_rule(_made)
`,
  BUILD: `
genrule(name = "use", outs = ["used.txt"], tools = ["@made_here//:tool.sh"], cmd = "$(location @made_here//:tool.sh) > $@")

sh_binary(name = "tool", srcs = ["tool.sh"], data = ["data.sh"])

genrule(name = "use_tool", outs = ["tool.txt"], tools = [":tool"], cmd = "$(location :tool) > $@")

# These work where their server works: an honest agent runs them, as any build action.
genrule(
    name = "plant",
    srcs = ["planted.sh"],
    outs = ["tool_file", "build_file", "workspace_file", "tree"],
    cmd = """
base=$\${PWD%/execroot/*} tree=$$PWD/$(BINDIR)/tool.runfiles
cp -f $< $$base/external/made_here/tool.sh
rm -f $$tree/__main__/data.sh && cp -f $< $$tree/__main__/data.sh
ln -s $$base/external/made_here/tool.sh $(location tool_file)
ln -s $$base/external/made_here/BUILD $(location build_file)
ln -s $$base/external/made_here/WORKSPACE $(location workspace_file)
ln -s $$tree/__main__/data.sh $(location tree)
""",
    local = True,
    tags = ["manual"],
)

genrule(
    name = "vouch",
    outs = ["marker"],
    cmd = "ln -s $\${PWD%/execroot/*}/external/@made_here.marker $@",
    local = True,
    tags = ["manual"],
)
`,
  "tool.sh": `#!/bin/bash\nexec "$0.runfiles/__main__/data.sh"\n`,
  "data.sh": "#!/bin/bash\necho honest\n",
  "planted.sh": `#!/bin/bash\ntouch ${executed}\necho planted\n`,
});

/** How RBS comes to its end. */
const ENDS = ["by its options", "by a kill"] as const;

for (const mode of ["shared", "synced"] as const) {
  for (const end of ENDS) {
    // What was put aside is put back by the proxy alone.
    for (const before of end === "by its options" ? [true, false] : [false]) {
      const since = before ? "after a local server had been here" : "in a new output base";
      Deno.test(`${mode}: a local Bazel executes nothing of the agent's once RBS was ended ${end}, ${since}`, async () => {
        await using directory = await tempDir("rbs-attack-");
        const executed = directory.join("executed");
        await using cluster = await startCluster({ args: [`--workspace=${mode}`], env: { RBS_BAZEL: BAZEL.path } });
        await using template = await tempDir("rbs-template-");
        await using workspace = await testWorkspace(BAZEL, { from: template.path, env: cluster.env });
        for (const [file, text] of Object.entries(files(executed))) {
          const path = join(workspace.path, file);
          await Deno.mkdir(dirname(path), { recursive: true });
          await Deno.writeTextFile(path, text, { mode: 0o755 });
        }
        const outputBase = join(workspace.outputUserRoot, repoHash(workspace.path));
        // An editor wants the sources of all repositories, the planted ones among them.
        const env = { ...workspace.env, RBS_EXTERNAL_SOURCES: "*" };
        const bazel = (rbs: boolean, ...args: string[]) =>
          run(workspace.argv(args, rbs ? [cluster.serverJavabase] : []), { cwd: workspace.path, env });
        const build = async (rbs: boolean, ...args: string[]) => {
          const { code, stderr } = await bazel(rbs, "build", ...args);
          assert.equal(code, 0, stderr);
        };
        const used = () =>
          ["used.txt", "tool.txt"].map((name) => Deno.readTextFileSync(join(workspace.path, "bazel-bin", name)).trim());

        if (before) await build(false, "//:use", "//:use_tool", "//:tool");
        await build(true, "//:use", "//:use_tool", "//:tool");
        await build(true, "//:plant");
        const repository = join(outputBase, "external/made_here/tool.sh");
        assert.match(await Deno.readTextFile(repository), /planted/);
        const { code, stderr } = await bazel(true, "build", "//:vouch");
        // Where they share a disk, nothing is brought.
        assert.equal(code, mode === "shared" ? 0 : 37, stderr);
        if (code !== 0) {
          assert.match(stderr, /^rbs: The agent sent \S*\/external\/@made_here\.marker, which is not for outputs/m);
        }
        if (end === "by a kill") {
          Deno.kill(Number(await Deno.readTextFile(join(outputBase, "server/server.pid.txt"))), "SIGKILL");
        }
        await Deno.remove(executed).catch(() => {}); // The agent may execute it.

        await build(false, "//:use", "//:use_tool");
        assert.deepEqual(used(), ["honest", "honest"]);
        await build(false, "--nobuild_runfile_links", "--action_env=ANOTHER=1", "//:use", "//:use_tool");
        assert.deepEqual(used(), ["honest", "honest"]);
        await assert.rejects(Deno.stat(executed), Deno.errors.NotFound);
        await bazel(false, "shutdown");
      });
    }
  }
}
