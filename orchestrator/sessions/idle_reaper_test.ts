import assert from "node:assert/strict";
import { join } from "node:path";
import { test } from "../testing/session_world.ts";
import { tempDirSync } from "../../tests/support/temp_dir.ts";
import { IdleReaper } from "./idle_reaper.ts";
import { keyText } from "../store/session.ts";
import { SqliteStore } from "../store/sqlite_store.ts";
import { fields } from "../testing/session_fields.ts";

const PATHS = Array.from({ length: 20 }, (_, i) => `/${i}`);

Deno.test("all that have expired are ended at once, and one that cannot be is no trouble for the others", async () => {
  using temp = tempDirSync();
  await using store = SqliteStore.open(join(temp.path, "s.sqlite"));
  for (const repoHash of PATHS) {
    const key = { userId: "ann", repoHash, serverId: "" };
    const { epoch } = (await store.sessions.transition({ ...key, state: "NONE", epoch: 0 }, "start", fields()))!;
    await store.sessions.transition({ ...key, state: "PENDING", epoch }, "ready");
  }
  const begun: string[] = [];
  const gate = Promise.withResolvers<void>();
  const allBegun = Promise.withResolvers<void>();
  const log: string[] = [];
  const reaper = new IdleReaper({
    store: store.sessions,
    idleTimeoutMs: 60_000,
    secondIdleTimeoutMs: 60_000,
    lastCommand: () => undefined,
    log: (line) => log.push(line),
    isOurs: () => true,
    isBusy: () => false,
    async expire(session) {
      if (begun.push(session.repoHash) === PATHS.length) allBegun.resolve();
      if (session.repoHash === "/3") throw new Error("the disk is full");
      await gate.promise;
    },
  });
  const reaped = reaper.start();
  await allBegun.promise;
  assert.deepEqual(begun.toSorted(), PATHS.toSorted());
  gate.resolve();
  await reaped;
  reaper.stop();
  const text = keyText({ userId: "ann", repoHash: "/3", serverId: "" });
  assert.deepEqual(log, [`session ${text}, which is idle, could not be ended: the disk is full`]);
});

test("twenty idle sessions whose agents are slow to end take the time of one", async (world) => {
  const stopping = PATHS.map(async (sourcePath) => {
    void world.get({ sourcePath, startupOptions: ["--fake=deaf"] });
    await world.until("STOPPING", () => true, { sourcePath });
  });
  await Promise.all(stopping);
  assert.equal(world.compute.alive.size, PATHS.length, "not one has ended before the last is asked to");
  for (const agent of world.compute.alive) agent.close();
  await Promise.all(PATHS.map((sourcePath) => world.until("NONE", () => true, { sourcePath })));
  assert.equal(world.compute.alive.size, 0);
}, { idleTimeoutMs: 300, killAfterMs: 600_000 });
