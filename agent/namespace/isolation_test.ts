/** What a session's build can see of other sessions and of the orchestrator on the same machine. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { SESSION_KINDS, TestAgent, type TestAgentOptions, TestWorkspace } from "../test_agent.ts";

const OF_BAZEL = `genrule(
  name = "spy",
  outs = ["seen"],
  cmd = "(cat STATE/storage/bob/secret STATE/keys/user.pem; ls STATE STATE/storage; cat /proc/*/environ | tr '\\\\0' '\\\\n';" +
        " ls -d /proc/[0-9]*) >$@ 2>&1 || true",
  local = True,
)
`;

/** A state directory with the storage of ann, whose agent it is, and of bob, who has a secret there. */
async function inState(options: TestAgentOptions, run: (agent: TestAgent, state: string) => Promise<void>) {
  await using workspace = await TestWorkspace.make();
  const state = join(workspace.root, "state");
  const storage = join(state, "storage/ann/ws");
  for (const folder of ["keys", "storage/ann", "storage/bob"]) {
    await Deno.mkdir(join(state, folder), { recursive: true });
  }
  await Deno.writeTextFile(join(state, "storage/bob/secret"), "bob's secret");
  await Deno.writeTextFile(join(state, "keys/user.pem"), "the key");
  await Deno.writeTextFile(join(workspace.workspace, "BUILD"), OF_BAZEL.replaceAll("STATE", state));
  await using agent = await TestAgent.start(workspace, {
    startupOptions: workspace.startupOptions(),
    storage,
    hidden: [state, join(state, "storage")],
    ...options,
  });
  using supervisor = agent.supervise();
  assert.deepEqual((await supervisor.ready()).warnings, []);
  await run(agent, state);
}

for (const [whose, options] of SESSION_KINDS) {
  Deno.test(`a session ${whose} sees no other's storage, keys or processes, also from within an action`, async () => {
    await inState(options, async (agent, state) => {
      const built = await agent.run(["bazel", "build", "//:spy"]);
      assert.equal(built.code, 0, built.stderr);
      const { workspace: { workspace, outputBase } } = agent;
      const seen = await agent.sh(`cat ${workspace}/bazel-bin/seen`);
      assert.match(seen, /\nstorage\n/, "only the way to its own storage is there");
      assert.match(seen, /\nann\n/);
      assert.match(seen, /PATH=/, "it can read what belongs to the session");
      assert.doesNotMatch(seen, /secret"|bob\n|bob's|the key|keys\n/);
      assert(!seen.split("\n").includes(`/proc/${agent.process.pid}`), "the agent's own process");
      const pids = seen.split("\n").filter((line) => line.startsWith("/proc/")).length;
      assert(pids > 0 && pids < 30, `${pids} processes`);
      // What is its own is where it was: also through the links in the developer's output base.
      assert.equal(await agent.sh(`ls ${state}/storage/ann/ws`), "ctl\nout", "not the agent's log, lock and notes");
      assert.equal(await agent.sh(`touch ${state}/storage/x ${state}/x 2>/dev/null || echo refused`), "refused");
      assert.equal(await agent.sh(`cat ${outputBase}/../../state/keys/user.pem 2>/dev/null || echo none`), "none");
      // Nor does it get there by the agent's own hands.
      const ctl = `${state}/storage/ann/ws/ctl`;
      await agent.sh(`cd ${ctl} && for n in {1..99}; do ln -s ${state}/keys/user.pem $n.sh; done 2>/dev/null; true`);
      assert.equal(await agent.sh("echo goes on"), "goes on");
      assert.equal(await Deno.readTextFile(join(state, "keys/user.pem")), "the key");
      assert.equal(await agent.sh(`mv ${ctl} ${ctl}.old 2>/dev/null || echo stays`), "stays");
    });
  });
}

Deno.test("a workspace above what is hidden is served, and what is hidden stays so", async () => {
  await using workspace = await TestWorkspace.make();
  const state = join(workspace.workspace, "state");
  await Deno.mkdir(join(state, "keys"), { recursive: true });
  await Deno.writeTextFile(join(state, "keys/user.pem"), "the key");
  const storage = join(state, "storage/ann/ws");
  await using agent = await TestAgent.start(workspace, { storage, hidden: [state], startupOptions: [] });
  using supervisor = agent.supervise();
  await supervisor.ready();
  const seen = await agent.sh(`cd / && ls ${workspace.workspace} ${state}; cat ${state}/keys/user.pem 2>&1`);
  assert.match(seen, /WORKSPACE/);
  assert.match(seen, /\nstorage\n/);
  assert.doesNotMatch(seen, /the key|^keys$/m);
  assert.equal(await agent.sh(`mv ${state} ${state}.gone 2>/dev/null || echo stays`), "stays");
});
