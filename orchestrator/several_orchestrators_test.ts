/** Several orchestrator programs on one store: what happens when one of them is killed, stopped, or ended. */
import assert from "node:assert/strict";
import type { GetServerResponse } from "../proto/contract/gen/rbs/v1/orchestrator_pb.ts";
import { type OrchestratorProgram, OrchestratorPrograms } from "./testing/orchestrator_programs.ts";
import { SpannerEmulator, withEmulator } from "./testing/spanner_emulator.ts";
import { eventually } from "../tests/support/eventually.ts";

/** What an orchestrator that is silent has before the others take its sessions over. Seconds. */
const TAKEOVER = 2;

type Run = (programs: OrchestratorPrograms) => Promise<void>;

function tests(name: string, create: () => Promise<OrchestratorPrograms & { done?: AsyncDisposable }>): void {
  const test = (promise: string, run: Run) =>
    Deno.test({
      name: `${name}: ${promise}`,
      sanitizeOps: false,
      sanitizeResources: false,
      fn: async () => {
        await using programs = await create();
        await run(programs);
      },
    });

  test("three that start at once and are asked at once for one server start one agent", async (programs) => {
    const three = await Promise.all([programs.start(), programs.start(), programs.start()]);
    const clients = three.map((one) => programs.client(one));
    const request = programs.request();
    const servers = await Promise.all(Array.from({ length: 30 }, (_, i) => clients[i % 3].getServer(request)));
    assert.equal(new Set(servers.map(({ session }) => session!.agent!.port)).size, 1);
    assert.deepEqual([...new Set(servers.map(({ session }) => session!.epoch))], [1]);
    assert.deepEqual(programs.agents(), [(await programs.ask(servers[0])).pid]);
    for (const client of clients) {
      assert.equal((await client.heartbeat(request)).intervalSeconds, 30);
      assert.equal((await client.listSessions({})).sessions.length, 1);
    }
    // Whoever is asked makes the agent refuse what came before, and ends it.
    const taken = [];
    for (const client of clients) {
      taken.push(await client.getServer({ ...request, sessionId: crypto.randomUUID().replaceAll("-", "") }));
    }
    assert.deepEqual(taken.map(({ session }) => session!.epoch), [2, 3, 4]);
    assert.deepEqual((await programs.ask(taken[2])).epochs.filter((epoch, i, all) => all.indexOf(epoch) === i), [
      1,
      2,
      3,
      4,
    ]);
    assert.equal((await clients[1].releaseServer({ ...request, sessionId: "" })).released, true);
    assert.deepEqual(programs.agents(), []);
    for (const client of clients) client.close();
  });

  test("when the one that holds an agent is killed another adopts it, and nobody waits for that", async (programs) => {
    const [holder, ...others] = [await programs.start(), await programs.start(), await programs.start()];
    const before = await get(programs, holder);
    const { pid } = await programs.ask(before, "activity", "1");
    await holder.end();
    // At once, by whoever is asked.
    for (const other of others) {
      assert.deepEqual((await get(programs, other, before)).session?.agent, before.session?.agent);
    }
    const adopter = await Promise.any(others.map(async (other) => {
      await other.logs(/adopting its agent/);
      return other;
    }));
    const [bystander] = others.filter((other) => other !== adopter);
    await untilSupervised(programs, before, 2);
    assert.doesNotMatch(bystander.log, /adopting/);
    assert.equal((await programs.ask(await get(programs, bystander, before))).pid, pid);
    assert.deepEqual(programs.agents(), [pid]);
  });

  test("one that stands still loses what it holds, and when it goes on it harms nobody", async (programs) => {
    const [holder, other] = [await programs.start(), await programs.start()];
    const before = await get(programs, holder);
    const { pid } = await programs.ask(before);
    await holder.signal("SIGSTOP");
    await other.logs(/shows no sign of life: its lease is ended/);
    await other.logs(/adopting its agent/);
    await untilSupervised(programs, before, 2);
    await holder.signal("SIGCONT");
    await holder.logs(/lease was ended by another/);
    // It goes on as one that holds nothing.
    const after = await get(programs, holder, before);
    assert.equal((await programs.ask(after)).pid, pid);
    assert.deepEqual([after.session?.agent, after.session?.epoch], [before.session?.agent, before.session?.epoch]);
    const elsewhere = await get(programs, holder, undefined, "/elsewhere");
    assert.deepEqual(programs.agents().toSorted(), [pid, (await programs.ask(elsewhere)).pid].toSorted());
    using client = programs.client(holder);
    await client.releaseServer({ ...programs.request(), sessionId: "" });
    assert.deepEqual(programs.agents(), [(await programs.ask(elsewhere)).pid]);
  });

  test("when the one that starts an agent is killed, who waits elsewhere gets one", async (programs) => {
    const [starter, other] = [await programs.start(), await programs.start()];
    const request = programs.request("/ws", "--fake=slow");
    using client = programs.client(starter);
    const lost = client.getServer(request);
    lost.catch(() => {});
    await starter.logs(/listening/);
    using second = programs.client(other);
    const waiting = second.getServer(request);
    waiting.catch(() => {});
    await starter.end();
    await assert.rejects(lost);
    await other.logs(/adopting its agent/);
    const [session] = (await second.listSessions({})).sessions;
    assert.equal(session.epoch, 1);
    assert.equal(programs.agents().length, 1);
    Deno.kill(programs.agents()[0], "SIGKILL");
    // What was adopted has died while it started, and is started anew for who waits.
    await other.logs(/FAILED -> start -> PENDING/);
    await second.releaseServer({ ...request, sessionId: "" });
    await assert.rejects(waiting, /was released/);
  });

  test("one that is ended leaves its agents to the others, and the last one takes them along", async (programs) => {
    const [first, second] = [await programs.start(), await programs.start()];
    const before = await get(programs, first);
    const { pid } = await programs.ask(before);
    await first.end("SIGTERM");
    assert.match(first.log, /1 agents are left to the other/);
    await second.logs(/adopting its agent/);
    const after = await get(programs, second, before);
    assert.deepEqual([after.session?.epoch, (await programs.ask(after)).pid], [before.session?.epoch, pid]);
    await second.end("SIGTERM");
    assert.deepEqual(programs.agents(), []);
  });

  test("two that are ended at once leave no agent behind", async (programs) => {
    const two = [await programs.start(), await programs.start()];
    await get(programs, two[0]);
    await get(programs, two[1], undefined, "/elsewhere");
    await Promise.all(two.map((one) => one.end("SIGTERM")));
    assert.deepEqual(programs.agents(), []);
  });
}

/** The server of a workspace; for the owner of `before`. */
async function get(
  programs: OrchestratorPrograms,
  program: OrchestratorProgram,
  before?: GetServerResponse,
  workspace = "/ws",
): Promise<GetServerResponse> {
  using client = programs.client(program);
  const request = programs.request(workspace);
  return await client.getServer({ ...request, sessionId: before?.session?.sessionId ?? request.sessionId });
}

/** Resolves when an agent was told an epoch by so many supervisors. */
async function untilSupervised(
  programs: OrchestratorPrograms,
  server: GetServerResponse,
  supervisors: number,
): Promise<void> {
  await eventually(async () => (await programs.ask(server)).epochs.length >= supervisors);
}

tests("SQLite", () => Promise.resolve(new OrchestratorPrograms([`--takeover=${TAKEOVER}`])));

withEmulator(() => {
  tests("Spanner", async () => {
    const emulator = await SpannerEmulator.start();
    const store = `--store=spanner:${await emulator.newDatabase()}`;
    const programs = new OrchestratorPrograms([store, `--takeover=${TAKEOVER}`], {
      SPANNER_EMULATOR_HOST: emulator.address,
    });
    const dispose = programs[Symbol.asyncDispose].bind(programs);
    return Object.assign(programs, {
      async [Symbol.asyncDispose]() {
        await dispose();
        await emulator[Symbol.asyncDispose]();
      },
    });
  });
});
