/** A laptop that knows two orchestrators on one store, and the one that holds its session is killed. */
import assert from "node:assert/strict";
import { startCluster } from "../support/cluster.ts";
import { sentences } from "./normalize.ts";
import { ended, signal } from "./support/processes.ts";
import { Exit, rig, test } from "./support/rig.ts";

/** What an orchestrator that is silent has before the others take its sessions over. Seconds. */
const TAKEOVER = 2;
/** A command that finds a warm server takes less, even on a slow machine. Milliseconds. */
const AT_ONCE = 10_000;

test("a build whose session's orchestrator is killed goes on, and the next is warm through the other", async () => {
  const args = [`--takeover=${TAKEOVER}`];
  await using first = await startCluster({ args });
  await using second = await startCluster({ args, state: first.state });
  const env = { ...first.env, RBS_ORCHESTRATOR_ADDR: `${first.address},${second.address}` };
  await using one = await rig({ cluster: { ...first, env } });
  await one.buildsQuickly();
  const [agent, server] = [await one.agent(), await one.server()];
  await using build = one.start(["build", "//:patient"]);
  await one.acting();
  first.orchestrator.kill("SIGKILL");
  await first.orchestrator.finished;
  // So it was the first that held the session.
  await second.orchestrator.says(/adopting its agent/);
  await one.go();
  const { code, stderr } = await build.finished;
  assert.equal(code, Exit.OK, stderr);
  assert.deepEqual(sentences(stderr), []);
  assert.deepEqual(sentences((await one.buildsQuickly(AT_ONCE)).stderr), [], "nor does the build after it");

  // A new proxy must ask, and the first that it knows is dead.
  const proxy = await one.proxy();
  signal(proxy, "SIGKILL");
  await ended(proxy);
  assert.deepEqual(sentences((await one.buildsQuickly(AT_ONCE)).stderr), []);
  assert.equal((await one.agent()).pid, agent.pid);
  assert.equal((await one.server()).pid, server.pid);

  // The last orchestrator takes along what it adopted.
  await second.stop();
  await ended(agent.pid);
  await ended(server.pid);
});
