/** jbazel where no session is there yet: it must find the same server and outputs as the stock client. */
import assert from "node:assert/strict";
import { findBazels } from "../support/bazels.ts";
import { startCluster } from "../support/cluster.ts";
import { PROGRAMS } from "../support/repository.ts";
import { run } from "../support/run.ts";
import { tempDir } from "../support/temp_dir.ts";
import { testWorkspace } from "../support/workspace.ts";

const { found } = await findBazels({ npm: false });

for (const bazel of found) {
  Deno.test(`Bazel ${bazel.version}: jbazel uses the output base that rc files give the stock client, also when it comes first`, async () => {
    await using cluster = await startCluster({ env: { RBS_BAZEL: bazel.path } });
    await using root = await tempDir("rbs-root-");
    await using workspace = await testWorkspace(bazel, {
      env: cluster.env,
      bazelrc: [`startup --output_user_root=${root.path}`, `startup ${cluster.serverJavabase}`],
    });
    const options = { cwd: workspace.path, env: workspace.env };
    const stock = (...args: string[]) => run([bazel.path, ...args], options);
    const jbazel = (...args: string[]) => run([PROGRAMS.jbazel, ...args], options);
    const good = async (command: ReturnType<typeof run>) => {
      const { code, stdout, stderr } = await command;
      assert.equal(code, 0, stderr);
      return stdout;
    };

    await good(jbazel("build", "//data:names", "//scripts:echo"));
    const outputBase = await good(jbazel("info", "output_base"));
    assert.ok(outputBase.startsWith(root.path + "/"), outputBase);
    assert.match(await good(run([`${workspace.path}/bazel-bin/scripts/echo`, "it runs"], options)), /it runs/);
    assert.equal(await good(stock("info", "output_base")), outputBase);
    await good(stock("build", "//data:names"));
    await good(stock("shutdown"));
    await good(jbazel("build", "//data:names"));
    assert.equal(await good(jbazel("info", "output_base")), outputBase);
    await good(stock("shutdown"));
  });
}
