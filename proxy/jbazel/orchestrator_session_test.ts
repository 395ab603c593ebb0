import assert from "node:assert/strict";
import { Code, RpcError } from "../../proto/transport/rpc/client.ts";
import { eventually } from "../../tests/support/eventually.ts";
import { FakeOrchestrator, TestPlace } from "./fake_services.ts";
import { OrchestratorSession } from "./orchestrator_session.ts";

/** Two orchestrators, and a session that asks the first one first. */
async function two() {
  const stack = new AsyncDisposableStack();
  const place = stack.use(new TestPlace());
  const one = stack.use(await FakeOrchestrator.start(place, 1));
  const other = stack.use(await FakeOrchestrator.start(place, 1));
  const session = stack.use(
    new OrchestratorSession({
      orchestrator: `${one.address},${other.address}`,
      stateDirectory: place.stateDirectory,
      fallback: "error",
    }),
  );
  return { place, one, other, session, [Symbol.asyncDispose]: () => stack.disposeAsync() };
}

Deno.test("an orchestrator that is lost while the agent starts is passed over, each of them once", async () => {
  await using t = await two();
  const steps: string[] = [];
  const request = () =>
    t.session.requestServer(t.place.workspace, { outputBase: "/ob", onStep: (step) => void steps.push(step) });
  t.one.before = async function* () {
    yield { event: { case: "step", value: { description: "one" } } };
    throw new RpcError(Code.UNAVAILABLE, "This orchestrator is ending: run the command again.");
  };
  const server = await request();
  assert.ok(server !== "synced");
  assert.equal(server.response.accessToken, "agent-token");
  assert.deepEqual([steps, t.one.requests.length, t.other.requests.length], [["one"], 1, 1]);
  assert.equal(t.one.requests[0].sessionId, t.other.requests[0].sessionId);

  t.other.before = t.one.before;
  await assert.rejects(request(), /^RbsError: This orchestrator is ending: run the command again\.$/);
  assert.deepEqual([t.one.requests.length, t.other.requests.length], [2, 2]);
});

Deno.test("heartbeats pass over an orchestrator that is silent", async () => {
  await using t = await two();
  const server = await t.session.requestServer(t.place.workspace, { outputBase: "/ob" });
  assert.ok(server !== "synced");
  t.one.beforeHeartbeat = () => new Promise(() => {});
  using over = new DisposableStack();
  const end = over.adopt(new AbortController(), (end) => end.abort());
  const ended = t.session.heartbeat(server.response.session!, end.signal);
  await eventually(() => t.other.heartbeats.length > 0);
  end.abort();
  await ended;
});

Deno.test("the sentence about silence names the time that was waited", async () => {
  await using t = await two();
  const silent = Promise.withResolvers<void>();
  t.one.beforeList = t.other.beforeList = () => silent.promise;
  await assert.rejects(t.session.listSessions(undefined, 50), /has not answered within 0\.05 s/);
  silent.resolve();
});
