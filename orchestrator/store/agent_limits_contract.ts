/** How every Store must apply AgentLimits when sessions start, as tests: see store_contract.ts. */
import assert from "node:assert/strict";
import { KEY, lead, start } from "../testing/contract_sessions.ts";
import { fields } from "../testing/session_fields.ts";
import type { ContractTest } from "./contract_test_database.ts";

/** Registers the tests. */
export function agentLimitsContract(test: ContractTest, starts: number): void {
  test("a start beyond the limit changes nothing, whoever wants it, until an agent is gone", async (store) => {
    const limits = { agents: 3, agentsPerUser: 0 };
    for (const state of ["PENDING", "READY", "STOPPING"] as const) {
      await lead(store, state, { userId: state, repoHash: "a", serverId: "" });
    }
    const epoch = await lead(store, "FAILED");
    let told = 0;
    store.sessions.watch(KEY, () => told++);
    const before = await store.sessions.list();
    const again = () => store.sessions.transition({ ...KEY, state: "FAILED", epoch, limits }, "start", fields());
    assert.equal(await start(store, "eve", "e", limits), undefined);
    assert.equal(await again(), undefined);
    assert.deepEqual(await store.sessions.list(), before);
    assert.equal(told, 0);
    assert(
      await store.sessions.transition(
        { userId: "STOPPING", repoHash: "a", serverId: "", state: "STOPPING", epoch: 1 },
        "stopped",
      ),
    );
    assert.equal((await again())?.status, "PENDING");
    assert.equal(told, 1);
    assert.equal(await start(store, "eve", "e", limits), undefined);
    assert(await store.sessions.transition({ ...KEY, state: "PENDING", epoch: epoch + 1 }, "fail"));
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
    assert(
      await store.sessions.transition(
        { userId: "ann", repoHash: "1", serverId: "", state: "PENDING", epoch: 1 },
        "fail",
      ),
    );
    assert(await start(store, "ann", "3", limits));
  });

  test("of a user's limit the second server of a workspace on a machine takes nothing", async (store) => {
    const limits = { agents: 0, agentsPerUser: 1 };
    const server = (repoHash: string, serverId: string) =>
      store.sessions.transition(
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
      await store.sessions.transition({
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
    const users = (await store.sessions.list()).map((session) => session.userId);
    assert.equal(users.length, 7);
    for (const user of users) assert(users.filter((other) => other === user).length <= 2);
  });
}
