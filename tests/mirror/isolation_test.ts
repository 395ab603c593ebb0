/** Two users' sessions on one machine, with the real programs: what a build action of the one finds of the other. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { findBazels, IS_FURTHER } from "../support/bazels.ts";
import { startCluster } from "../support/cluster.ts";
import { clusterUser } from "../support/users.ts";
import { testWorkspace } from "../support/workspace.ts";

const SECRET = "a-secret-of-the-orchestrator";

const { found: [bazel] } = await findBazels({ npm: false });

if (bazel && !IS_FURTHER) {
  Deno.test("an action finds neither the orchestrator's keys and environment, nor another user's storage and processes", async () => {
    await using cluster = await startCluster({
      env: { RBS_TEST_SECRET: SECRET, RBS_WARM: "1", RBS_ALLOW_SHARED_USERS: "1" },
    });
    await using users = new AsyncDisposableStack();
    const workspaceOf = async (userId: string) => {
      const { env } = users.use(await clusterUser(cluster, userId));
      return await testWorkspace(bazel, { startupOptions: [cluster.serverJavabase], env });
    };
    await using ann = await workspaceOf("ann");
    await using bob = await workspaceOf("bob");
    const built = await ann.run(["build", "//data:names"]);
    assert.equal(built.code, 0, built.stderr);
    const storages = join(cluster.state, "storage");
    const sessions = Array.from(Deno.readDirSync(join(storages, "ann"))).filter(({ name }) => !name.startsWith("."));
    assert.equal(sessions.length, 1, "there is something to be found");

    const look = [
      `ls ${cluster.state} ${storages} ${storages}/*`,
      `cat ${cluster.state}/keys/* ${cluster.state}/sessions.sqlite`,
      `cat /proc/*/environ | tr '\\\\0' '\\\\n'`,
      `cat /proc/*/cmdline | tr '\\\\0' '\\\\n'`,
    ].join("; ").replaceAll("$", "$$");
    const spy = `genrule(name = "spy", outs = ["seen"], local = True, cmd = "(${look}) >$@ 2>&1 || true")\n`;
    await Deno.writeTextFile(join(bob.path, "BUILD"), spy);
    const spied = await bob.run(["build", "//:spy"]);
    assert.equal(spied.code, 0, spied.stderr);
    const seen = await Deno.readTextFile(join(bob.path, "bazel-bin/seen"));
    assert.match(seen, /PATH=/, "what is its own can be read");
    assert.match(seen, new RegExp(bob.path), "and its own server's command line");
    for (const hidden of [SECRET, "PRIVATE KEY", ann.path, "/ann", "ann:", "SQLite format", ".agents"]) {
      assert(!seen.includes(hidden), `${hidden}: ${seen.slice(0, 4000)}`);
    }
  });
}
