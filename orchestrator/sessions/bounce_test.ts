import assert from "node:assert/strict";
import { Code } from "../../proto/transport/rpc/client.ts";
import { A, B, rejects, request, test } from "../testing/session_world.ts";

const C = "c".repeat(32);

test("replace: another life of the client gets a server of its own, after the former one has ended", async (world) => {
  const first = await world.get();
  assert.deepEqual(await world.get(), first, "the same life gets what it has");
  const former = world.compute.agents[0];
  let endedFirst = false;
  world.compute.next().then(() => endedFirst = !world.compute.alive.has(former));
  const steps: string[] = [];
  const second = await world.get({ sessionId: B }, (step) => steps.push(step));
  assert.equal(steps[0], "stopping the former server, which an earlier life of the client has left behind");
  assert(endedFirst);
  assert.equal(second.sessionId, B);
  assert.notEqual(second.accessToken, first.accessToken);
  assert(second.epoch > first.epoch);
  assert.equal(world.compute.agents.length, 2);
  assert.equal(world.compute.alive.size, 1);
  await rejects(world.service.heartbeat(request(), A).then(), Code.FAILED_PRECONDITION, /Another client has taken/);
}, { onBounce: "replace" });

test("replace: a start for an earlier life is given up, and its caller does not fight", async (world) => {
  const started = world.compute.next();
  const first = world.get({ startupOptions: ["--fake=slow"] });
  await started;
  const next = world.compute.next();
  const second = world.get({ startupOptions: ["--fake=slow"], sessionId: B });
  await rejects(first, Code.FAILED_PRECONDITION, /replaced by another client of the same workspace, as --on-bounce/);
  (await next).becomeReady();
  assert.equal((await second).sessionId, B);
  assert.equal(world.compute.alive.size, 1);
}, { onBounce: "replace" });

test(
  "replace: who was replaced while its own agent was to start is told so, and does not fight either",
  async (world) => {
    await world.get();
    const transition = world.store.sessions.transition.bind(world.store.sessions);
    const last = Promise.withResolvers<Awaited<ReturnType<typeof world.get>>>();
    world.store.sessions.transition = (...change) => {
      if (change[1] === "stopped") {
        world.store.sessions.transition = transition;
        last.resolve(world.get({ sessionId: C }));
      }
      return transition(...change);
    };
    await rejects(world.get({ sessionId: B }), Code.FAILED_PRECONDITION, /replaced by another client of the same/);
    assert.equal((await last.promise).sessionId, C);
    assert.equal(world.compute.alive.size, 1);
  },
  { onBounce: "replace" },
);

test("replace: of many lives at once each replaces at most once, and the last one has the server", async (world) => {
  const ids = Array.from({ length: 20 }, (_, i) => String(i).padStart(32, "0"));
  const answers = await Promise.allSettled(ids.map((sessionId) => world.get({ sessionId })));
  for (const answer of answers) {
    if (answer.status === "rejected") assert.match(answer.reason.message, /replaced by another client of the same/);
  }
  const served = answers.flatMap((answer) => answer.status === "fulfilled" ? [answer.value.sessionId] : []);
  assert.equal(served.at(-1), (await world.session())?.sessionId);
  assert(world.compute.agents.length <= ids.length);
  assert.equal(world.compute.alive.size, 1);
}, { onBounce: "replace" });

test("replace: who takes any server is the owner's guest, and bounces neither it nor itself", async (world) => {
  const owned = await world.get();
  for (const startupOptions of [[], ["--output_base=/out"]]) {
    const guest = await world.get({ sessionId: C, startupOptions });
    assert.deepEqual([guest.sessionId, guest.epoch, guest.agentPort], [A, owned.epoch, owned.agentPort]);
  }
  assert.equal((await world.session())?.sessionId, A);
  assert.equal((await world.get()).epoch, owned.epoch, "the owner still is");
  assert.equal(world.compute.agents.length, 1);
}, { onBounce: "replace" });

test("replace: two who take any server share the one that the first of them had started", async (world) => {
  const [one, two] = await Promise.all([A, B].map((sessionId) => world.get({ sessionId, startupOptions: [] })));
  assert.deepEqual(one, two);
  assert.equal(world.compute.agents.length, 1);
}, { onBounce: "replace" });

test("replace: an orchestrator that was restarted knows the owner, and does not bounce it", async (world) => {
  const before = await world.get();
  await world.replace();
  assert.equal((await world.get()).epoch, before.epoch);
  assert.equal(world.compute.agents.length, 1);
}, { onBounce: "replace" });
