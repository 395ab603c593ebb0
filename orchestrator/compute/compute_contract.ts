/** What every ComputeService keeps: a suite that each kind runs against itself. */
import assert from "node:assert/strict";
import { pause } from "../../proto/base/timers.ts";
import { randomToken } from "../../proto/base/state_directory.ts";
import { Supervisor, type SupervisorEvents } from "../agents/supervisor.ts";
import { eventually } from "../../tests/support/eventually.ts";
import {
  type AgentFailure,
  type AgentSpec,
  AgentStartError,
  type BlankAgent,
  type ComputeService,
  type RunningAgent,
  type StartFor,
} from "./compute_service.ts";

/** How the agent program of a kind behaves: as it should; ends with exit code 3; never says where it listens. */
export type AgentBehaviour = "good" | "exits" | "silent";

/** A kind under test. */
export interface ContractKind extends AsyncDisposable {
  /** A service of one more orchestrator. All of a kind see each other's agents. */
  service(behaviour?: AgentBehaviour): ComputeService;
  /** Whether anything of the agent runs, as the machine itself sees it. */
  runs(agent: RunningAgent): boolean | Promise<boolean>;
  /** Ends the agent from outside: a machine that is lost, an administrator. */
  strike(agent: RunningAgent): void | Promise<void>;
}

const SESSION: StartFor = { userId: "ann", repoHash: "a".repeat(32), serverId: "", sourcePath: "/ws" };

/** A blank agent of its own. */
export function blankAgent(): BlankAgent {
  return { agentId: randomToken(), leaseSeconds: 60 };
}

function specFor(agentId: string, session = SESSION): AgentSpec {
  return {
    ...session,
    sessionId: "b".repeat(32),
    epoch: 1,
    startupOptions: [],
    accessToken: "access",
    agentId,
    synced: false,
    hiddenPaths: [],
  };
}

const never = new AbortController().signal;

/** What an agent tells a supervisor, and the hold on it. */
function supervise({ endpoint }: RunningAgent, agentId: string) {
  const told: string[] = [];
  const events: SupervisorEvents = {
    waiting: () => void told.push("waiting"),
    step() {},
    ready: () => void told.push("ready"),
    failed: ({ reason }) => void told.push(reason),
    activity() {},
  };
  const supervisor = new Supervisor({ endpoint, agentId, epoch: 1, term: 1, wasReady: false, events });
  return { told, supervisor, events, [Symbol.dispose]: () => supervisor.close() };
}

/** The end of an agent; fails when it is not told soon. */
async function ended(agent: RunningAgent): Promise<AgentFailure> {
  let failure: AgentFailure | undefined;
  void agent.ended.then((how) => failure = how);
  await eventually(() => failure !== undefined, "the agent's end is told");
  return failure!;
}

/** Registers the suite. @param make A kind of its own for each test. */
export function computeContract(name: string, make: () => Promise<ContractKind>): void {
  const test = (promise: string, run: (kind: ContractKind) => Promise<void>) =>
    Deno.test({
      name: `${name}: ${promise}`,
      sanitizeOps: false,
      sanitizeResources: false,
      fn: async () => {
        await using kind = await make();
        await run(kind);
      },
    });

  test("an agent starts blank, says so, and serves the session that it is assigned", async (kind) => {
    const steps: string[] = [];
    const blank = blankAgent();
    const options = { signal: never, onStep: (step: string) => void steps.push(step), session: SESSION };
    const agent = await kind.service().start(blank, options);
    assert(steps.length > 0 && steps.every((step) => /^[a-z][^\n]*[^.]$/.test(step)), "progress is told in words");
    using held = supervise(agent, blank.agentId);
    await eventually(() => held.told.includes("waiting"), "it waits");
    const whole = agent.assign(specFor(blank.agentId));
    assert(whole.storageDirectory?.startsWith("/") && whole.defaultOutputBase?.startsWith("/"));
    held.supervisor.assign(whole, 1, held.events);
    await eventually(() => held.told.includes("ready"), "it serves");
    assert.match(agent.log, /^\S+ \S/);
    agent.kill();
    await ended(agent);
  });

  for (const session of [SESSION, undefined]) {
    const whose = session ? "a session's agent" : "an agent that was started ahead";
    test(`${whose} that ends by itself while it starts fails the start, with a reason`, async (kind) => {
      const start = kind.service("exits").start(blankAgent(), { signal: never, onStep() {}, session });
      await assert.rejects(start, (e: unknown) => {
        assert(e instanceof AgentStartError, String(e));
        assert.match(e.reason, session ? /"\/ws" ended .*3/ : /started ahead ended .*3/);
        assert(!e.reason.includes("\n"));
        return true;
      });
    });
  }

  test("a start that is given up ends with the giver's reason, and leaves nothing running", async (kind) => {
    for (const behaviour of ["silent", "good"] as const) {
      const giveUp = new AbortController();
      const reason = new AgentStartError("It took too long.", true);
      const start = kind.service(behaviour).start(blankAgent(), {
        signal: giveUp.signal,
        onStep: () => giveUp.abort(reason),
        session: SESSION,
      });
      await assert.rejects(start, (e) => e === reason);
    }
    const before = AbortSignal.abort(new AgentStartError("Too late.", true));
    await assert.rejects(kind.service().start(blankAgent(), { signal: before, onStep() {} }), /Too late/);
  });

  for (const how of ["terminate", "kill", "strike"] as const) {
    test(`the end of an agent is told by whoever started it: ${how}`, async (kind) => {
      const agent = await kind.service().start(blankAgent(), { signal: never, onStep() {}, session: SESSION });
      assert.equal(await kind.runs(agent), true);
      if (how === "strike") await kind.strike(agent);
      else agent[how]();
      assert.match((await ended(agent)).reason, /^The agent of "\/ws" ended[^\n]*\.$/);
      assert.equal(await kind.runs(agent), false);
      // Of one that is gone.
      agent.terminate();
      agent.kill();
    });

    test(`any orchestrator finds an agent by its handle, and is told of its end: ${how}`, async (kind) => {
      const blank = blankAgent();
      const { handle, endpoint } = await kind.service().start(blank, { signal: never, onStep() {}, session: SESSION });
      const [one, other] = [kind.service(), kind.service()].map((service) => service.adopt(handle, endpoint, SESSION));
      for (const agent of [one, other]) {
        assert.equal(agent.handle, handle);
        assert.deepEqual(agent.endpoint, endpoint);
      }
      using held = supervise(one, blank.agentId);
      await eventually(() => held.told.includes("waiting"), "it answers");
      held.supervisor.close();
      assert.equal(await kind.runs(one), true);
      if (how === "strike") await kind.strike(one);
      else one[how]();
      for (const agent of [one, other]) assert.match((await ended(agent)).reason, /"\/ws" ended[^\n]*\.$/);
      assert.equal(await kind.runs(one), false);
    });
  }

  test("an agent that was gone before it was adopted tells so, and another one of the same place is left alone", async (kind) => {
    const service = kind.service();
    const start = () => service.start(blankAgent(), { signal: never, onStep() {}, session: SESSION });
    const first = await start();
    first.kill();
    await ended(first);
    const second = await start();
    const adopted = kind.service().adopt(first.handle, first.endpoint, SESSION);
    adopted.kill();
    await ended(adopted);
    adopted.terminate();
    adopted.kill();
    await pause(50);
    assert.equal(await kind.runs(second), true);
    second.kill();
    await ended(second);
  });

  for (const isAssigned of [false, true]) {
    const when = isAssigned ? "after it was given a session" : "while it waited";
    test(`a session gets another agent of the same id for one that was lost ${when}`, async (kind) => {
      const blank = blankAgent();
      const lost = await kind.service().start(blank, { signal: never, onStep() {} });
      if (isAssigned) lost.assign(specFor(blank.agentId));
      await kind.strike(lost);
      await ended(lost);
      const another = await kind.service().start(blank, { signal: never, onStep() {}, session: SESSION });
      // What is left of the first one goes, and nothing of this one.
      await pause(100);
      using held = supervise(another, blank.agentId);
      await eventually(() => held.told.includes("waiting"), "it waits");
      const adopted = kind.service().adopt(another.handle, another.endpoint, SESSION);
      assert.equal(await Promise.race([adopted.ended, pause(50)]), undefined);
      another.kill();
      await ended(another);
      await ended(adopted);
    });
  }

  test("an agent that was let go lives on", async (kind) => {
    const { handle, endpoint } = await kind.service().start(blankAgent(), { signal: never, onStep() {} });
    const adopted = kind.service().adopt(handle, endpoint);
    adopted.letGo();
    assert.equal(await kind.runs(adopted), true);
    const again = kind.service().adopt(handle, endpoint);
    again.kill();
    await ended(again);
  });

  test("two orchestrators start agents for one session at once, and each has its own", async (kind) => {
    const agents = await Promise.all(
      [1, 2].map(() => kind.service().start(blankAgent(), { signal: never, onStep() {}, session: SESSION })),
    );
    assert.notEqual(agents[0].handle, agents[1].handle);
    agents[0].kill();
    await ended(agents[0]);
    assert.equal(await kind.runs(agents[1]), true);
    agents[1].kill();
    await ended(agents[1]);
  });

  test("a sweep takes nothing from agents that live, nor from sessions", async (kind) => {
    const blank = blankAgent();
    const agent = await kind.service().start(blank, { signal: never, onStep() {} });
    await kind.service().sweep();
    using held = supervise(agent, blank.agentId);
    await eventually(() => held.told.includes("waiting"), "it waits");
    held.supervisor.assign(agent.assign(specFor(blank.agentId)), 1, held.events);
    await eventually(() => held.told.includes("ready"), "it serves");
    await kind.service().sweep();
    assert.equal(await kind.runs(agent), true);
    agent.kill();
    await ended(agent);
    await kind.service().sweep();
  });
}
