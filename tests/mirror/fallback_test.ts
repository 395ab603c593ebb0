/** RBS_FALLBACK=local with the real client: commands run on this machine while no agent can be had, and say so. */
import assert from "node:assert/strict";
import { findBazels } from "../support/bazels.ts";
import { startCluster } from "../support/cluster.ts";
import { output } from "../support/run.ts";
import { testWorkspace } from "../support/workspace.ts";

const { found } = await findBazels();

for (const bazel of found) {
  Deno.test(`Bazel ${bazel.version}: without an orchestrator a command runs here, warm, and the next one with it runs there`, async () => {
    await using cluster = await startCluster({ env: { RBS_BAZEL: bazel.path } });
    await using workspace = await testWorkspace(bazel, {
      env: { ...cluster.env, RBS_FALLBACK: "local" },
      startupOptions: [cluster.serverJavabase],
    });
    const good = async (args: string[], stdin?: string) => {
      const result = await workspace.run(args, { stdin });
      assert.equal(result.code, 0, result.stderr);
      return result;
    };
    assert.doesNotMatch((await good(["build", "//data:names"])).stderr, /^rbs:.*RBS_FALLBACK/m);
    const outputBase = (await good(["info", "output_base"])).stdout.trim();

    await cluster.stop();
    const here = await good(["build", "//data:names"]);
    assert.match(here.stderr, /^rbs: .*orchestrator.*\nrbs: RBS_FALLBACK=local: running on this machine/m);
    assert.equal((await good(["info", "output_base"])).stdout.trim(), `${outputBase}/local`);
    const pid = (await good(["info", "server_pid"])).stdout;
    assert.equal((await good(["info", "server_pid"])).stdout, pid, "the local server stays warm");
    assert.match((await good(["run", "//scripts:echo", "--", "you there"])).stdout, /you there/);
    assert.equal((await workspace.run(["build", "//no:such"])).code, 1);

    await cluster.restart();
    const there = await good(["build", "//data:names"]);
    assert.doesNotMatch(there.stderr, /RBS_FALLBACK/);
    assert.equal((await good(["info", "output_base"])).stdout.trim(), outputBase);

    // The local server outlives the proxy, as any Bazel server outlives its client.
    const client = [`--output_user_root=${workspace.outputUserRoot}`, `--output_base=${outputBase}/local`, "shutdown"];
    await output([bazel.path, ...client], { cwd: workspace.path, env: workspace.env });
  });
}
