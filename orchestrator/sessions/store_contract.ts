/** What every SessionStore must do, as tests; each implementation's own test runs them. */
import assert from "node:assert/strict";
import type { SessionFields, SessionKey } from "./session.ts";
import { type SessionEvent, type SessionState, TRANSITIONS } from "./state_machine.ts";
import type { SessionStore } from "./store.ts";

const KEY: SessionKey = { userId: "ann", repoHash: "0123456789abcdef0123456789abcdef" };

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
    controlToken: "control",
    storageDirectory: "/storage/ann",
    warnings: [],
    samePaths: false,
    synced: true,
    missingInstallBase: "",
    failure: "",
    failureTransient: false,
    createdAt: 1_000,
    lastHeartbeat: 1_000,
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

/** Registers the tests. @param open Makes an empty store. */
export function storeContract(
  name: string,
  open: () => Promise<SessionStore> | SessionStore,
  options: Pick<Deno.TestDefinition, "ignore"> = {},
): void {
  const test = (promise: string, run: (store: SessionStore) => Promise<void>) =>
    Deno.test(`${name}: ${promise}`, options, async () => {
      await using store = await open();
      await run(store);
    });

  for (const [from, events] of Object.entries(TRANSITIONS) as [SessionState, typeof TRANSITIONS[SessionState]][]) {
    for (const event of ["start", "listening", "ready", "takeOver", "fail", "stop", "stopped", "forget"] as const) {
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

  test("epochs go on where a session that is gone left them", async (store) => {
    for (let round = 1; round <= 3; round++) {
      const epoch = await lead(store, "STOPPING");
      assert.equal(epoch, round);
      assert(await store.transition({ ...KEY, state: "STOPPING", epoch }, "stopped"));
    }
    assert.equal(await lead(store, "PENDING", { ...KEY, repoHash: "f".repeat(32) }), 1);
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
      store.transition({ userId, repoHash, state: "NONE", epoch: 0 }, "start", fields({ createdAt }));
    await start("bob", "b", 2);
    await start("ann", "c", 3);
    await start("ann", "d", 1);
    assert.deepEqual((await store.list()).map((s) => s.repoHash), ["d", "b", "c"]);
    assert.deepEqual((await store.list("ann")).map((s) => s.repoHash), ["d", "c"]);
    assert.deepEqual(await store.list("eve"), []);
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
