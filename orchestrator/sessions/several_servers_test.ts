import assert from "node:assert/strict";
import { Code } from "../../proto/transport/rpc/client.ts";
import { A, B, rejects, request, test, told, type World } from "../testing/session_world.ts";
import { secondServers } from "./second_servers.ts";
import type { ServerRequest } from "./server_request.ts";
import { eventually } from "../../tests/support/eventually.ts";

const LAPTOP = "a".repeat(8), DESK = "b".repeat(8);
const [FIRST, SECOND, OTHER] = [`${LAPTOP}00000001`, `${LAPTOP}00000002`, `${DESK}00000001`];
const C = "c".repeat(32);

/** What a proxy asks for whose output base is that one. */
const at = (outputBase: string, serverId = "", more: Partial<ServerRequest> = {}): Partial<ServerRequest> => ({
  serverId,
  startupOptions: ["--one", `--output_base=${outputBase}`],
  ...more,
});

test("servers of one workspace stand side by side, each with its own agent", async (world) => {
  await world.get(at("/ob/1"));
  await world.get(at("/ob/2", FIRST, { sessionId: B }));
  await world.get(at("/ob/3", SECOND, { sessionId: C }));
  assert.equal(world.compute.alive.size, 3);
  assert.deepEqual(await world.get(at("/ob/2", FIRST, { sessionId: B })), await world.session(at("/ob/2", FIRST)));
  assert(await world.service.heartbeat(request(at("", SECOND)), C) > 0);
  await rejects(world.service.heartbeat(request(at("", SECOND)), B), Code.FAILED_PRECONDITION, /Another client/);
  assert.equal(await world.service.release(request(at("", FIRST)), ""), true);
  assert.equal(world.compute.alive.size, 2);
  assert.equal((await world.session(at("", SECOND)))?.epoch, 1);
}, { synced: true });

test("two machines with the same paths do not take each other's session", async (world) => {
  const mine = await world.get(at("/ob", FIRST));
  const theirs = await world.get(at("/ob", OTHER, { sessionId: B }));
  assert.notEqual(mine.agentId, theirs.agentId);
  assert.deepEqual((await world.get(at("/ob", FIRST))).epoch, mine.epoch);
  assert.equal(world.compute.alive.size, 2);
}, { synced: true });

for (const synced of [false, true]) {
  const mode = synced ? "synced" : "shared";
  test(
    `${mode}: a session without a server id goes to the first who has its output base, agent and all`,
    async (world) => {
      const former = await world.get(at("/ob"));
      const mine = await world.get(at("/ob", FIRST, { sessionId: B }));
      assert.deepEqual([mine.agentId, mine.sessionId, mine.adoptedBy], [former.agentId, B, FIRST]);
      assert.equal(world.compute.alive.size, 1);
      await told(world.compute.agents[0], mine.epoch);
      assert(await world.service.heartbeat(request(at("", FIRST)), B) > 0);
      await rejects(world.service.heartbeat(request(at("", OTHER)), B), Code.NOT_FOUND, /no such session/);
      // Its next life, and others on the same machine.
      assert.equal((await world.get(at("/ob", FIRST, { sessionId: C }))).agentId, former.agentId);
      assert.notEqual((await world.get(at("/ob/2", SECOND))).agentId, former.agentId);
      assert.equal(await world.service.release(request(at("", FIRST)), C), true);
      assert.equal(await world.session(at("/ob")), undefined);
      const next = await world.get(at("/ob", FIRST));
      assert.deepEqual([next.serverId, next.adoptedBy], [FIRST, ""]);
    },
    { synced },
  );
}

test("it does not go to another machine, nor to another output base", async (world) => {
  const former = await world.get(at("/ob"));
  assert.notEqual((await world.get(at("/other", FIRST, { sessionId: B }))).agentId, former.agentId);
  assert.equal((await world.get(at("/ob", SECOND, { sessionId: B }))).agentId, former.agentId);
  assert.notEqual((await world.get(at("/ob", OTHER, { sessionId: C }))).agentId, former.agentId);
  assert.equal((await world.session(at("/ob")))?.adoptedBy, SECOND);
  assert.equal(world.compute.alive.size, 3);
}, { synced: true });

test("of two machines that ask for it at once one has it", async (world) => {
  const former = await world.get(at("/ob"));
  const asked = [FIRST, OTHER].map((serverId, i) => world.get(at("/ob", serverId, { sessionId: [B, C][i] })));
  const agents = (await Promise.all(asked)).map((session) => session.agentId);
  assert.equal(agents.filter((agentId) => agentId === former.agentId).length, 1);
  assert.equal(world.compute.alive.size, 2);
}, { synced: true });

test("a former orchestrator's agent goes on for who has no server id, and for the first who has one", async (world) => {
  const before = await world.get(at("/ob"));
  await world.replace();
  assert.equal((await world.get(at("/ob"))).agentId, before.agentId);
  assert.equal((await world.get(at("/ob", FIRST, { sessionId: B }))).agentId, before.agentId);
  assert.equal(world.compute.alive.size, 1);
});

test("on one disk an output base has one server, whatever the machine calls itself", async (world) => {
  const before = await world.get(at("/ob", FIRST));
  const steps: string[] = [];
  const after = await world.get(at("/ob", OTHER, { sessionId: B }), (step) => steps.push(step));
  assert.notEqual(after.agentId, before.agentId);
  assert.equal(await world.session(at("/ob", FIRST)), undefined);
  assert.equal(world.compute.alive.size, 1);
  assert(steps.includes("stopping the former server of this output base"), steps.join());
  // One that needs other startup options as well.
  await world.service.release(request(at("", OTHER)), "");
  await world.get(at("/ob"));
  await world.get({ ...at("/ob", FIRST), startupOptions: ["--two", "--output_base=/ob"] });
  assert.equal(await world.session(at("/ob")), undefined);
  assert.equal(world.compute.alive.size, 1);
});

test(
  "the server with the default output base goes on with the storage that there was before server ids",
  async (world) => {
    const { repoHash } = request();
    await world.get(at("/ob/ide", SECOND));
    assert.deepEqual(world.compute.inherited, []);
    const base = `/cache/${repoHash}`;
    const former = await world.get(at(base));
    assert.equal((await world.get(at(base, FIRST, { sessionId: B }))).agentId, former.agentId);
    // It is another's as long as there is a session.
    await world.get(at(base, OTHER));
    assert.deepEqual(world.compute.inherited, []);
    await world.service.release(request(at("", FIRST)), "");
    await world.get(at(base, FIRST));
    assert.deepEqual(world.compute.inherited, [["", FIRST]]);
  },
  { synced: true },
);

/** The reaper sees these, by their server ids. */
async function seconds(world: World): Promise<string[]> {
  return [...secondServers(await world.store.sessions.list())].map((session) => session.serverId).sort();
}

test("main is the server with the default output base, else the oldest one of a machine", async (world) => {
  const { repoHash } = request();
  await world.get(at("/ob/ide", SECOND));
  assert.deepEqual(await seconds(world), []);
  await world.get(at("/ob/x", FIRST));
  await world.get(at("/ob/x", OTHER));
  await world.get(at("/ob/old"));
  await world.get(at("/ob/ide", FIRST, { sourcePath: "/elsewhere" }));
  assert.deepEqual(await seconds(world), [FIRST]);
  const main = `${LAPTOP}00000003`;
  await world.get(at(`/home/ann/.cache/bazel/_bazel_ann/${repoHash}`, main));
  assert.deepEqual(await seconds(world), [FIRST, SECOND]);
}, { synced: true });

test(
  "a second server ends early after its last command, although its client is there; the main one does not",
  async (world) => {
    await world.get(at("/ob/1", FIRST));
    await world.get(at("/ob/2", SECOND));
    const agent = world.compute.agents[1];
    agent.activity(1);
    const ended = world.until("NONE", undefined, at("/ob/2", SECOND)).then(() => "ended");
    const beat = setInterval(() => void world.service.heartbeat(request(at("", SECOND)), A).catch(() => {}), 20);
    try {
      // Far longer than it may be idle.
      assert.equal(await Promise.race([ended, new Promise((resolve) => setTimeout(resolve, 600, "runs"))]), "runs");
      agent.activity(0);
      assert.equal(await ended, "ended");
    } finally {
      clearInterval(beat);
    }
    assert.equal((await world.session(at("/ob/1", FIRST)))?.status, "READY");
    assert.notEqual((await world.get(at("/ob/2", SECOND))).agentId, agent.spec.agentId);
  },
  { secondIdleTimeoutMs: 100 },
);

test("a user's limit leaves room for the second server of each workspace", async (world) => {
  await world.get(at("/ob/1", FIRST));
  await world.get(at("/ob/2", SECOND));
  const steps: string[] = [];
  const third = world.get(at("/ob/3", `${LAPTOP}00000003`), (step) => steps.push(step));
  await eventually(() => steps.some((step) => /waiting for one of your own agents to end: 1 of 1 run/.test(step)));
  await world.service.release(request(at("", SECOND)), "");
  assert.equal((await third).status, "READY");
}, { limits: { agents: 0, agentsPerUser: 1 } });
