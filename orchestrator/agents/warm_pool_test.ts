import assert from "node:assert/strict";
import { repoHash } from "../../proto/bazel/workspace.ts";
import { StepLog } from "../testing/step_log.ts";
import { test, type World } from "../testing/session_world.ts";
import { eventually } from "../../tests/support/eventually.ts";

const SLOW = ["--fake=slow"];
/** A workspace of its own for each number. */
const workspace = (i: number) => ({ sourcePath: `/ws${i}`, repoHash: repoHash(`/ws${i}`) });

/** Resolves when so many agents are alive, whatever they do. */
async function untilAlive(world: World, count: number): Promise<void> {
  await eventually(() => world.compute.alive.size === count);
}

test("a session takes an agent that waits, and the pool is filled up again behind it", async (world) => {
  await world.service.adopt();
  const before = await world.untilWarm(2);
  const steps = new StepLog();
  const session = await world.get({}, steps.read);
  assert(steps.steps.includes("taking an agent that waits"), steps.steps.join());
  assert(!steps.steps.includes("starting agent"), steps.steps.join());
  assert.equal(session.agentId, before[0].agentId);
  const agent = world.compute.agents[0];
  assert.equal(agent.isBlank, false);
  assert.deepEqual(agent.spec.startupOptions, session.startupOptions);
  assert.equal(agent.spec.accessToken, session.accessToken);
  assert.equal(agent.spec.epoch, session.epoch);
  const after = await world.untilWarm(2);
  assert.deepEqual(after.map(({ id }) => id).slice(0, 1), [before[1].id]);
  assert.equal(world.compute.alive.size, 3);
}, { warm: 2 });

test("a session ends the agent that it took, as any other", async (world) => {
  await world.service.adopt();
  await world.untilWarm(1);
  const session = await world.get();
  assert.equal(await world.service.release(session, ""), true);
  assert.equal(world.compute.alive.has(world.compute.agents[0]), false);
  assert.equal(await world.session(), undefined);
}, { warm: 1 });

test("many sessions at once take each agent once, and start what is missing", async (world) => {
  await world.service.adopt();
  await world.untilWarm(3);
  const sessions = await Promise.all(Array.from({ length: 8 }, (_, i) => world.get(workspace(i))));
  assert.equal(new Set(sessions.map(({ agentPort }) => agentPort)).size, 8);
  assert.equal(new Set(sessions.map(({ agentId }) => agentId)).size, 8);
  await world.untilWarm(3);
  await untilAlive(world, 11);
}, { warm: 3 });

test("an agent that is lost while it waits is replaced", async (world) => {
  await world.service.adopt();
  const [first] = await world.untilWarm(1);
  world.compute.agents[0].close();
  while ((await world.untilWarm(1))[0].id === first.id);
  assert.equal(world.compute.alive.size, 1);
  await world.get();
}, { warm: 1 });

test("an agent that is lost as soon as a session has it costs the session nothing but time", async (world) => {
  await world.service.adopt();
  await world.untilWarm(1);
  const steps = new StepLog();
  // As an agent that is not taken from a pool, this one is like any other.
  const session = await world.get({ startupOptions: ["--fake=vanish"] }, steps.read);
  assert.equal(session.status, "READY");
  assert.equal(session.epoch, 1, "it is still the first start");
  assert(steps.steps.includes("taking an agent that waits") && steps.steps.includes("starting agent"));
}, { warm: 1 });

test("an agent that does not answer a session is given up", async (world) => {
  await world.service.adopt();
  await world.untilWarm(1);
  // It loses its connection, and takes the next one without a word.
  world.compute.agents[0].mute = true;
  world.compute.agents[0].breakStreams();
  const session = await world.get();
  assert.equal(session.status, "READY");
  assert.equal(world.compute.agents[0].isBlank, true);
  assert.notEqual(session.agentPort, 0);
}, { warm: 1, answerTimeoutMs: 50 });

test("a session takes an agent that is still being started, and waits for it", async (world) => {
  const gate = Promise.withResolvers<void>();
  world.compute.warmGate = gate.promise;
  await world.service.adopt();
  await eventually(() => world.compute.warmStarts > 0);
  const answer = world.get();
  await world.until("PENDING");
  gate.resolve();
  const session = await answer;
  assert.equal(world.compute.agents[0].spec.accessToken, session.accessToken);
  assert.notEqual(session.agentPort, 0);
}, { warm: 1 });

test("a session that is released while it waits for such an agent leaves none behind", async (world) => {
  world.compute.warmGate = new Promise(() => {});
  await world.service.adopt();
  await eventually(() => world.compute.warmStarts > 0);
  const answer = world.get();
  const session = await world.until("PENDING");
  world.compute.warmGate = Promise.resolve();
  assert.equal(await world.service.release(session!, ""), true);
  await assert.rejects(answer);
  await world.untilWarm(1);
  assert.equal(world.compute.alive.size, 1);
}, { warm: 1 });

test("agents that cannot be started are tried again, and keep nobody waiting", async (world) => {
  let failures = 3;
  const start = world.compute.start.bind(world.compute);
  world.compute.start = (blank, options) => {
    if (!options.session && failures-- > 0) return Promise.reject(new Error("no memory"));
    return start(blank, options);
  };
  await world.service.adopt();
  await world.get();
  await world.untilWarm(1);
  assert(failures < 0);
}, { warm: 1 });

test("warm agents count as agents, and make way for sessions", async (world) => {
  await world.service.adopt();
  await world.untilWarm(2);
  for (let i = 0; i < 2; i++) await world.get(workspace(i));
  assert.deepEqual(await world.store.warmAgents.list(), []);
  assert.equal(world.compute.alive.size, 2);
  const steps = new StepLog();
  const third = world.get(workspace(3), steps.read);
  await steps.until("waiting for a free agent: 2 of 2 run, you are next");
  await world.service.release({ userId: "ann", serverId: "", ...workspace(0) }, "");
  assert.equal((await third).status, "READY");
  assert.equal(world.compute.alive.size, 2);
  await world.service.release({ userId: "ann", serverId: "", ...workspace(1) }, "");
  await world.untilWarm(1);
  assert.equal(world.compute.alive.size, 2);
}, { warm: 2, limits: { agents: 2, agentsPerUser: 0 } });

test("an orchestrator after this one takes the agents over, and ends those that are too many", async (world) => {
  await world.service.adopt();
  const before = await world.untilWarm(3);
  const former = world.pool!;
  // As after a crash: its memory is gone, the agents are not. Its holds are replaced by the next one's.
  await world.replace({ ...world.change, warm: 2 });
  const after = await world.untilWarm(2);
  assert.deepEqual(after.map(({ id }) => id), before.slice(0, 2).map(({ id }) => id));
  assert(after.every(({ owner }) => owner === world.pool!.claim.owner));
  assert.notEqual(world.pool, former);
  const session = await world.get();
  assert.equal(session.agentId, before[0].agentId);
  assert.equal(world.compute.agents[0].spec.accessToken, session.accessToken);
  former.kill();
}, { warm: 3 });

test("a session that was given an agent which nobody told of it is served after a restart", async (world) => {
  await world.service.adopt();
  const [agent] = await world.untilWarm(1);
  // What is left of an orchestrator that ended in between.
  const claim = world.pool!.claim;
  const template = await world.get(workspace(1));
  const { status: _, epoch: __, userId, repoHash: ___, serverId, ...fields } = template;
  const [next] = await world.untilWarm(1);
  assert.notEqual(next.id, agent.id);
  const key = { userId, serverId, ...workspace(2) };
  const start = { ...fields, ...workspace(2), startupOptions: SLOW, accessToken: "new" };
  assert(await world.store.sessions.transition({ ...key, state: "NONE", epoch: 0, claim }, "start", start));
  await world.replace();
  const session = await world.until("PENDING", undefined, workspace(2));
  assert.equal(session!.agentId, next.agentId);
  assert.equal((await world.compute.agents[1].assigned).accessToken, "new");
  world.compute.agents[1].becomeReady();
  await world.until("READY", undefined, workspace(2));
}, { warm: 1 });

test("an agent that was being started when the pool was lost to another orchestrator ends", async (world) => {
  const gate = Promise.withResolvers<void>();
  world.compute.warmGate = gate.promise;
  await world.service.adopt();
  await eventually(() => world.compute.warmStarts > 0);
  world.pool!.letGo();
  gate.resolve();
  world.pool!.look();
  await world.untilWarm(1);
  assert.equal(world.compute.alive.size, 1);
}, { warm: 1 });

test("when all ends, the agents that wait end, too", async (world) => {
  await world.service.adopt();
  await world.untilWarm(2);
  await world.service.stop();
  assert.equal(world.compute.alive.size, 0);
  assert.deepEqual(await world.store.warmAgents.list(), []);
}, { warm: 2 });

test("the next agent is not started before the session that took one has what it needs", async (world) => {
  await world.service.adopt();
  await world.untilWarm(1);
  const answer = world.get({ startupOptions: SLOW });
  await world.until("PENDING");
  await world.compute.agents[0].assigned;
  assert.deepEqual(await world.store.warmAgents.list(), []);
  assert.equal(world.compute.warmStarts, 1);
  world.compute.agents[0].becomeReady();
  await answer;
  await world.untilWarm(1);
}, { warm: 1, settleMs: 60_000 });
