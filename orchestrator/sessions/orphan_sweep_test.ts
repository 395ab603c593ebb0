import assert from "node:assert/strict";
import { request, test } from "../testing/session_world.ts";
import type { SessionEvent } from "../store/state_machine.ts";
import type { SessionStore } from "../store/session_store.ts";
import { OrphanSweep } from "./orphan_sweep.ts";

/** A store whose disk is full for one kind of event, until it is mended. */
function breakFor(store: SessionStore, event: SessionEvent): { mend(): void; failed: Promise<void> } {
  const failed = Promise.withResolvers<void>();
  const working = store.transition.bind(store);
  store.transition = (...transition) => {
    if (transition[1] !== event) return working(...transition);
    failed.resolve();
    return Promise.reject(new Error("the disk is full"));
  };
  return { mend: () => void (store.transition = working), failed: failed.promise };
}

test(
  "a session whose agent's death could not be written is found, and makes room, without anybody asking for it",
  async (world) => {
    await world.service.adopt();
    await world.get();
    const disk = breakFor(world.store.sessions, "fail");
    const waiting = world.get({ sourcePath: "/2" });
    world.compute.agents[0].close();
    await disk.failed;
    assert.equal((await world.session())?.status, "READY");
    disk.mend();
    const failed = await world.until("FAILED");
    assert.match(failed!.failure, /^The agent ended/);
    assert.equal((await waiting).sourcePath, "/2");
  },
  { sweepIntervalMs: 10, limits: { agents: 1, agentsPerUser: 0 } },
);

test("so is one whose end could not be written", async (world) => {
  await world.service.adopt();
  await Promise.all([world.get(), world.get({ sourcePath: "/2" })]);
  const disk = breakFor(world.store.sessions, "stopped");
  void world.service.release(request(), "");
  await disk.failed;
  disk.mend();
  await world.until("NONE");
  assert.equal((await world.session({ sourcePath: "/2" }))?.status, "READY");
}, { sweepIntervalMs: 10 });

test("sessions that are served, or about to be, are left alone by any number of sweeps", async (world) => {
  await world.service.adopt();
  let sweeps = 0;
  const enough = Promise.withResolvers<void>();
  const list = world.store.sessions.list.bind(world.store.sessions);
  world.store.sessions.list = (userId) => {
    if (++sweeps === 200) enough.resolve();
    return list(userId);
  };
  const transition = world.store.sessions.transition.bind(world.store.sessions);
  world.store.sessions.transition = async (...change) => {
    const session = await transition(...change);
    // A store behind a network: sweeps see the session before the one who starts it hears of it.
    if (change[1] === "start") await new Promise((resolve) => setTimeout(resolve, 20));
    return session;
  };
  const slow = { sourcePath: "/slow", startupOptions: ["--fake=slow"] };
  const started = world.compute.next();
  const waiting = world.get(slow);
  const agent = await started;
  const served = await Promise.all(Array.from({ length: 20 }, (_, i) => world.get({ sourcePath: `/${i}` })));
  await enough.promise;
  assert.equal((await world.session(slow))?.status, "PENDING");
  for (const session of served) assert.equal((await world.store.sessions.get(session))?.status, "READY");
  agent.becomeReady();
  assert.equal((await waiting).status, "READY");
  assert.equal(world.compute.agents.length, 21);
}, { sweepIntervalMs: 0 });

Deno.test("sessions are looked for however long it takes to remove what agents have left, which is done once at a time", async () => {
  let removals = 0, looks = 0;
  const enough = Promise.withResolvers<void>();
  const sweep = new OrphanSweep({
    store: {
      list() {
        if (++looks === 5) enough.resolve();
        return Promise.resolve([]);
      },
    } as unknown as SessionStore,
    intervalMs: 1,
    log() {},
    mend: () => Promise.resolve(),
    compute: {
      sweep() {
        removals++;
        return new Promise(() => {});
      },
    },
  });
  sweep.start();
  const late = Promise.withResolvers<"late">();
  const timer = setTimeout(() => late.resolve("late"), 2_000);
  const result = await Promise.race([enough.promise, late.promise]);
  clearTimeout(timer);
  sweep.stop();
  assert.deepEqual([result, removals], [undefined, 1]);
});
