import assert from "node:assert/strict";
import { Code, RpcError } from "../../proto/transport/rpc/client.ts";
import { B, rejects, request, test, type World } from "../testing/session_world.ts";
import { StepLog } from "../testing/step_log.ts";
import type { ServerRequest } from "./server_request.ts";

const NEXT = "you are next";

function limits(agents: number, agentsPerUser = 0) {
  return { limits: { agents, agentsPerUser } };
}

/** A caller who waits for a server, with the steps that it was told. */
function caller(world: World, sourcePath: string, change: Partial<ServerRequest> = {}) {
  const log = new StepLog();
  const leaving = new AbortController();
  return {
    log,
    server: world.get({ sourcePath, ...change }, log.read, leaving.signal),
    leave: () => leaving.abort(new RpcError(Code.DEADLINE_EXCEEDED, "too late")),
    /** Resolves when the latest step says that it waits for a free agent, and so. */
    waits: (standing: string) => log.until(`waiting for a free agent: ${standing}`),
    waitsForOwn: (standing: string) => log.until(`waiting for one of your own agents to end: ${standing}`),
  };
}

function release(world: World, sourcePath: string, userId = "ann"): Promise<boolean> {
  return world.service.release(request({ sourcePath, userId }), "");
}

test("who wants an agent beyond the limit waits, is told how it stands, and is served in turn", async (world) => {
  await Promise.all([world.get({ sourcePath: "/1" }), world.get({ sourcePath: "/2" })]);
  const three = caller(world, "/3");
  const four = caller(world, "/4", { userId: "bob" });
  const five = caller(world, "/5");
  await three.waits(`2 of 2 run, ${NEXT}`);
  await four.waits("2 of 2 run, 1 is before you");
  await five.waits("2 of 2 run, 2 are before you");
  await release(world, "/1");
  assert.equal((await three.server).sourcePath, "/3");
  assert.deepEqual(three.log.steps.slice(0, 2), [`waiting for a free agent: 2 of 2 run, ${NEXT}`, "starting agent"]);
  await four.waits(`2 of 2 run, ${NEXT}`);
  await five.waits("2 of 2 run, 1 is before you");
  await release(world, "/2");
  await four.server;
  await release(world, "/3");
  await five.server;
  assert.equal(world.compute.agents.length, 5);
}, limits(2));

test("those who wait for the same session have one place, and one agent", async (world) => {
  await world.get();
  const waiting = Array.from({ length: 100 }, () => caller(world, "/2"));
  const last = caller(world, "/3");
  await last.waits("1 of 1 run, 1 is before you");
  await Promise.all(waiting.map((one) => one.waits(`1 of 1 run, ${NEXT}`)));
  await release(world, "/ws");
  await Promise.all(waiting.map((one) => one.server));
  await last.waits(`1 of 1 run, ${NEXT}`);
  assert.equal(world.compute.agents.length, 2);
}, limits(1));

test("who leaves is dropped from the queue, and no agent is started for him", async (world) => {
  await world.get();
  const two = caller(world, "/2");
  const [three, alsoThree] = [caller(world, "/3"), caller(world, "/3")];
  const four = caller(world, "/4");
  await four.waits("1 of 1 run, 2 are before you");
  two.leave();
  await rejects(two.server, Code.DEADLINE_EXCEEDED, /too late/);
  await four.waits("1 of 1 run, 1 is before you");
  three.leave();
  await rejects(three.server, Code.DEADLINE_EXCEEDED, /too late/);
  assert.equal(four.log.steps.at(-1), "waiting for a free agent: 1 of 1 run, 1 is before you");
  alsoThree.leave();
  await four.waits(`1 of 1 run, ${NEXT}`);
  await release(world, "/ws");
  await four.server;
  assert.deepEqual(world.compute.agents.map(({ spec }) => spec.sourcePath), ["/ws", "/4"]);
  const late = caller(world, "/2");
  await late.waits(`1 of 1 run, ${NEXT}`);
}, limits(1));

test("the queue's steps are told once, and not to those who come when it is over", async (world) => {
  await world.get();
  const first = caller(world, "/2");
  await first.waits(`1 of 1 run, ${NEXT}`);
  // The next one reads the board before the first has left and wiped it, and joins the queue after that.
  const get = world.store.sessions.get.bind(world.store.sessions);
  world.store.sessions.get = (key) => first.server.catch(() => {}).then(() => get(key));
  const second = caller(world, "/2");
  first.leave();
  await second.waits(`1 of 1 run, ${NEXT}`);
  const third = caller(world, "/3");
  await third.waits("1 of 1 run, 1 is before you");
  assert.equal(second.log.steps.length, 1);
  second.leave();
  third.leave();
  await Promise.allSettled([second.server, third.server]);
  await release(world, "/ws");
  const late = caller(world, "/3");
  await late.server;
  assert.equal(late.log.steps[0], "starting agent");
}, limits(1));

test("a user's own limit holds up no other user", async (world) => {
  await world.get({ sourcePath: "/1" });
  const two = caller(world, "/2");
  const three = caller(world, "/3");
  await two.waitsForOwn(`1 of 1 run, ${NEXT}`);
  await three.waitsForOwn("1 of 1 run, 1 is before you");
  await world.get({ userId: "bob" });
  const eve = caller(world, "/1", { userId: "eve" });
  await eve.waits(`2 of 2 run, ${NEXT}`);
  // Ann's next one came before eve.
  await release(world, "/1");
  await two.server;
  await eve.waits(`2 of 2 run, ${NEXT}`);
  await release(world, "/ws", "bob");
  await eve.server;
  assert.equal((await world.session({ sourcePath: "/3" }))?.status, undefined);
}, limits(2, 1));

test("failures do not count, and sessions that are being ended count until they are gone", async (world) => {
  await rejects(world.get({ startupOptions: ["--fake=exit"] }), Code.FAILED_PRECONDITION, /no JDK/);
  await world.get({ sourcePath: "/1", startupOptions: ["--fake=deaf"] });
  const released = release(world, "/1");
  const two = caller(world, "/2");
  await two.waits(`1 of 1 run, ${NEXT}`);
  assert.equal((await world.session({ sourcePath: "/1" }))?.status, "STOPPING");
  world.compute.agents[1].close();
  await two.server;
  assert.equal(await released, true);
  // An agent that dies makes room as well as one that is ended.
  const three = caller(world, "/3");
  await three.waits(`1 of 1 run, ${NEXT}`);
  world.compute.agents[2].close();
  await three.server;
}, limits(1));

test("a start that fails lets the next one go", async (world) => {
  const gate = Promise.withResolvers<void>();
  world.compute.gate = gate.promise;
  const one = caller(world, "/1", { startupOptions: ["--fake=exit"] });
  const two = caller(world, "/2");
  await two.waits(`1 of 1 run, ${NEXT}`);
  gate.resolve();
  await rejects(one.server, Code.FAILED_PRECONDITION, /no JDK/);
  await two.server;
}, limits(1));

test("an agent that replaces another takes its room, whoever waits", async (world) => {
  await world.get();
  const two = caller(world, "/2");
  await two.waits(`1 of 1 run, ${NEXT}`);
  const three = Promise.withResolvers<ReturnType<typeof caller>>();
  const transition = world.store.sessions.transition.bind(world.store.sessions);
  world.store.sessions.transition = async (...change) => {
    const session = await transition(...change);
    if (change[1] === "stopped") {
      // The queue looks around just when the room is empty.
      world.store.sessions.transition = transition;
      const late = caller(world, "/3");
      await late.waits("1 of 1 run, 1 is before you");
      three.resolve(late);
    }
    return session;
  };
  const anew = await world.get({ sessionId: B, startupOptions: ["--three"] });
  assert.equal(anew.sourcePath, "/ws");
  assert.deepEqual(two.log.steps, [`waiting for a free agent: 1 of 1 run, ${NEXT}`]);
  (await three.promise).leave();
  await release(world, "/ws");
  await two.server;
}, limits(1));

test("warm servers are found and taken over whatever the queue", async (world) => {
  const { agentPort } = await world.get();
  const two = caller(world, "/2");
  await two.waits(`1 of 1 run, ${NEXT}`);
  assert.equal((await world.get()).agentPort, agentPort);
  assert.equal((await world.get({ sessionId: B })).agentPort, agentPort);
}, limits(1));

test("an orchestrator that was restarted counts what the one before it started", async (world) => {
  await Promise.all([world.get({ sourcePath: "/1" }), world.get({ sourcePath: "/2" })]);
  world.service = world.newService(limits(1));
  const early = caller(world, "/3");
  await early.waits(`2 of 1 run, ${NEXT}`);
  await world.service.adopt();
  await release(world, "/1");
  await early.waits(`1 of 1 run, ${NEXT}`);
  await release(world, "/2");
  await early.server;
});

test("of two orchestrators on one store each sees the room that the other makes", async (world) => {
  const first = world.service;
  await world.get();
  world.service = world.newService();
  const two = caller(world, "/2");
  await two.waits(`1 of 1 run, ${NEXT}`);
  assert.equal(await first.release(request(), ""), true);
  await two.server;
}, { ...limits(1), lookAgainMs: 20 });

test("two orchestrators on one store do not exceed the limit together", async (world) => {
  const services = [world.service, world.newService()];
  const list = world.store.sessions.list.bind(world.store.sessions);
  // What each of them knows is always old: only the store's own transaction can hold the limit.
  world.store.sessions.list = async () => (await list()).slice(0, 1);
  const { signal } = new AbortController();
  await Promise.all(Array.from({ length: 40 }, async (_, i) => {
    const service = services[i % 2];
    const session = await service.getServer(request({ sourcePath: `/${i}` }), signal);
    const running = (await list()).filter(({ status }) => status !== "FAILED");
    assert(running.length <= 2, `${running.length} run`);
    await service.release(session, "");
  }));
  assert.equal(world.compute.agents.length, 40);
  world.store.sessions.list = list;
  await services[1].stop();
}, { ...limits(2), lookAgainMs: 20 });

test("who waits when the orchestrator ends is told so, and nothing is started any more", async (world) => {
  await world.get();
  const two = caller(world, "/2");
  await two.waits(`1 of 1 run, ${NEXT}`);
  await world.service.stop();
  await rejects(two.server, Code.UNAVAILABLE, /being stopped/);
  assert.equal(world.compute.agents.length, 1);
  assert.deepEqual(await world.store.sessions.list(), []);
}, limits(1));

test(
  "a thousand callers for many sessions never have more agents than the limit, and are started in order",
  async (world) => {
    const started: number[] = [];
    await Promise.all(Array.from({ length: 200 }, async (_, i) => {
      const wanted = { sourcePath: `/${i}`, userId: `user${i % 50}` };
      const note = (step: string) => void (step === "starting agent" && started.push(i));
      const first = world.get(wanted, note);
      await Promise.all([first, ...Array.from({ length: 4 }, () => world.get(wanted))]);
      const running = (await world.store.sessions.list()).filter(({ status }) => status !== "FAILED");
      assert(running.length <= 4, `${running.length} run`);
      assert(world.compute.alive.size <= 4);
      await world.service.release(await first, "");
    }));
    assert.deepEqual(started, Array.from({ length: 200 }, (_, i) => i));
    assert.equal(world.compute.agents.length, 200);
  },
  limits(4, 3),
);
