/** What every SessionStore must do, as tests: see store_contract.ts. */
import assert from "node:assert/strict";
import { KEY, lead } from "../testing/contract_sessions.ts";
import { fields } from "../testing/session_fields.ts";
import type { SessionFields } from "./session.ts";
import { type SessionState, TRANSITIONS } from "./state_machine.ts";
import type { ContractTest } from "./contract_test_database.ts";

/** Registers the tests. */
export function sessionStoreContract(test: ContractTest): void {
  for (const [from, events] of Object.entries(TRANSITIONS) as [SessionState, typeof TRANSITIONS[SessionState]][]) {
    for (
      const event of ["start", "listening", "ready", "takeOver", "adopt", "fail", "stop", "stopped", "forget"] as const
    ) {
      const leads = events[event];
      test(`${event} ${leads ? `leads from ${from} to ${leads.to}` : `cannot happen in ${from}`}`, async (store) => {
        const epoch = await lead(store, from);
        const change = event === "start" ? fields({ sessionId: "6".repeat(32) }) : { failure: "because" };
        const go = () => store.sessions.transition({ ...KEY, state: from, epoch }, event, change);
        if (!leads) return await assert.rejects(go, TypeError);
        let told = 0;
        store.sessions.watch(KEY, () => told++);
        const after = await go();
        assert.equal(told, 1);
        assert(after);
        const stored = await store.sessions.get(KEY);
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
    const before = await store.sessions.get(KEY);
    let told = 0;
    store.sessions.watch(KEY, () => told++);
    for (const event of ["ready", "takeOver", "fail", "stop"] as const) {
      assert.equal(
        await store.sessions.transition({ ...KEY, state: "READY", epoch: epoch + 1 }, event, { failure: "x" }),
        undefined,
      );
    }
    assert.equal(
      await store.sessions.transition({ ...KEY, state: "PENDING", epoch }, "fail", { failure: "x" }),
      undefined,
    );
    assert.equal(await store.sessions.transition({ ...KEY, state: "STOPPING", epoch }, "stopped"), undefined);
    assert.equal(await store.sessions.transition({ ...KEY, state: "FAILED", epoch }, "forget"), undefined);
    assert.equal(await store.sessions.transition({ ...KEY, state: "NONE", epoch: 0 }, "start", fields()), undefined);
    assert.deepEqual(await store.sessions.get(KEY), before);
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
          (_, i) => store.sessions.transition({ ...KEY, state: from, epoch }, event, fields({ sessionId: String(i) })),
        ),
      );
      const [winner, ...more] = won.filter((session) => session !== undefined);
      assert.equal(more.length, 0);
      assert.deepEqual(await store.sessions.get(KEY), winner);
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
          (_, i) =>
            [store, other][i % 2].sessions.transition(
              { ...KEY, state, epoch },
              event,
              fields({ sessionId: String(i) }),
            ),
        ),
      );
      const [winner, ...more] = won.filter((session) => session !== undefined);
      assert.equal(more.length, 0);
      assert.deepEqual(await store.sessions.get(KEY), winner);
      assert.deepEqual(await other.sessions.get(KEY), winner);
    });
  }

  test("a touch and a transition at once are both there afterwards", async (store, database) => {
    await using other = await database.open();
    let epoch = await lead(store, "READY");
    for (let round = 1; round <= 10; round++) {
      const at = 1_000 + round;
      const [touched, taken] = await Promise.all([
        other.sessions.touch(KEY, undefined, at),
        store.sessions.transition({ ...KEY, state: "READY", epoch }, "takeOver", { sessionId: String(round) }),
      ]);
      assert.equal(touched, true);
      assert.equal(taken?.epoch, ++epoch);
      const { sessionId, lastHeartbeat } = (await store.sessions.get(KEY))!;
      assert.deepEqual([sessionId, lastHeartbeat], [String(round), at]);
    }
  });

  test("a listener hears of each change of state that another orchestrator makes", async (store, database) => {
    await using other = await database.open();
    let [state, epoch]: [SessionState, number] = ["NONE", 0];
    for (const event of ["start", "ready", "takeOver", "fail", "start", "stop", "stopped", "start"] as const) {
      const heard = Promise.withResolvers<void>();
      const leave = other.sessions.watch(KEY, heard.resolve);
      const seen = await other.sessions.get(KEY);
      assert.deepEqual([seen?.status ?? "NONE", seen?.epoch ?? 0], [state, state === "NONE" ? 0 : epoch]);
      const after = await store.sessions.transition({ ...KEY, state, epoch }, event, event === "start" ? fields() : {});
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
      other.sessions.watch(KEY, heard.resolve);
      assert.equal(await other.sessions.get(KEY), undefined);
      await lead(store, "PENDING");
      assert.equal(await other.sessions.transition({ ...KEY, state: "NONE", epoch: 0 }, "start", fields()), undefined);
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
      const started = await store.sessions.transition({ ...key, state: "NONE", epoch: 0 }, "start", start);
      assert.deepEqual(started, { ...start, ...key, status: "PENDING", epoch: 1, term: 1 });
      assert.deepEqual(await store.sessions.get(key), started);
      const changed = await store.sessions.transition({ ...key, state: "PENDING", epoch: 1 }, "fail", {
        failure: `${value}!`,
      });
      assert.deepEqual(changed, { ...started, status: "FAILED", failure: `${value}!` });
      assert.deepEqual(await store.sessions.list(key.userId), [changed]);
    }
    assert.equal((await store.sessions.list()).length, odd.length);
  });

  test("epochs go on where a session that is gone left them", async (store) => {
    for (let round = 1; round <= 3; round++) {
      const epoch = await lead(store, "STOPPING");
      assert.equal(epoch, round);
      assert(await store.sessions.transition({ ...KEY, state: "STOPPING", epoch }, "stopped"));
    }
    const epoch = await lead(store, "FAILED");
    assert.equal(epoch, 4);
    assert(await store.sessions.transition({ ...KEY, state: "FAILED", epoch }, "forget"));
    assert.equal(await lead(store, "PENDING"), 5);
    assert.equal(await lead(store, "PENDING", { ...KEY, repoHash: "f".repeat(32) }), 1);
  });

  test("servers of one workspace are sessions of their own", async (store, database) => {
    await using other = await database.open();
    const keys = ["", "1".repeat(16), "2".repeat(16)].map((serverId) => ({ ...KEY, serverId }));
    const heard: string[] = [];
    for (const key of keys) store.sessions.watch(key, () => heard.push(key.serverId));
    for (const key of keys) assert.equal(await lead(store, "READY", key), 1);
    assert.deepEqual(
      (await other.sessions.list("ann")).map((session) => session.serverId),
      keys.map((key) => key.serverId),
    );
    const [, key] = keys;
    heard.length = 0;
    const taken = await other.sessions.transition({ ...key, state: "READY", epoch: 1 }, "takeOver", { sessionId: "7" });
    assert.equal(taken?.epoch, 2);
    assert.equal(await other.sessions.touch(key, "7", 9_000), true);
    assert(await store.sessions.transition({ ...key, state: "READY", epoch: 2 }, "stop"));
    assert(await store.sessions.transition({ ...key, state: "STOPPING", epoch: 2 }, "stopped"));
    assert.deepEqual([...new Set(heard)], [key.serverId]);
    assert.deepEqual((await other.sessions.list()).map((session) => session.serverId), ["", "2".repeat(16)]);
    for (const left of await store.sessions.list()) assert.deepEqual([left.epoch, left.lastHeartbeat], [1, 1_000]);
    assert.equal(await lead(store, "PENDING", key), 3);
  });

  test("a start without all fields is refused", async (store) => {
    await assert.rejects(
      store.sessions.transition({ ...KEY, state: "NONE", epoch: 0 }, "start", { sessionId: "1" }),
      TypeError,
    );
    assert.equal(await store.sessions.get(KEY), undefined);
  });

  test("touch notes the time of PENDING and READY sessions with that id, and never turns it back", async (store) => {
    assert.equal(await store.sessions.touch(KEY, undefined, 1), false);
    await lead(store, "READY");
    assert.equal(await store.sessions.touch(KEY, "6".repeat(32), 5_000), false);
    assert.equal(await store.sessions.touch(KEY, fields().sessionId, 3_000), true);
    assert.equal(await store.sessions.touch(KEY, undefined, 2_000), true);
    const session = await store.sessions.get(KEY);
    assert.equal(session?.lastHeartbeat, 3_000);
    assert(await store.sessions.transition({ ...session!, state: "READY" }, "stop"));
    assert.equal(await store.sessions.touch(KEY, undefined, 9_000), false);
  });

  test("list gives the oldest first, of all users or of one", async (store) => {
    const start = (userId: string, repoHash: string, createdAt: number) =>
      store.sessions.transition(
        { userId, repoHash, serverId: "", state: "NONE", epoch: 0 },
        "start",
        fields({ createdAt }),
      );
    await start("bob", "b", 2);
    await start("ann", "c", 3);
    await start("ann", "d", 1);
    assert.deepEqual((await store.sessions.list()).map((s) => s.repoHash), ["d", "b", "c"]);
    assert.deepEqual((await store.sessions.list("ann")).map((s) => s.repoHash), ["d", "c"]);
    assert.deepEqual(await store.sessions.list("eve"), []);
    await start("bob", "a", 1);
    await start("ann", "a", 1);
    assert.deepEqual((await store.sessions.list()).map((s) => s.userId + s.repoHash), [
      "anna",
      "annd",
      "boba",
      "bobb",
      "annc",
    ]);
  });

  test("watchers hear of their own key only, and not after they have left", async (store) => {
    const heard: string[] = [];
    const leave = store.sessions.watch(KEY, () => heard.push("mine"));
    store.sessions.watch({ ...KEY, userId: "bob" }, () => heard.push("bob's"));
    const epoch = await lead(store, "PENDING");
    leave();
    await store.sessions.transition({ ...KEY, state: "PENDING", epoch }, "ready");
    assert.deepEqual(heard, ["mine"]);
  });
}
