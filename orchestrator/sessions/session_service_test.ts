import assert from "node:assert/strict";
import { join } from "node:path";
import { Code, RpcError } from "../../proto/transport/rpc/client.ts";
import { ComputeChoice } from "../compute/compute_choice.ts";
import { InProcessCompute } from "../testing/in_process_compute.ts";
import { InstantClock } from "../testing/instant_clock.ts";
import { A, B, OPTIONS, rejects, request, test, told } from "../testing/session_world.ts";
import { StepLog } from "../testing/step_log.ts";
import { SqliteStore } from "../store/sqlite_store.ts";

test("a thousand callers for one key start one agent, and all are answered", async (world) => {
  const gate = Promise.withResolvers<void>();
  world.compute.gate = gate.promise;
  const answers = Array.from({ length: 1000 }, (_, i) => world.get({ startupOptions: i % 3 === 2 ? [] : OPTIONS }));
  await world.until("PENDING");
  gate.resolve();
  const sessions = await Promise.all(answers);
  assert.equal(world.compute.agents.length, 1);
  for (const session of sessions) {
    assert.equal(session.status, "READY");
    assert.equal(session.epoch, 1);
    assert.notEqual(session.agentPort, 0);
  }
});

test("callers with different session ids take over in turn, each with an epoch of its own", async (world) => {
  const ids = Array.from({ length: 50 }, (_, i) => String(i).padStart(32, "0"));
  const sessions = await Promise.all(ids.map((sessionId) => world.get({ sessionId })));
  assert.equal(world.compute.agents.length, 1);
  assert.deepEqual(sessions.map((session) => session.sessionId), ids);
  assert.equal(new Set(sessions.map((session) => session.epoch)).size, 50);
  const last = Math.max(...sessions.map((session) => session.epoch));
  assert.equal((await world.session())?.epoch, last);
  await told(world.compute.agents[0], last);
});

test("different users and workspaces have different agents and storage", async (world) => {
  const sessions = await Promise.all([world.get(), world.get({ userId: "bob" }), world.get({ sourcePath: "/other" })]);
  assert.equal(new Set(sessions.map((session) => session.agentPort)).size, 3);
});

test("READY is told only when the agent says so, and steps are told on the way, also to who comes late", async (world) => {
  const steps: string[] = [];
  const stepped = Promise.withResolvers<void>();
  const started = world.compute.next();
  const early = world.get({ startupOptions: ["--fake=slow"] }, (step) => {
    steps.push(step);
    if (step === "starting Bazel server") stepped.resolve();
  });
  const agent = await started;
  await stepped.promise;
  assert.deepEqual(steps, ["starting agent", "agent process started", "starting Bazel server"]);
  assert.equal((await world.session())?.status, "PENDING");
  const late: string[] = [];
  const other = world.get({ startupOptions: ["--fake=slow"] }, (step) => late.push(step));
  assert.deepEqual(late, ["starting Bazel server"]);
  agent.step("loading");
  agent.becomeReady();
  const session = await early;
  assert.equal(session.status, "READY");
  assert.deepEqual(session.warnings, ["the sandbox does not work"]);
  assert.equal(session.samePaths, true);
  assert.deepEqual(await other, session);
  assert.equal(late.at(-1), "loading");
});

test("a caller that goes away does not stop the start", async (world) => {
  const started = world.compute.next();
  const caller = new AbortController();
  const answer = world.get({ startupOptions: ["--fake=slow"] }, undefined, caller.signal);
  const agent = await started;
  caller.abort(new RpcError(Code.DEADLINE_EXCEEDED, "too late"));
  await rejects(answer, Code.DEADLINE_EXCEEDED, /too late/);
  agent.becomeReady();
  await world.until("READY");
  assert.equal((await world.get({ startupOptions: ["--fake=slow"] })).epoch, 1);
  assert.equal(world.compute.agents.length, 1);
});

test("the same session id gets the same answer; another takes the warm agent over and the agent is told", async (world) => {
  const first = await world.get();
  assert.deepEqual(await world.get(), first);
  const second = await world.get({ sessionId: B, startupOptions: ["--two", "--max_idle_secs=7", "--one"] });
  assert.equal(second.agentPort, first.agentPort);
  assert.equal(second.epoch, first.epoch + 1);
  await told(world.compute.agents[0], second.epoch);
  const third = await world.get({ sessionId: A, startupOptions: [] });
  assert.equal(third.agentPort, first.agentPort);
  assert.equal(third.startupOptionsHash, first.startupOptionsHash);
});

test("other startup options replace the agent, whose end is waited for", async (world) => {
  const first = await world.get();
  const steps: string[] = [];
  const second = await world.get({ startupOptions: ["--three"] }, (step) => steps.push(step));
  assert.equal(steps[0], "stopping the former server, which has other startup options");
  assert.notEqual(second.agentPort, first.agentPort);
  assert.notEqual(second.accessToken, first.accessToken);
  assert(second.epoch > first.epoch);
  assert.equal(world.compute.alive.size, 1);
  assert.equal(world.compute.agents.length, 2);
});

test("who waits for a start that another replaces is told so, and does not fight", async (world) => {
  const started = world.compute.next();
  const first = world.get({ startupOptions: ["--fake=slow"] });
  await started;
  const second = await world.get({ sessionId: B });
  await rejects(first, Code.FAILED_PRECONDITION, /replaced by another client with other startup options/);
  assert.equal((await world.session())?.epoch, second.epoch);
  assert.equal(world.compute.alive.size, 1);
});

test("who wants any server is content with the one that replaces what it waited for", async (world) => {
  const gate = Promise.withResolvers<void>();
  world.compute.gate = gate.promise;
  const any = world.get({ startupOptions: [] });
  await world.until("PENDING");
  const particular = world.get({ sessionId: B });
  await world.until("PENDING", (session) => session?.epoch === 2);
  gate.resolve();
  assert.equal((await particular).agentPort, (await any).agentPort);
  assert.equal(world.compute.agents.length, 1);
});

test(
  "why an agent could not start reaches all who wait, with the right code, and the next caller tries again",
  async (world) => {
    const fail = { startupOptions: ["--fake=fail"] };
    const [one, two] = [world.get(fail), world.get(fail)];
    await rejects(one, Code.FAILED_PRECONDITION, /Bazel 9 is not here/);
    await rejects(two, Code.FAILED_PRECONDITION, /Bazel 9 is not here/);
    assert.equal((await world.session())?.status, "FAILED");
    assert.equal(world.compute.alive.size, 0);
    await rejects(world.get({ startupOptions: ["--fake=fail-transient"] }), Code.UNAVAILABLE, /Bazel 9 is not here/);
    await rejects(world.get({ startupOptions: ["--fake=exit"] }), Code.FAILED_PRECONDITION, /no JDK here/);
    const session = await world.get();
    assert.equal(session.status, "READY");
    assert.equal(session.failure, "");
    // One attempt each, but three for the failure that was transient.
    assert.equal(session.epoch, 6);
  },
  { backoffClock: new InstantClock() },
);

test("an agent that never is ready fails when its time is over, and is ended", async (world) => {
  await rejects(world.get({ startupOptions: ["--fake=slow"] }), Code.UNAVAILABLE, /was not ready after 0.2 s/);
  assert.equal(world.compute.alive.size, 0);
}, { startTimeoutMs: 200 });

test("an agent that never listens fails when its time is over", async (world) => {
  world.compute.gate = new Promise(() => {});
  await rejects(world.get(), Code.UNAVAILABLE, /was not ready after 0.2 s/);
}, { startTimeoutMs: 200 });

test("an agent that dies while READY fails its session, and the next caller gets another", async (world) => {
  const first = await world.get();
  world.compute.agents[0].close();
  const failed = await world.until("FAILED");
  assert.match(failed!.failure, /ended/);
  await rejects(world.service.heartbeat(request(), A).then(), Code.FAILED_PRECONDITION, /FAILED/);
  const second = await world.get();
  assert.notEqual(second.agentPort, first.agentPort);
});

test("an agent that dies while PENDING fails its start, when it does so each time", async (world) => {
  const answer = world.get({ startupOptions: ["--fake=slow"] });
  for (let attempt = 1; attempt <= 3; attempt++) (await world.compute.next()).close();
  await rejects(answer, Code.UNAVAILABLE, /ended/);
  assert.equal(world.compute.agents.length, 3);
}, { backoffClock: new InstantClock() });

test("a connection that breaks is made anew, with the present epoch, and callers notice nothing", async (world) => {
  await world.get();
  const { epoch } = await world.get({ sessionId: B });
  const [agent] = world.compute.agents;
  await told(agent, epoch);
  agent.epochs.length = 0;
  agent.breakStreams();
  await told(agent, epoch);
  assert.deepEqual(await world.get({ sessionId: B }), await world.session());
  assert.equal(world.compute.agents.length, 1);
});

test("release ends a READY session and resolves when the agent is gone", async (world) => {
  await world.get();
  assert.equal(await world.service.release(request(), A), true);
  assert.equal(world.compute.alive.size, 0);
  assert.equal(await world.session(), undefined);
  assert.equal(await world.service.release(request(), A), false);
  assert.equal(world.compute.agents[0].stopGraceMs, 0);
});

test("release with an older session id leaves the newer owner alone", async (world) => {
  await world.get();
  const { epoch } = await world.get({ sessionId: B });
  assert.equal(await world.service.release(request(), A), false);
  assert.equal((await world.session())?.epoch, epoch);
  assert.equal(await world.service.release(request(), ""), true);
});

for (const when of ["before it listens", "after it listens"]) {
  test(`release during a start ${when} ends it, and those who wait are told`, async (world) => {
    const started = world.compute.next();
    if (when === "before it listens") world.compute.gate = new Promise(() => {});
    const answer = world.get({ startupOptions: ["--fake=slow"] });
    if (when === "before it listens") await world.until("PENDING");
    else await started;
    assert.equal(await world.service.release(request(), A), true);
    await rejects(answer, Code.UNAVAILABLE, /was released while its agent started/);
    assert.equal(world.compute.alive.size, 0);
    assert.equal(await world.session(), undefined);
  });
}

test("of many who release at once one did it, and all wait for the end", async (world) => {
  await world.get();
  const released = await Promise.all(Array.from({ length: 20 }, () => world.service.release(request(), A)));
  assert.equal(released.filter(Boolean).length, 1);
  assert.equal(world.compute.alive.size, 0);
});

test("a caller that comes while a session is STOPPING gets a new one after it", async (world) => {
  const first = await world.get();
  const released = world.service.release(request(), A);
  await world.until("STOPPING");
  const second = await world.get();
  assert.equal(await released, true);
  assert(second.epoch > first.epoch);
  assert.equal(world.compute.alive.size, 1);
});

test("an agent that does not end when it is asked to is killed", async (world) => {
  await world.get({ startupOptions: ["--fake=deaf"] });
  assert.equal(await world.service.release(request(), A), true);
  assert.equal(world.compute.alive.size, 0);
}, { killAfterMs: 100 });

test("an agent that nothing ends holds its session up for a while, and no longer", async (world) => {
  await world.get({ startupOptions: ["--fake=deaf"] });
  world.compute.areImmortal = true;
  const began = performance.now();
  const released = world.service.release(request(), A);
  await world.until("STOPPING");
  assert.equal(await released, true);
  assert(performance.now() - began > 5_000, "it was given time");
  assert.equal(await world.session(), undefined);
  assert.deepEqual(world.compute.letGo, ["1"]);
  assert.equal((await world.get()).status, "READY", "the next one has another agent");
}, { killAfterMs: 50 });

test("an agent that dies while STOPPING has ended as asked", async (world) => {
  await world.get({ startupOptions: ["--fake=deaf"] });
  const released = world.service.release(request(), A);
  await world.until("STOPPING");
  world.compute.agents[0].close();
  assert.equal(await released, true);
  assert.equal(await world.session(), undefined);
});

test("a failure can be released", async (world) => {
  await rejects(world.get({ startupOptions: ["--fake=exit"] }), Code.FAILED_PRECONDITION, /no JDK/);
  assert.equal(await world.service.release(request(), A), true);
  assert.equal(await world.session(), undefined);
});

test("heartbeats are for the owner of a live session only", async (world) => {
  await rejects(world.service.heartbeat(request(), A).then(), Code.NOT_FOUND, /no such session/);
  await world.get();
  assert.equal(await world.service.heartbeat(request(), A), 20_000);
  await rejects(world.service.heartbeat(request(), B).then(), Code.FAILED_PRECONDITION, /Another client/);
});

test("a session that nobody uses is ended, and so is the memory of a failure", async (world) => {
  await rejects(world.get({ sourcePath: "/f", startupOptions: ["--fake=exit"] }), Code.FAILED_PRECONDITION, /no JDK/);
  await world.get();
  await world.until("NONE");
  assert.equal(world.compute.alive.size, 0);
  assert.equal(await world.session({ sourcePath: "/f" }), undefined);
}, { idleTimeoutMs: 150 });

test("a running command keeps its session, and its end counts as activity", async (world) => {
  await world.get();
  const [agent] = world.compute.agents;
  agent.activity(1);
  const other = { sourcePath: "/other" };
  await world.get(other);
  const gone = Promise.withResolvers<void>();
  world.store.sessions.watch(request(other), async () => await world.session(other) || gone.resolve());
  await gone.promise;
  assert.equal((await world.session())?.status, "READY");
  agent.activity(0);
  await world.until("NONE");
}, { idleTimeoutMs: 200 });

test("an orchestrator that was killed is followed by one that adopts its agents", async (world) => {
  const before = await world.get();
  // The one before is never heard of again; the agent sees a new Supervise call.
  await world.replace();
  assert.deepEqual(await world.get(), await world.session());
  assert.equal((await world.session())?.agentPort, before.agentPort);
  assert.equal(world.compute.agents.length, 1);
  assert.equal(world.compute.agents[0].epochs.length, 2);
  await world.service.stop();
  assert.equal(world.compute.alive.size, 0);
});

test("a start that was under way is adopted too", async (world) => {
  const started = world.compute.next();
  world.get({ startupOptions: ["--fake=slow"] });
  const agent = await started;
  await told(agent, 1);
  await world.replace();
  const answer = world.get({ startupOptions: ["--fake=slow"] });
  agent.becomeReady();
  assert.equal((await answer).epoch, 1);
});

test("a client that goes on with an agent of another mode is told to ask again", async (world) => {
  const session = await world.get({ startupOptions: OPTIONS });
  const heartbeat = () => world.service.heartbeat(session, session.sessionId);
  await heartbeat();
  const said: string[] = [];
  await world.replace({ synced: true, log: (line: string) => void said.push(line) });
  assert.match(
    said.join("\n"),
    /warning: 1 sessions are of --workspace=shared: each is replaced by one of --workspace=synced/,
  );
  await rejects(heartbeat(), Code.FAILED_PRECONDITION, /started in another mode/);
  assert.equal((await world.get({ startupOptions: OPTIONS })).synced, true);
  await heartbeat();
});

test("an agent of the other mode is not taken over warm, whoever wants a server", async (world) => {
  const shared = await world.get();
  assert.equal(shared.synced, false);
  for (const [synced, startupOptions] of [[true, OPTIONS], [false, []]] as const) {
    await world.replace({ synced });
    const steps: string[] = [];
    const before = world.compute.agents.length;
    const session = await world.get({ startupOptions }, (step) => steps.push(step));
    assert.equal(session.synced, synced);
    assert.match(steps[0], synced ? /former server, which has a shared/ : /former server, which has a synced/);
    assert.equal(world.compute.agents.length, before + 1);
    assert.equal(world.compute.alive.size, 1);
    assert.equal((await world.get({ startupOptions, sessionId: B })).agentPort, session.agentPort);
    const { spec } = world.compute.agents.at(-1)!;
    assert.equal(spec.synced, synced);
    assert.deepEqual(spec.hiddenPaths, ["/state"]);
  }
});

test("what an agent lacks is told to its callers", async (world) => {
  const session = await world.get({ startupOptions: ["--fake=incomplete"] });
  assert.equal(session.missingInstallBase, "/install");
});

test("what cannot be adopted is dropped: dead agents, and starts without an address", async (world) => {
  const gate = Promise.withResolvers<void>();
  await world.get({ sourcePath: "/dead" });
  world.compute.gate = gate.promise;
  const begun = Promise.withResolvers<void>();
  world.get({ sourcePath: "/unknown" }, () => begun.resolve());
  await begun.promise;
  const old = world.store;
  // A copy of the store as the killed one left it, of which the former service knows nothing.
  const copy = join(world.temp.path, "copy");
  Deno.mkdirSync(copy);
  for (const suffix of ["", "-wal"]) {
    Deno.copyFileSync(join(world.temp.path, `s.sqlite${suffix}`), join(copy, `s.sqlite${suffix}`));
  }
  world.compute.agents[0].close();
  world.compute.gate = Promise.resolve();
  world.store = SqliteStore.open(join(copy, "s.sqlite"));
  await world.replace();
  const unknown = await world.session({ sourcePath: "/unknown" });
  assert.equal(unknown?.status, "FAILED");
  const anew = await world.get({ sourcePath: "/dead" });
  assert.equal(anew.status, "READY");
  assert.equal(anew.epoch, 2);
  gate.resolve();
  await old[Symbol.asyncDispose]();
});

test("an adopted agent that accepts connections but does not answer is dropped", async (world) => {
  await world.get();
  const [agent] = world.compute.agents;
  agent.mute = true;
  await world.replace();
  agent.breakStreams();
  const session = await world.get();
  assert.equal(session.epoch, 2);
  assert.equal(world.compute.agents.length, 2);
}, { answerTimeoutMs: 100 });

test("a session that was being ended is ended by the next orchestrator", async (world) => {
  const session = await world.get();
  await world.store.sessions.transition({ ...session, state: "READY" }, "stop");
  await world.replace();
  await world.until("NONE");
  assert.equal(world.compute.alive.size, 0);
});

test("stop takes all agents along, and refuses who waits and who comes", async (world) => {
  await world.get();
  const waiting = world.get({ sourcePath: "/slow", startupOptions: ["--fake=slow"] });
  const justNow = world.get({ sourcePath: "/now" });
  await world.service.stop();
  assert.equal(world.compute.alive.size, 0);
  assert.deepEqual(await world.store.sessions.list(), []);
  await rejects(waiting, Code.UNAVAILABLE, /being stopped/);
  await rejects(justNow, Code.UNAVAILABLE, /being stopped/);
  await rejects(world.get(), Code.UNAVAILABLE, /being stopped/);
});

{
  const near = new InProcessCompute("near", "earth");
  const far = new InProcessCompute("far", "mars");
  test("a session's agent runs in its region, or in another one and says so", async (world) => {
    const steps = new StepLog();
    const there = await world.get({ region: "mars" }, steps.read);
    assert.deepEqual([there.region, there.computeService, far.alive.size], ["mars", "far", 1]);
    const elsewhere = await world.get({ sourcePath: "/2", region: "moon" }, steps.read);
    assert.deepEqual([elsewhere.region, elsewhere.computeService, near.alive.size], ["earth", "near", 1]);
    assert.deepEqual(steps.steps.filter((step) => /no agents/.test(step)), [
      "no agents run in moon, so this one runs in earth",
    ]);
    // It is found again by whoever asks for it from elsewhere.
    assert.equal((await world.get({ region: "venus" })).agentPort, there.agentPort);
    // And by an orchestrator after this one, at the service that runs it.
    world.service = world.newService();
    await world.service.adopt();
    assert.equal((await world.get({ region: "mars" })).agentPort, there.agentPort);
  }, { compute: new ComputeChoice([near, far]) });
}
