/** What every WarmAgentStore must do, also when starts take its agents, as tests: see store_contract.ts. */
import assert from "node:assert/strict";
import { KEY, lead, start } from "../testing/contract_sessions.ts";
import { fields } from "../testing/session_fields.ts";
import type { AgentLimits } from "./agent_limits.ts";
import type { ContractTest } from "./contract_test_database.ts";
import type { Store } from "./store.ts";
import type { WarmAgent } from "./warm_agent_store.ts";

/** Registers the tests. */
export function warmAgentStoreContract(test: ContractTest, starts: number): void {
  const warm = (id: string, change: Partial<WarmAgent> = {}): WarmAgent => ({
    id,
    owner: "me",
    computeService: "process",
    handle: `pid ${id}`,
    host: "192.0.2.1",
    agentPort: 1,
    commandPort: 2,
    agentId: `agent ${id}`,
    createdAt: 1_000,
    ...change,
  });
  const claim = { owner: "me", computeService: "process" };
  const take = (store: Store, repoHash: string, limits?: AgentLimits) =>
    store.sessions.transition(
      { userId: "ann", repoHash, serverId: "", state: "NONE", epoch: 0, claim, limits },
      "start",
      fields(),
    );

  test("warm agents are kept as they are, changed and removed, until one is gone", async (store) => {
    assert.equal(await store.warmAgents.change("a", { owner: "you" }), false);
    assert.equal(await store.warmAgents.remove("a"), false);
    const starting = warm("b", { agentPort: 0, handle: "", host: "", createdAt: 500 });
    for (const agent of [warm("a"), starting, warm("c", { createdAt: 500 })]) assert(await store.warmAgents.add(agent));
    assert.deepEqual(await store.warmAgents.list(), [starting, warm("c", { createdAt: 500 }), warm("a")]);
    const change = { owner: "you", agentPort: 7, commandPort: 8, host: "::1", handle: "9" };
    assert.equal(await store.warmAgents.change("b", change), true);
    assert.deepEqual((await store.warmAgents.list())[0], { ...starting, ...change });
    assert.equal(await store.warmAgents.remove("b"), true);
    assert.equal(await store.warmAgents.remove("b"), false);
    assert.deepEqual((await store.warmAgents.list()).map(({ id }) => id), ["c", "a"]);
  });

  test("an orchestrator that has lost a warm agent neither changes nor removes it", async (store) => {
    assert(await store.warmAgents.add(warm("a")));
    assert.equal(await store.warmAgents.change("a", { owner: "you" }, "me"), true);
    assert.equal(await store.warmAgents.change("a", { owner: "they" }, "me"), false);
    assert.equal(await store.warmAgents.remove("a", "me"), false);
    assert.deepEqual(await store.warmAgents.list(), [warm("a", { owner: "you" })]);
    assert.equal(await store.warmAgents.remove("a", "you"), true);
  });

  test("a start takes a warm agent of its own: one that waits, the oldest one, or one that is being started", async (store) => {
    const agents = [
      warm("a", { agentPort: 0, createdAt: 1 }),
      warm("b", { owner: "you", createdAt: 1 }),
      warm("c", { computeService: "kubernetes", createdAt: 1 }),
      warm("d", { createdAt: 3 }),
      warm("e", { createdAt: 2 }),
    ];
    for (const agent of agents) assert(await store.warmAgents.add(agent));
    for (const [i, id] of ["e", "d", "a"].entries()) {
      const session = await take(store, String(i));
      const { handle, host, agentPort, commandPort, agentId } = agents.find((agent) => agent.id === id)!;
      const expected = { ...fields(), handle, host, agentPort, commandPort, agentId };
      assert.deepEqual(session, {
        ...expected,
        userId: "ann",
        repoHash: String(i),
        serverId: "",
        status: "PENDING",
        epoch: 1,
        term: 1,
      });
    }
    const cold = await take(store, "cold");
    assert.deepEqual([cold?.handle, cold?.agentPort, cold?.agentId], ["", 0, "agent"]);
    assert.deepEqual((await store.warmAgents.list()).map(({ id }) => id), ["b", "c"]);
  });

  test("a session that FAILED takes a warm agent for its next start", async (store) => {
    const epoch = await lead(store, "FAILED");
    assert(await store.warmAgents.add(warm("a")));
    const session = await store.sessions.transition({ ...KEY, state: "FAILED", epoch, claim }, "start", fields());
    assert.equal(session?.agentId, "agent a");
    assert.deepEqual(await store.warmAgents.list(), []);
  });

  test("a start that does not happen takes no warm agent", async (store) => {
    const epoch = await lead(store, "READY");
    assert(await store.warmAgents.add(warm("a")));
    assert.equal(
      await store.sessions.transition({ ...KEY, state: "NONE", epoch: 0, claim }, "start", fields()),
      undefined,
    );
    assert.equal(
      await store.sessions.transition({ ...KEY, state: "FAILED", epoch, claim }, "start", fields()),
      undefined,
    );
    assert.equal(await take(store, "full", { agents: 1, agentsPerUser: 0 }), undefined);
    assert.equal((await store.warmAgents.list()).length, 1);
  });

  test("warm agents count as agents: one that is taken makes no room, and there is none for more", async (store) => {
    const limits = { agents: 3, agentsPerUser: 1 };
    assert(await start(store, "bob", "1", limits));
    assert(await store.warmAgents.add(warm("a"), limits));
    assert(await store.warmAgents.add(warm("b"), limits));
    assert.equal(await store.warmAgents.add(warm("c"), limits), false);
    assert(await take(store, "1", limits));
    assert.equal(await store.warmAgents.add(warm("c"), limits), false);
    assert(await store.warmAgents.remove("b"));
    assert(await store.warmAgents.add(warm("c"), limits));
    assert(await store.warmAgents.add(warm("d"), { agents: 0, agentsPerUser: 0 }));
  });

  test(`of ${starts} starts at once each warm agent is taken by one, and the others go without`, async (store) => {
    const ids = Array.from({ length: 20 }, (_, i) => `agent ${i}`);
    for (const [i, id] of ids.entries()) assert(await store.warmAgents.add(warm(id, { agentPort: i % 2 })));
    const started = await Promise.all(Array.from({ length: starts }, (_, i) => take(store, String(i))));
    const tokens = started.map((session) => session!.agentId);
    assert.deepEqual(
      tokens.filter((token) => token !== "agent").sort(),
      ids.map((id) => `agent ${id}`).sort(),
    );
    assert.deepEqual(await store.warmAgents.list(), []);
  });

  test("two orchestrators take no warm agent twice", async (store, database) => {
    await using other = await database.open();
    for (let i = 0; i < 5; i++) assert(await store.warmAgents.add(warm(String(i))));
    const started = await Promise.all(Array.from({ length: 20 }, (_, i) => take([store, other][i % 2], String(i))));
    const tokens = started.map((session) => session!.agentId).filter((token) => token !== "agent");
    assert.deepEqual(tokens.sort(), [0, 1, 2, 3, 4].map((i) => `agent ${i}`));
  });
}
