/**
 * What every LeaseStore must do, also for sessions that name a lease as their holder, as tests: see store_contract.ts.
 */
import assert from "node:assert/strict";
import { KEY, lead, WAY_TO } from "../testing/contract_sessions.ts";
import { fields } from "../testing/session_fields.ts";
import type { ContractTest } from "./contract_test_database.ts";
import type { OrchestratorLease } from "./lease_store.ts";
import { type SessionEvent, type SessionState, TRANSITIONS } from "./state_machine.ts";
import type { Store } from "./store.ts";

/** Registers the tests. */
export function leaseStoreContract(test: ContractTest): void {
  const lease = (id: string, expiresAt = 1_000): OrchestratorLease => ({
    id,
    address: `host-${id}:1`,
    durationMs: 7,
    expiresAt,
  });

  test("a lease is there until it is ended, and can be renewed until then", async (store, database) => {
    await using other = await database.open();
    assert.deepEqual(await store.leases.list(), []);
    assert.equal(await store.leases.renew(lease("a")), false);
    await store.leases.begin(lease("b", 5));
    await other.leases.begin(lease("a"));
    await assert.rejects(other.leases.begin(lease("a")));
    assert.deepEqual(await store.leases.list(), [lease("a"), lease("b", 5)]);
    assert.equal(await store.leases.renew(lease("b", 6)), true);
    assert.deepEqual(await other.leases.list(), [lease("a"), lease("b", 6)]);
    assert.equal(await other.leases.end(lease("b", 5)), false);
    assert.deepEqual(await other.leases.list(), [lease("a"), lease("b", 6)]);
    assert.equal(await other.leases.end(lease("b", 6)), true);
    assert.equal(await other.leases.end(lease("b", 6)), false);
    assert.equal(await store.leases.renew(lease("b", 7)), false);
    assert.deepEqual(await store.leases.list(), [lease("a")]);
  });

  test("of a renewal and an end at once one happens", async (store, database) => {
    await using other = await database.open();
    for (let round = 0; round < 10; round++) {
      const id = String(round);
      await store.leases.begin(lease(id, 1));
      const [renewed, ended] = await Promise.all([store.leases.renew(lease(id, 2)), other.leases.end(lease(id, 1))]);
      assert.equal(renewed, !ended);
      assert.equal((await store.leases.list()).some((left) => left.id === id), renewed);
    }
  });

  /** Leads the session there, with a holder that has a lease. */
  async function held(store: Store, state: Exclude<SessionState, "NONE">, holder = "a"): Promise<number> {
    await store.leases.begin(lease(holder));
    let [at, epoch]: [SessionState, number] = ["NONE", 0];
    for (const event of WAY_TO[state]) {
      const session = await store.sessions.transition(
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
      await other.leases.begin(lease("b"));
      const before = await store.sessions.get(KEY);
      const adopt = () => other.sessions.transition({ ...KEY, state, epoch, holder: "a" }, "adopt", { holder: "b" });
      assert.equal(await adopt(), undefined);
      assert.deepEqual(await store.sessions.get(KEY), before);
      assert(await other.leases.end(lease("a")));
      assert.deepEqual(await adopt(), { ...before, holder: "b", term: 2 });
      assert.equal(await adopt(), undefined);
      assert.equal((await store.sessions.get(KEY))?.holder, "b");
    });
  }

  test("of twenty orchestrators that adopt a session at once one has it", async (store, database) => {
    await using other = await database.open();
    const epoch = await held(store, "READY");
    await store.leases.end(lease("a"));
    const ids = Array.from({ length: 20 }, (_, i) => `b${i}`);
    for (const id of ids) await store.leases.begin(lease(id));
    const won = await Promise.all(
      ids.map((id, i) =>
        [store, other][i % 2].sessions.transition({ ...KEY, state: "READY", epoch, holder: "a" }, "adopt", {
          holder: id,
        })
      ),
    );
    const [winner, ...more] = won.filter((session) => session !== undefined);
    assert.equal(more.length, 0);
    assert.equal(winner?.term, 2);
    assert.deepEqual(await store.sessions.get(KEY), winner);
  });

  test("an orchestrator that has lost a session changes nothing of it", async (store) => {
    for (const state of ["PENDING", "READY", "STOPPING", "FAILED"] as const) {
      const key = { ...KEY, userId: state };
      await store.leases.begin(lease(`a${state}`));
      await store.leases.begin(lease(`b${state}`));
      let epoch = 0;
      for (const [i, event] of WAY_TO[state].entries()) {
        const at = i === 0 ? "NONE" : (await store.sessions.get(key))!.status;
        const change = event === "start" ? fields({ holder: `a${state}` }) : {};
        epoch = (await store.sessions.transition({ ...key, state: at, epoch }, event, change))!.epoch;
      }
      if (state !== "FAILED") {
        await store.leases.end(lease(`a${state}`));
        assert(await store.sessions.transition({ ...key, state, epoch }, "adopt", { holder: `b${state}` }));
      }
      const before = await store.sessions.get(key);
      const holder = state === "FAILED" ? "someone" : `a${state}`;
      for (const event of Object.keys(TRANSITIONS[state]) as SessionEvent[]) {
        const change = event === "start" ? fields() : { failure: "x" };
        assert.equal(
          await store.sessions.transition({ ...key, state, epoch, holder }, event, change),
          undefined,
          event,
        );
      }
      assert.deepEqual(await store.sessions.get(key), before);
    }
  });

  test("nobody without a lease starts an agent, or takes a session", async (store) => {
    assert.equal(
      await store.sessions.transition({ ...KEY, state: "NONE", epoch: 0 }, "start", fields({ holder: "a" })),
      undefined,
    );
    assert.equal(await store.sessions.get(KEY), undefined);
    const epoch = await lead(store, "FAILED");
    const again = () => store.sessions.transition({ ...KEY, state: "FAILED", epoch }, "start", fields({ holder: "a" }));
    assert.equal(await again(), undefined);
    await store.leases.begin(lease("a"));
    const started = await again();
    assert.equal(started?.holder, "a");
    const expected = { ...KEY, state: "PENDING", epoch: started!.epoch } as const;
    assert.equal(await store.sessions.transition(expected, "stop", { holder: "b" }), undefined);
    assert.deepEqual(await store.sessions.get(KEY), started);
  });

  test("the term counts holders, from one at each start", async (store) => {
    const epoch = await held(store, "READY");
    await store.leases.begin(lease("b"));
    const term = async () => (await store.sessions.get(KEY))?.term;
    assert.equal(await term(), 1);
    await store.sessions.transition({ ...KEY, state: "READY", epoch }, "takeOver", { holder: "a", sessionId: "7" });
    assert.equal(await term(), 1);
    await store.sessions.transition({ ...KEY, state: "READY", epoch: epoch + 1 }, "stop", { holder: "b" });
    assert.equal(await term(), 2);
    await store.sessions.transition({ ...KEY, state: "STOPPING", epoch: epoch + 1, holder: "b" }, "stopped");
    await held(store, "PENDING", "c");
    assert.equal(await term(), 1);
  });
}
