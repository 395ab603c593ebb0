/** What every SessionStore must do, as tests; each implementation's own test runs them. */
import assert from "node:assert/strict";
import type { SessionFields, SessionKey } from "./session.ts";
import { type SessionEvent, type SessionState, TRANSITIONS } from "./state_machine.ts";
import type { AgentLimits } from "./agent_limits.ts";
import type { OrchestratorLease } from "./lease_store.ts";
import type { SessionStore } from "./store.ts";
import type { WarmAgent } from "./warm_agent_store.ts";

const KEY: SessionKey = { userId: "ann", repoHash: "0123456789abcdef0123456789abcdef", serverId: "" };

/** All that a session starts with. */
export function fields(change: Partial<SessionFields> = {}): SessionFields {
  return {
    sessionId: "5".repeat(32),
    sourcePath: "/home/ann/a b\n'\"é",
    region: "here",
    startupOptions: ["-jar", "a\nb", ""],
    startupOptionsHash: "beef",
    computeService: "process",
    processId: "",
    podIp: "",
    agentPort: 0,
    commandPort: 0,
    accessToken: "access",
    agentId: "agent",
    storageDirectory: "/storage/ann",
    warnings: [],
    samePaths: false,
    synced: true,
    missingInstallBase: "",
    failure: "",
    failureTransient: false,
    holder: "",
    createdAt: 1_000,
    lastHeartbeat: 1_000,
    adoptedBy: "",
    ...change,
  };
}

/** The events that lead from NONE to each state. */
const WAY_TO: Record<SessionState, SessionEvent[]> = {
  NONE: [],
  PENDING: ["start"],
  READY: ["start", "ready"],
  STOPPING: ["start", "stop"],
  FAILED: ["start", "fail"],
};

async function lead(store: SessionStore, state: SessionState, key = KEY): Promise<number> {
  let [at, epoch]: [SessionState, number] = ["NONE", 0];
  for (const event of WAY_TO[state]) {
    const session = await store.transition({ ...key, state: at, epoch }, event, event === "start" ? fields() : {});
    assert(session);
    [at, epoch] = [session.status, session.epoch];
  }
  return epoch;
}

/** An empty database for one test. */
export interface TestDatabase extends AsyncDisposable {
  /** A store on it. Each is one orchestrator's; the test closes it. */
  open(): Promise<SessionStore> | SessionStore;
}

/** Registers the tests. @param create Makes a database. */
export function storeContract(
  name: string,
  create: () => Promise<TestDatabase> | TestDatabase,
  { starts = 1000 }: { starts?: number } = {},
): void {
  const test = (promise: string, run: (store: SessionStore, database: TestDatabase) => Promise<void>) =>
    Deno.test(`${name}: ${promise}`, async () => {
      await using database = await create();
      await using store = await database.open();
      await run(store, database);
    });

  for (const [from, events] of Object.entries(TRANSITIONS) as [SessionState, typeof TRANSITIONS[SessionState]][]) {
    for (
      const event of ["start", "listening", "ready", "takeOver", "adopt", "fail", "stop", "stopped", "forget"] as const
    ) {
      const leads = events[event];
      test(`${event} ${leads ? `leads from ${from} to ${leads.to}` : `cannot happen in ${from}`}`, async (store) => {
        const epoch = await lead(store, from);
        const change = event === "start" ? fields({ sessionId: "6".repeat(32) }) : { failure: "because" };
        const go = () => store.transition({ ...KEY, state: from, epoch }, event, change);
        if (!leads) return await assert.rejects(go, TypeError);
        let told = 0;
        store.watch(KEY, () => told++);
        const after = await go();
        assert.equal(told, 1);
        assert(after);
        const stored = await store.get(KEY);
        if (leads.to === "NONE") return assert.equal(stored, undefined);
        assert.deepEqual(stored, after);
        assert.equal(after.status, leads.to);
        assert.equal(after.epoch, epoch + (leads.raisesEpoch ? 1 : 0));
        for (const [field, value] of Object.entries(change)) {
          assert.deepEqual(after[field as keyof SessionFields], value);
        }
      });
    }
  }

  test("a transition that expects another epoch or state changes nothing", async (store) => {
    const epoch = await lead(store, "READY");
    const before = await store.get(KEY);
    let told = 0;
    store.watch(KEY, () => told++);
    for (const event of ["ready", "takeOver", "fail", "stop"] as const) {
      assert.equal(
        await store.transition({ ...KEY, state: "READY", epoch: epoch + 1 }, event, { failure: "x" }),
        undefined,
      );
    }
    assert.equal(await store.transition({ ...KEY, state: "PENDING", epoch }, "fail", { failure: "x" }), undefined);
    assert.equal(await store.transition({ ...KEY, state: "STOPPING", epoch }, "stopped"), undefined);
    assert.equal(await store.transition({ ...KEY, state: "FAILED", epoch }, "forget"), undefined);
    assert.equal(await store.transition({ ...KEY, state: "NONE", epoch: 0 }, "start", fields()), undefined);
    assert.deepEqual(await store.get(KEY), before);
    assert.equal(told, 0);
  });

  for (
    const [from, event] of [["NONE", "start"], ["FAILED", "start"], ["READY", "takeOver"], ["READY", "stop"]] as const
  ) {
    test(`of a hundred racers for ${event} in ${from} one wins`, async (store) => {
      const epoch = await lead(store, from);
      const won = await Promise.all(
        Array.from(
          { length: 100 },
          (_, i) => store.transition({ ...KEY, state: from, epoch }, event, fields({ sessionId: String(i) })),
        ),
      );
      const [winner, ...more] = won.filter((session) => session !== undefined);
      assert.equal(more.length, 0);
      assert.deepEqual(await store.get(KEY), winner);
    });
  }

  for (const event of ["start", "takeOver", "stop"] as const) {
    test(`of twenty racers for ${event} in two orchestrators one wins`, async (store, database) => {
      await using other = await database.open();
      const state = event === "start" ? "NONE" : "READY";
      const epoch = await lead(store, state);
      const won = await Promise.all(
        Array.from(
          { length: 20 },
          (_, i) => [store, other][i % 2].transition({ ...KEY, state, epoch }, event, fields({ sessionId: String(i) })),
        ),
      );
      const [winner, ...more] = won.filter((session) => session !== undefined);
      assert.equal(more.length, 0);
      assert.deepEqual(await store.get(KEY), winner);
      assert.deepEqual(await other.get(KEY), winner);
    });
  }

  test("a touch and a transition at once are both there afterwards", async (store, database) => {
    await using other = await database.open();
    let epoch = await lead(store, "READY");
    for (let round = 1; round <= 10; round++) {
      const at = 1_000 + round;
      const [touched, taken] = await Promise.all([
        other.touch(KEY, undefined, at),
        store.transition({ ...KEY, state: "READY", epoch }, "takeOver", { sessionId: String(round) }),
      ]);
      assert.equal(touched, true);
      assert.equal(taken?.epoch, ++epoch);
      const { sessionId, lastHeartbeat } = (await store.get(KEY))!;
      assert.deepEqual([sessionId, lastHeartbeat], [String(round), at]);
    }
  });

  test("a listener hears of each change of state that another orchestrator makes", async (store, database) => {
    await using other = await database.open();
    let [state, epoch]: [SessionState, number] = ["NONE", 0];
    for (const event of ["start", "ready", "takeOver", "fail", "start", "stop", "stopped", "start"] as const) {
      const heard = Promise.withResolvers<void>();
      const leave = other.watch(KEY, heard.resolve);
      const seen = await other.get(KEY);
      assert.deepEqual([seen?.status ?? "NONE", seen?.epoch ?? 0], [state, state === "NONE" ? 0 : epoch]);
      const after = await store.transition({ ...KEY, state, epoch }, event, event === "start" ? fields() : {});
      [state, epoch] = [TRANSITIONS[state][event]!.to, after!.epoch];
      await heard.promise;
      leave();
    }
  });

  test(
    "who looks at what another orchestrator has changed wakes those who have looked before",
    async (store, database) => {
      await using other = await database.open();
      const heard = Promise.withResolvers<void>();
      other.watch(KEY, heard.resolve);
      assert.equal(await other.get(KEY), undefined);
      await lead(store, "PENDING");
      assert.equal(await other.transition({ ...KEY, state: "NONE", epoch: 0 }, "start", fields()), undefined);
      await heard.promise;
    },
  );

  test("long, odd and empty values come back as they were", async (store) => {
    const odd = [
      "",
      " ",
      "line\nbreak\r\n\ttab",
      `it's "quoted" \\ \`back\` $HOME @p ?`,
      "größe 漢字 \u{1f980} e\u0301",
      "\u0001\u007f\ufeff",
      "null",
      "[]",
      "x".repeat(1 << 20),
    ];
    for (const [i, value] of odd.entries()) {
      const key = { userId: value.slice(0, 40) || "empty", repoHash: String(i), serverId: "" };
      const start = fields({
        sourcePath: value,
        failure: value,
        startupOptions: [...odd.slice(0, -1), value],
        warnings: value === "" ? [] : [value],
        samePaths: i % 2 === 0,
        agentPort: 65_535,
        createdAt: Number.MAX_SAFE_INTEGER,
      });
      const started = await store.transition({ ...key, state: "NONE", epoch: 0 }, "start", start);
      assert.deepEqual(started, { ...start, ...key, status: "PENDING", epoch: 1, term: 1 });
      assert.deepEqual(await store.get(key), started);
      const changed = await store.transition({ ...key, state: "PENDING", epoch: 1 }, "fail", { failure: `${value}!` });
      assert.deepEqual(changed, { ...started, status: "FAILED", failure: `${value}!` });
      assert.deepEqual(await store.list(key.userId), [changed]);
    }
    assert.equal((await store.list()).length, odd.length);
  });

  test("epochs go on where a session that is gone left them", async (store) => {
    for (let round = 1; round <= 3; round++) {
      const epoch = await lead(store, "STOPPING");
      assert.equal(epoch, round);
      assert(await store.transition({ ...KEY, state: "STOPPING", epoch }, "stopped"));
    }
    const epoch = await lead(store, "FAILED");
    assert.equal(epoch, 4);
    assert(await store.transition({ ...KEY, state: "FAILED", epoch }, "forget"));
    assert.equal(await lead(store, "PENDING"), 5);
    assert.equal(await lead(store, "PENDING", { ...KEY, repoHash: "f".repeat(32) }), 1);
  });

  const start = (store: SessionStore, userId: string, repoHash: string, limits?: AgentLimits) =>
    store.transition({ userId, repoHash, serverId: "", state: "NONE", epoch: 0, limits }, "start", fields());

  test("a start beyond the limit changes nothing, whoever wants it, until an agent is gone", async (store) => {
    const limits = { agents: 3, agentsPerUser: 0 };
    for (const state of ["PENDING", "READY", "STOPPING"] as const) {
      await lead(store, state, { userId: state, repoHash: "a", serverId: "" });
    }
    const epoch = await lead(store, "FAILED");
    let told = 0;
    store.watch(KEY, () => told++);
    const before = await store.list();
    const again = () => store.transition({ ...KEY, state: "FAILED", epoch, limits }, "start", fields());
    assert.equal(await start(store, "eve", "e", limits), undefined);
    assert.equal(await again(), undefined);
    assert.deepEqual(await store.list(), before);
    assert.equal(told, 0);
    assert(
      await store.transition(
        { userId: "STOPPING", repoHash: "a", serverId: "", state: "STOPPING", epoch: 1 },
        "stopped",
      ),
    );
    assert.equal((await again())?.status, "PENDING");
    assert.equal(told, 1);
    assert.equal(await start(store, "eve", "e", limits), undefined);
    assert(await store.transition({ ...KEY, state: "PENDING", epoch: epoch + 1 }, "fail"));
    assert(await start(store, "eve", "e", limits));
  });

  test("a limit for each user is nothing to other users", async (store) => {
    const limits = { agents: 4, agentsPerUser: 2 };
    assert(await start(store, "ann", "1", limits));
    assert(await start(store, "ann", "2", limits));
    assert.equal(await start(store, "ann", "3", limits), undefined);
    assert(await start(store, "bob", "1", limits));
    assert(await start(store, "bob", "2", limits));
    assert.equal(await start(store, "eve", "1", limits), undefined);
    assert(await store.transition({ userId: "ann", repoHash: "1", serverId: "", state: "PENDING", epoch: 1 }, "fail"));
    assert(await start(store, "ann", "3", limits));
  });

  test("servers of one workspace are sessions of their own", async (store, database) => {
    await using other = await database.open();
    const keys = ["", "1".repeat(16), "2".repeat(16)].map((serverId) => ({ ...KEY, serverId }));
    const heard: string[] = [];
    for (const key of keys) store.watch(key, () => heard.push(key.serverId));
    for (const key of keys) assert.equal(await lead(store, "READY", key), 1);
    assert.deepEqual((await other.list("ann")).map((session) => session.serverId), keys.map((key) => key.serverId));
    const [, key] = keys;
    heard.length = 0;
    const taken = await other.transition({ ...key, state: "READY", epoch: 1 }, "takeOver", { sessionId: "7" });
    assert.equal(taken?.epoch, 2);
    assert.equal(await other.touch(key, "7", 9_000), true);
    assert(await store.transition({ ...key, state: "READY", epoch: 2 }, "stop"));
    assert(await store.transition({ ...key, state: "STOPPING", epoch: 2 }, "stopped"));
    assert.deepEqual([...new Set(heard)], [key.serverId]);
    assert.deepEqual((await other.list()).map((session) => session.serverId), ["", "2".repeat(16)]);
    for (const left of await store.list()) assert.deepEqual([left.epoch, left.lastHeartbeat], [1, 1_000]);
    assert.equal(await lead(store, "PENDING", key), 3);
  });

  test("of a user's limit the second server of a workspace on a machine takes nothing", async (store) => {
    const limits = { agents: 0, agentsPerUser: 1 };
    const server = (repoHash: string, serverId: string) =>
      store.transition(
        { userId: "ann", repoHash, serverId, state: "NONE", epoch: 0, limits },
        "start",
        fields(),
      );
    const [laptop, desk] = ["a".repeat(8), "b".repeat(8)];
    assert(await server("1", laptop + "00000001"));
    assert.equal(await server("2", laptop + "00000001"), undefined);
    assert.equal(await server("1", desk + "00000001"), undefined);
    assert(await server("1", laptop + "00000002"));
    assert.equal(await server("1", laptop + "00000003"), undefined);
    assert.equal(await server("2", laptop + "00000001"), undefined);
    assert(
      await store.transition({
        userId: "ann",
        repoHash: "1",
        serverId: laptop + "00000001",
        state: "PENDING",
        epoch: 1,
      }, "fail"),
    );
    assert(await server("1", laptop + "00000003"));
    limits.agents = 2;
    assert.equal(await server("1", laptop + "00000004"), undefined);
  });

  test("a start without limits, and limits of 0, know no bounds", async (store) => {
    assert(await start(store, "ann", "1", { agents: 1, agentsPerUser: 1 }));
    assert(await start(store, "ann", "2"));
    assert(await start(store, "ann", "3", { agents: 0, agentsPerUser: 0 }));
  });

  test(`of ${starts} starts at once as many win as there is room for`, async (store) => {
    const limits = { agents: 7, agentsPerUser: 2 };
    const started = await Promise.all(
      Array.from({ length: starts }, (_, i) => start(store, `user${i % 5}`, String(i), limits)),
    );
    assert.equal(started.filter((session) => session !== undefined).length, 7);
    const users = (await store.list()).map((session) => session.userId);
    assert.equal(users.length, 7);
    for (const user of users) assert(users.filter((other) => other === user).length <= 2);
  });

  const warm = (id: string, change: Partial<WarmAgent> = {}): WarmAgent => ({
    id,
    owner: "me",
    computeService: "process",
    processId: `pid ${id}`,
    podIp: "192.0.2.1",
    agentPort: 1,
    commandPort: 2,
    agentId: `agent ${id}`,
    storageDirectory: `/storage/.warm/${id}`,
    createdAt: 1_000,
    ...change,
  });
  const claim = { owner: "me", computeService: "process" };
  const take = (store: SessionStore, repoHash: string, limits?: AgentLimits) =>
    store.transition(
      { userId: "ann", repoHash, serverId: "", state: "NONE", epoch: 0, claim, limits },
      "start",
      fields(),
    );

  test("warm agents are kept as they are, changed and removed, until one is gone", async (store) => {
    assert.equal(await store.changeWarm("a", { owner: "you" }), false);
    assert.equal(await store.removeWarm("a"), false);
    const starting = warm("b", { agentPort: 0, processId: "", podIp: "", createdAt: 500 });
    for (const agent of [warm("a"), starting, warm("c", { createdAt: 500 })]) assert(await store.addWarm(agent));
    assert.deepEqual(await store.listWarm(), [starting, warm("c", { createdAt: 500 }), warm("a")]);
    const change = { owner: "you", agentPort: 7, commandPort: 8, podIp: "::1", processId: "9" };
    assert.equal(await store.changeWarm("b", change), true);
    assert.deepEqual((await store.listWarm())[0], { ...starting, ...change });
    assert.equal(await store.removeWarm("b"), true);
    assert.equal(await store.removeWarm("b"), false);
    assert.deepEqual((await store.listWarm()).map(({ id }) => id), ["c", "a"]);
  });

  test("an orchestrator that has lost a warm agent neither changes nor removes it", async (store) => {
    assert(await store.addWarm(warm("a")));
    assert.equal(await store.changeWarm("a", { owner: "you" }, "me"), true);
    assert.equal(await store.changeWarm("a", { owner: "they" }, "me"), false);
    assert.equal(await store.removeWarm("a", "me"), false);
    assert.deepEqual(await store.listWarm(), [warm("a", { owner: "you" })]);
    assert.equal(await store.removeWarm("a", "you"), true);
  });

  test("a start takes a warm agent of its own: one that waits, the oldest one, or one that is being started", async (store) => {
    const agents = [
      warm("a", { agentPort: 0, createdAt: 1 }),
      warm("b", { owner: "you", createdAt: 1 }),
      warm("c", { computeService: "kubernetes", createdAt: 1 }),
      warm("d", { createdAt: 3 }),
      warm("e", { createdAt: 2 }),
    ];
    for (const agent of agents) assert(await store.addWarm(agent));
    for (const [i, id] of ["e", "d", "a"].entries()) {
      const session = await take(store, String(i));
      const { processId, podIp, agentPort, commandPort, agentId } = agents.find((agent) => agent.id === id)!;
      const expected = { ...fields(), processId, podIp, agentPort, commandPort, agentId };
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
    assert.deepEqual([cold?.processId, cold?.agentPort, cold?.agentId], ["", 0, "agent"]);
    assert.deepEqual((await store.listWarm()).map(({ id }) => id), ["b", "c"]);
  });

  test("a session that FAILED takes a warm agent for its next start", async (store) => {
    const epoch = await lead(store, "FAILED");
    assert(await store.addWarm(warm("a")));
    const session = await store.transition({ ...KEY, state: "FAILED", epoch, claim }, "start", fields());
    assert.equal(session?.agentId, "agent a");
    assert.deepEqual(await store.listWarm(), []);
  });

  test("a start that does not happen takes no warm agent", async (store) => {
    const epoch = await lead(store, "READY");
    assert(await store.addWarm(warm("a")));
    assert.equal(await store.transition({ ...KEY, state: "NONE", epoch: 0, claim }, "start", fields()), undefined);
    assert.equal(await store.transition({ ...KEY, state: "FAILED", epoch, claim }, "start", fields()), undefined);
    assert.equal(await take(store, "full", { agents: 1, agentsPerUser: 0 }), undefined);
    assert.equal((await store.listWarm()).length, 1);
  });

  test("warm agents count as agents: one that is taken makes no room, and there is none for more", async (store) => {
    const limits = { agents: 3, agentsPerUser: 1 };
    assert(await start(store, "bob", "1", limits));
    assert(await store.addWarm(warm("a"), limits));
    assert(await store.addWarm(warm("b"), limits));
    assert.equal(await store.addWarm(warm("c"), limits), false);
    assert(await take(store, "1", limits));
    assert.equal(await store.addWarm(warm("c"), limits), false);
    assert(await store.removeWarm("b"));
    assert(await store.addWarm(warm("c"), limits));
    assert(await store.addWarm(warm("d"), { agents: 0, agentsPerUser: 0 }));
  });

  test(`of ${starts} starts at once each warm agent is taken by one, and the others go without`, async (store) => {
    const ids = Array.from({ length: 20 }, (_, i) => `agent ${i}`);
    for (const [i, id] of ids.entries()) assert(await store.addWarm(warm(id, { agentPort: i % 2 })));
    const started = await Promise.all(Array.from({ length: starts }, (_, i) => take(store, String(i))));
    const tokens = started.map((session) => session!.agentId);
    assert.deepEqual(
      tokens.filter((token) => token !== "agent").sort(),
      ids.map((id) => `agent ${id}`).sort(),
    );
    assert.deepEqual(await store.listWarm(), []);
  });

  test("two orchestrators take no warm agent twice", async (store, database) => {
    await using other = await database.open();
    for (let i = 0; i < 5; i++) assert(await store.addWarm(warm(String(i))));
    const started = await Promise.all(Array.from({ length: 20 }, (_, i) => take([store, other][i % 2], String(i))));
    const tokens = started.map((session) => session!.agentId).filter((token) => token !== "agent");
    assert.deepEqual(tokens.sort(), [0, 1, 2, 3, 4].map((i) => `agent ${i}`));
  });

  const lease = (id: string, expiresAt = 1_000): OrchestratorLease => ({
    id,
    address: `host-${id}:1`,
    durationMs: 7,
    expiresAt,
  });

  test("a lease is there until it is ended, and can be renewed until then", async (store, database) => {
    await using other = await database.open();
    assert.deepEqual(await store.leases(), []);
    assert.equal(await store.renewLease(lease("a")), false);
    await store.beginLease(lease("b", 5));
    await other.beginLease(lease("a"));
    await assert.rejects(other.beginLease(lease("a")));
    assert.deepEqual(await store.leases(), [lease("a"), lease("b", 5)]);
    assert.equal(await store.renewLease(lease("b", 6)), true);
    assert.deepEqual(await other.leases(), [lease("a"), lease("b", 6)]);
    assert.equal(await other.endLease(lease("b", 5)), false);
    assert.deepEqual(await other.leases(), [lease("a"), lease("b", 6)]);
    assert.equal(await other.endLease(lease("b", 6)), true);
    assert.equal(await other.endLease(lease("b", 6)), false);
    assert.equal(await store.renewLease(lease("b", 7)), false);
    assert.deepEqual(await store.leases(), [lease("a")]);
  });

  test("of a renewal and an end at once one happens", async (store, database) => {
    await using other = await database.open();
    for (let round = 0; round < 10; round++) {
      const id = String(round);
      await store.beginLease(lease(id, 1));
      const [renewed, ended] = await Promise.all([store.renewLease(lease(id, 2)), other.endLease(lease(id, 1))]);
      assert.equal(renewed, !ended);
      assert.equal((await store.leases()).some((left) => left.id === id), renewed);
    }
  });

  /** Leads the session there, with a holder that has a lease. */
  async function held(store: SessionStore, state: Exclude<SessionState, "NONE">, holder = "a"): Promise<number> {
    await store.beginLease(lease(holder));
    let [at, epoch]: [SessionState, number] = ["NONE", 0];
    for (const event of WAY_TO[state]) {
      const session = await store.transition(
        { ...KEY, state: at, epoch },
        event,
        event === "start" ? fields({ holder }) : {},
      );
      [at, epoch] = [session!.status, session!.epoch];
    }
    return epoch;
  }

  for (const state of ["PENDING", "READY", "STOPPING"] as const) {
    test(`a ${state} session is adopted when its holder's lease has ended, and not before`, async (store, database) => {
      await using other = await database.open();
      const epoch = await held(store, state);
      await other.beginLease(lease("b"));
      const before = await store.get(KEY);
      const adopt = () => other.transition({ ...KEY, state, epoch, holder: "a" }, "adopt", { holder: "b" });
      assert.equal(await adopt(), undefined);
      assert.deepEqual(await store.get(KEY), before);
      assert(await other.endLease(lease("a")));
      assert.deepEqual(await adopt(), { ...before, holder: "b", term: 2 });
      assert.equal(await adopt(), undefined);
      assert.equal((await store.get(KEY))?.holder, "b");
    });
  }

  test("of twenty orchestrators that adopt a session at once one has it", async (store, database) => {
    await using other = await database.open();
    const epoch = await held(store, "READY");
    await store.endLease(lease("a"));
    const ids = Array.from({ length: 20 }, (_, i) => `b${i}`);
    for (const id of ids) await store.beginLease(lease(id));
    const won = await Promise.all(
      ids.map((id, i) =>
        [store, other][i % 2].transition({ ...KEY, state: "READY", epoch, holder: "a" }, "adopt", { holder: id })
      ),
    );
    const [winner, ...more] = won.filter((session) => session !== undefined);
    assert.equal(more.length, 0);
    assert.equal(winner?.term, 2);
    assert.deepEqual(await store.get(KEY), winner);
  });

  test("an orchestrator that has lost a session changes nothing of it", async (store) => {
    for (const state of ["PENDING", "READY", "STOPPING", "FAILED"] as const) {
      const key = { ...KEY, userId: state };
      await store.beginLease(lease(`a${state}`));
      await store.beginLease(lease(`b${state}`));
      let epoch = 0;
      for (const [i, event] of WAY_TO[state].entries()) {
        const at = i === 0 ? "NONE" : (await store.get(key))!.status;
        const change = event === "start" ? fields({ holder: `a${state}` }) : {};
        epoch = (await store.transition({ ...key, state: at, epoch }, event, change))!.epoch;
      }
      if (state !== "FAILED") {
        await store.endLease(lease(`a${state}`));
        assert(await store.transition({ ...key, state, epoch }, "adopt", { holder: `b${state}` }));
      }
      const before = await store.get(key);
      const holder = state === "FAILED" ? "someone" : `a${state}`;
      for (const event of Object.keys(TRANSITIONS[state]) as SessionEvent[]) {
        const change = event === "start" ? fields() : { failure: "x" };
        assert.equal(await store.transition({ ...key, state, epoch, holder }, event, change), undefined, event);
      }
      assert.deepEqual(await store.get(key), before);
    }
  });

  test("nobody without a lease starts an agent, or takes a session", async (store) => {
    assert.equal(
      await store.transition({ ...KEY, state: "NONE", epoch: 0 }, "start", fields({ holder: "a" })),
      undefined,
    );
    assert.equal(await store.get(KEY), undefined);
    const epoch = await lead(store, "FAILED");
    const again = () => store.transition({ ...KEY, state: "FAILED", epoch }, "start", fields({ holder: "a" }));
    assert.equal(await again(), undefined);
    await store.beginLease(lease("a"));
    const started = await again();
    assert.equal(started?.holder, "a");
    const expected = { ...KEY, state: "PENDING", epoch: started!.epoch } as const;
    assert.equal(await store.transition(expected, "stop", { holder: "b" }), undefined);
    assert.deepEqual(await store.get(KEY), started);
  });

  test("the term counts holders, from one at each start", async (store) => {
    const epoch = await held(store, "READY");
    await store.beginLease(lease("b"));
    const term = async () => (await store.get(KEY))?.term;
    assert.equal(await term(), 1);
    await store.transition({ ...KEY, state: "READY", epoch }, "takeOver", { holder: "a", sessionId: "7" });
    assert.equal(await term(), 1);
    await store.transition({ ...KEY, state: "READY", epoch: epoch + 1 }, "stop", { holder: "b" });
    assert.equal(await term(), 2);
    await store.transition({ ...KEY, state: "STOPPING", epoch: epoch + 1, holder: "b" }, "stopped");
    await held(store, "PENDING", "c");
    assert.equal(await term(), 1);
  });

  test("a start without all fields is refused", async (store) => {
    await assert.rejects(store.transition({ ...KEY, state: "NONE", epoch: 0 }, "start", { sessionId: "1" }), TypeError);
    assert.equal(await store.get(KEY), undefined);
  });

  test("touch notes the time of PENDING and READY sessions with that id, and never turns it back", async (store) => {
    assert.equal(await store.touch(KEY, undefined, 1), false);
    await lead(store, "READY");
    assert.equal(await store.touch(KEY, "6".repeat(32), 5_000), false);
    assert.equal(await store.touch(KEY, fields().sessionId, 3_000), true);
    assert.equal(await store.touch(KEY, undefined, 2_000), true);
    const session = await store.get(KEY);
    assert.equal(session?.lastHeartbeat, 3_000);
    assert(await store.transition({ ...session!, state: "READY" }, "stop"));
    assert.equal(await store.touch(KEY, undefined, 9_000), false);
  });

  test("list gives the oldest first, of all users or of one", async (store) => {
    const start = (userId: string, repoHash: string, createdAt: number) =>
      store.transition({ userId, repoHash, serverId: "", state: "NONE", epoch: 0 }, "start", fields({ createdAt }));
    await start("bob", "b", 2);
    await start("ann", "c", 3);
    await start("ann", "d", 1);
    assert.deepEqual((await store.list()).map((s) => s.repoHash), ["d", "b", "c"]);
    assert.deepEqual((await store.list("ann")).map((s) => s.repoHash), ["d", "c"]);
    assert.deepEqual(await store.list("eve"), []);
    await start("bob", "a", 1);
    await start("ann", "a", 1);
    assert.deepEqual((await store.list()).map((s) => s.userId + s.repoHash), ["anna", "annd", "boba", "bobb", "annc"]);
  });

  test("watchers hear of their own key only, and not after they have left", async (store) => {
    const heard: string[] = [];
    const leave = store.watch(KEY, () => heard.push("mine"));
    store.watch({ ...KEY, userId: "bob" }, () => heard.push("bob's"));
    const epoch = await lead(store, "PENDING");
    leave();
    await store.transition({ ...KEY, state: "PENDING", epoch }, "ready");
    assert.deepEqual(heard, ["mine"]);
  });
}
