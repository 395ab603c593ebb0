import assert from "node:assert/strict";
import { join } from "node:path";
import { Code, RpcError } from "../../proto/transport/rpc/client.ts";
import { TestAgent, TestWorkspace } from "../test_agent.ts";
import { eventually } from "../../tests/support/eventually.ts";

const there = (path: string) => Deno.stat(path).then(() => true, () => false);

/** The numbers of a process's children. */
async function children(pid: number): Promise<number[]> {
  const lists: string[] = [];
  for await (const { name } of Deno.readDir(`/proc/${pid}/task`)) {
    lists.push(await Deno.readTextFile(`/proc/${pid}/task/${name}/children`).catch(() => ""));
  }
  return lists.join(" ").split(" ").filter((word) => word !== "").map(Number);
}

Deno.test("an agent started ahead serves nobody, until it gets a session and serves it as any other does", async () => {
  await using workspace = await TestWorkspace.make();
  await using agent = await TestAgent.start(workspace, { warm: true, startupOptions: workspace.startupOptions() });
  using supervisor = agent.supervise();
  await supervisor.find((m) => m.case === "waiting");
  const warm = join(workspace.root, "warm");
  assert(await there(warm));
  assert.equal(await there(join(workspace.storage, "out")), false);
  for (const token of ["access", ""]) {
    const refused = agent.execute({ args: ["bazel", "info"] }, token);
    // Its connection ends before it can say anything.
    await assert.rejects(refused.result, RpcError);
  }

  const [maker] = await children(agent.process.pid);
  assert(maker, "what will make its namespace runs already");
  supervisor.call.send({ message: { case: "assign", value: agent.spec } });
  // The second one comes too late.
  const other = { ...agent.spec, sourcePath: "/elsewhere", accessToken: "other" };
  supervisor.call.send({ message: { case: "assign", value: other } });
  assert.equal((await supervisor.ready()).samePaths, true);
  const info = await agent.run(["bazel", "info", "server_pid", "output_base", "workspace"]);
  assert.match(info.stdout, new RegExp(`output_base: ${workspace.outputBase}\nworkspace: ${workspace.workspace}\n$`));
  const late = agent.execute({ args: ["bazel", "info"] }, "other");
  await assert.rejects(late.result, (e) => e instanceof RpcError && e.code === Code.UNAUTHENTICATED);
  assert((await children(agent.process.pid)).includes(maker), "and has made it");
  await eventually(async () => !await there(warm), "its former folder is gone");
  assert.equal(await Deno.readLink(`/proc/${agent.process.pid}/cwd`), workspace.storage);
});

Deno.test("an agent started ahead that nobody wants ends by its lease, or when it is told to", async () => {
  await using workspace = await TestWorkspace.make();
  await using agent = await TestAgent.start(workspace, { warm: true, leaseSeconds: 4 });
  {
    using supervisor = agent.supervise();
    await supervisor.find((m) => m.case === "waiting");
  }
  assert.equal((await agent.process.status).code, 0);
  await using second = await TestAgent.start(workspace, { warm: true });
  using supervisor = second.supervise();
  await supervisor.find((m) => m.case === "waiting");
  supervisor.call.send({ message: { case: "stop", value: { graceMs: 0 } } });
  assert.equal((await second.process.status).code, 0);
});

Deno.test("an agent started ahead that is assigned no session ends, and says why in its log", async () => {
  await using workspace = await TestWorkspace.make();
  await using agent = await TestAgent.start(workspace, { warm: true });
  using supervisor = agent.supervise();
  await supervisor.find((m) => m.case === "waiting");
  supervisor.call.send({ message: { case: "assign", value: { ...agent.spec, accessToken: "" } } });
  assert.equal((await agent.process.status).code, 1);
  assert.match(agent.log, /the agent stops, since it was assigned no session: the AgentSpec has no accessToken/);
});
