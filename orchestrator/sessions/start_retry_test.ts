import assert from "node:assert/strict";
import { Code, RpcError } from "../../proto/transport/rpc/client.ts";
import { InstantClock } from "../testing/instant_clock.ts";
import { rejects, request, test, type World } from "../testing/session_world.ts";
import { StepLog } from "../testing/step_log.ts";

const SLOW = { startupOptions: ["--fake=slow"] };
const AGAIN = "the agent ended (exit code 0); trying again";

function instantly(): { backoffClock: InstantClock } {
  return { backoffClock: new InstantClock() };
}

/** Ends the next agents that are started, before they are ready. */
async function endNext(world: World, times: number): Promise<void> {
  for (; times > 0; times--) (await world.compute.next()).close();
}

test("a start that failed for a transient reason is tried again, and who waits is told so", async (world) => {
  const log = new StepLog();
  const answer = world.get(SLOW, log.read);
  await endNext(world, 2);
  (await world.compute.next()).becomeReady();
  const session = await answer;
  assert.equal(session.status, "READY");
  assert.equal(session.failure, "");
  const steps = log.steps.filter((step) => step !== "starting Bazel server");
  const attempt = ["starting agent", "agent process started"];
  assert.deepEqual(steps, [...attempt, AGAIN, ...attempt, AGAIN, ...attempt]);
  const { waited } = world.change.backoffClock as InstantClock;
  assert(waited >= 2_450 && waited <= 2_500, `0.5 and 2 s at most, but it waited ${waited} ms`);
}, instantly());

test("after the third failure the caller is told why, and the advice is his", async (world) => {
  const log = new StepLog();
  const fail = { startupOptions: ["--fake=fail-transient"] };
  await rejects(world.get(fail, log.read), Code.UNAVAILABLE, /^Bazel 9 is not here; install it\.$/);
  assert.equal(world.compute.agents.length, 3);
  assert.equal(log.steps.filter((step) => step === "Bazel 9 is not here; trying again").length, 2);
}, instantly());

test("a failure that is the caller's to mend is not tried again", async (world) => {
  for (const how of ["fail", "exit"]) {
    await rejects(world.get({ startupOptions: [`--fake=${how}`] }), Code.FAILED_PRECONDITION, /./);
  }
  assert.equal((await world.session())?.epoch, 2);
});

test("all who wait for a start share its further attempts, too", async (world) => {
  const answers = Array.from({ length: 100 }, () => world.get(SLOW));
  await endNext(world, 2);
  (await world.compute.next()).becomeReady();
  for (const session of await Promise.all(answers)) assert.equal(session.epoch, 3);
  assert.equal(world.compute.agents.length, 3);
}, instantly());

test("nothing is tried again for those who have left", async (world) => {
  const caller = new AbortController();
  const log = new StepLog();
  const started = world.compute.next();
  const answer = world.get(SLOW, log.read, caller.signal);
  (await started).close();
  await log.until(AGAIN);
  caller.abort(new RpcError(Code.CANCELLED, "enough"));
  await rejects(answer, Code.CANCELLED, /enough/);
  // Were it still waiting, it would not do so for longer than this.
  await world.get({ sourcePath: "/other" });
  assert.equal((await world.session())?.status, "FAILED");
  assert.equal(world.compute.agents.length, 2);
}, instantly());

test("nor when the orchestrator is ending", async (world) => {
  const log = new StepLog();
  const started = world.compute.next();
  const answer = world.get(SLOW, log.read);
  (await started).close();
  await log.until(AGAIN);
  await world.service.stop();
  await rejects(answer, Code.UNAVAILABLE, /being stopped/);
  assert.equal(world.compute.agents.length, 1);
});

test("who comes between two attempts does not wait for the second", async (world) => {
  const log = new StepLog();
  const started = world.compute.next();
  const patient = world.get(SLOW, log.read);
  (await started).close();
  await log.until(AGAIN);
  const next = world.compute.next();
  const hasty = world.get(SLOW);
  (await next).becomeReady();
  assert.equal((await hasty).epoch, 2);
  assert.equal((await patient).agentPort, (await hasty).agentPort);
  assert.equal(world.compute.agents.length, 2);
});

test("a start that is released is not tried again", async (world) => {
  const started = world.compute.next();
  const answer = world.get(SLOW);
  await started;
  await world.service.release(request(), "");
  await rejects(answer, Code.UNAVAILABLE, /was released/);
  assert.equal(world.compute.agents.length, 1);
}, instantly());

test("a start that took long before it failed is not tried again", async (world) => {
  await rejects(world.get(SLOW), Code.UNAVAILABLE, /was not ready after 0.2 s/);
  assert.equal(world.compute.agents.length, 1);
}, { ...instantly(), startTimeoutMs: 200 });

test("with limits, a further attempt comes before those who came later", async (world) => {
  const order: string[] = [];
  const note = (sourcePath: string) => (step: string) => void (step === "starting agent" && order.push(sourcePath));
  const started = world.compute.next();
  const first = world.get({ ...SLOW, sourcePath: "/1" }, note("/1"));
  const agent = await started;
  const others = ["/2", "/3"].map((sourcePath) => world.get({ ...SLOW, sourcePath }, note(sourcePath)));
  const second = world.compute.next();
  agent.close();
  const other = await second;
  assert.equal((await other.assigned).sourcePath, "/2", "its room is not kept while it pauses");
  const log = new StepLog();
  world.get({ ...SLOW, sourcePath: "/1" }, log.read);
  await log.until("waiting for a free agent: 1 of 1 run, you are next");
  const third = world.compute.next();
  other.becomeReady();
  await others[0];
  await world.service.release(request({ sourcePath: "/2" }), "");
  (await third).becomeReady();
  await first;
  assert.deepEqual(order, ["/1", "/2", "/1"]);
}, { ...instantly(), limits: { agents: 1, agentsPerUser: 0 } });
