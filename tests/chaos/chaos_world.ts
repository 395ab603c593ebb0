/** Several orchestrators in this process on one real store, the faults that befall them, and what must hold whatever does. */
import assert from "node:assert/strict";
import { keyText, type Session } from "../../orchestrator/store/session.ts";
import { ComputeChoice } from "../../orchestrator/compute/compute_choice.ts";
import type { ServerRequest } from "../../orchestrator/sessions/server_request.ts";
import { SessionService } from "../../orchestrator/sessions/session_service.ts";
import type { Store } from "../../orchestrator/store/store.ts";
import { RbsError } from "../../proto/base/errors.ts";
import { Agent } from "../../proto/contract/gen/rbs/v1/agent_pb.ts";
import { Code, createRpcClient, RpcError } from "../../proto/transport/rpc/client.ts";
import { repoHash } from "../../proto/bazel/workspace.ts";
import { type ChaosAgent, ChaosCompute, Machine } from "./chaos_compute.ts";
import { FaultyStore, type StoreState, type WriteFault } from "./faulty_store.ts";

/** A lease of an orchestrator. Milliseconds. */
export const TAKEOVER_MS = 400;
/** A lease of an agent. */
const AGENT_LEASE_SECONDS = 4;
/** What a caller waits for its server at most. Milliseconds. */
const DEADLINE_MS = 8_000;
/** What an answer may take beyond its deadline. Milliseconds. */
const SLACK_MS = 3_000;
/** When nothing goes wrong any more, all must be in order after this time. Milliseconds. */
const CALM_MS = 20_000;
/** The startup options that clients name; those with the same number want the same server. */
const OPTIONS = [["--one"], ["--two"]];

/** One orchestrator, over its lives. */
interface Node {
  readonly index: number;
  life: number;
  service: SessionService;
  store: FaultyStore;
  compute: ChaosCompute;
  /** This machine's clock is ahead by so much. Milliseconds. */
  ahead: number;
  isUp: boolean;
  /** Ends the pause. */
  resume?: ReturnType<typeof setTimeout>;
}

/** What a caller was told. */
interface Answer {
  readonly session: Session;
  readonly agent: ChaosAgent;
  /** Counts answers, in their order. */
  readonly at: number;
}

/** What a run is made of. */
export interface ChaosOptions {
  readonly orchestrators: number;
  /** Opens the store once more. */
  open(): Promise<Store> | Store;
}

/** See the file's head. */
export class ChaosWorld {
  readonly machine = new Machine();
  readonly nodes: Node[] = [];
  /** What happened, for whoever looks at a failed run. */
  readonly log: string[] = [];
  readonly #began = performance.now();
  readonly #gone = new Set<string>();
  readonly #pending = new Set<Promise<void>>();
  readonly #answers = new Map<string, Answer[]>();
  /** By key: rises with all that may end an acknowledged session. */
  readonly #excuses = new Map<string, number>();
  /** By key: the last answer, if nothing may have ended its session since then. */
  readonly #promised = new Map<string, Answer>();
  readonly #faults: string[] = [];
  #answered = 0;

  private constructor(readonly options: ChaosOptions) {}

  static async start(options: ChaosOptions): Promise<ChaosWorld> {
    const world = new ChaosWorld(options);
    for (let index = 0; index < options.orchestrators; index++) world.nodes.push(await world.#newNode(index, 0, 0));
    return world;
  }

  // --- operations

  /** Asks for a server, as a proxy does, and uses it at once. */
  ask(node: number, key: number, sessionId: number, options = 0): void {
    const { service, isUp, index } = this.#node(node);
    if (!isUp) return;
    const request = this.#request(key, sessionId, options);
    const name = keyText(request);
    if (options !== 0) this.#excuse(key);
    const before = this.#excusesOf(key);
    this.#perform(`ask ${index} for ${name} as ${sessionId}, options ${options}`, async (signal) => {
      try {
        const session = await service.getServer(request, signal);
        await this.#answer(key, session, before);
      } finally {
        if (options !== 0) this.#excuse(key);
      }
    });
  }

  release(node: number, key: number): void {
    const { service, isUp, index } = this.#node(node);
    if (!isUp) return;
    this.#excuse(key);
    this.#perform(`release ${key} at ${index}`, async () => {
      try {
        await service.release(this.#request(key, 0, 0), "");
      } finally {
        this.#excuse(key);
      }
    });
  }

  heartbeat(node: number, key: number, sessionId: number): void {
    const { service, isUp, index } = this.#node(node);
    const request = this.#request(key, sessionId, 0);
    if (isUp) {
      this.#perform(
        `heartbeat ${key} at ${index}`,
        async () => void await service.heartbeat(request, request.sessionId),
      );
    }
  }

  /** A former owner runs a command: the agent must refuse it once a newer one has used it. */
  useFormer(key: number): void {
    const answers = this.#answers.get(String(key)) ?? [];
    const last = answers.at(-1);
    const former = answers.find((answer) => answer.agent === last?.agent && answer.session.epoch < last.session.epoch);
    if (!former || !last) return;
    this.#perform(`a former owner of ${key} runs a command`, async () => {
      const passed = await this.#use(former).then(() => true, () => false);
      if (passed) this.#faults.push(`a command of epoch ${former.session.epoch} passed after ${last.session.epoch}`);
    });
  }

  async wait(milliseconds: number): Promise<void> {
    await new Promise((resolve) => setTimeout(resolve, milliseconds));
  }

  // --- faults

  /** kill -9. */
  kill(node: number): void {
    const it = this.#node(node);
    if (!it.isUp) return;
    this.#note(`kill ${it.index}`);
    it.isUp = false;
    clearTimeout(it.resume);
    it.resume = undefined;
    it.compute.isDead = true;
    it.store.become("dead");
    it.compute.close();
    this.#gone.add(address(it.index, it.life));
  }

  async restart(node: number): Promise<void> {
    const it = this.#node(node);
    if (it.isUp) return;
    this.#note(`restart ${it.index}`);
    this.nodes[it.index] = await this.#newNode(it.index, it.life + 1, it.ahead);
  }

  /** SIGSTOP, and SIGCONT after a time: nothing reaches the store or the agents meanwhile. */
  pause(node: number, milliseconds: number): void {
    const it = this.#node(node);
    if (!it.isUp || it.store.state !== "works") return;
    this.#note(`pause ${it.index} for ${milliseconds} ms`);
    it.store.become("silent");
    it.compute.stop();
    it.resume = setTimeout(() => this.#resume(it), milliseconds);
  }

  killAgent(key: number): void {
    const agent = this.machine.agents.findLast(({ alive, session }) => alive && this.#keyOf(session) === String(key));
    if (!agent) return;
    this.#note(`kill the agent of ${key}`);
    this.#excuse(key);
    agent.server.close();
  }

  /** The connections of an orchestrator to its agents break. Once is to be survived, but it may break once more. */
  cut(node: number): void {
    const it = this.#node(node);
    this.#note(`cut the links of ${it.index}`);
    for (const key of KEYS) this.#excuse(key);
    it.compute.cut();
  }

  slow(node: number, delayMs: number): void {
    const it = this.#node(node);
    this.#note(`slow the links of ${it.index} by ${delayMs} ms`);
    it.compute.slow(delayMs);
  }

  failWrites(node: number, fault: WriteFault, count: number): void {
    const it = this.#node(node);
    if (it.store.state !== "works") return;
    this.#note(`the next ${count} writes of ${it.index} are ${fault}`);
    it.store.failNext(fault, count);
  }

  disk(node: number, state: Extract<StoreState, "works" | "full">): void {
    const it = this.#node(node);
    if (it.store.state === state || (it.store.state !== "works" && it.store.state !== "full")) return;
    this.#note(`the disk of ${it.index} ${state === "full" ? "is full" : "has room"}`);
    it.store.become(state);
  }

  /** @param ahead Of the true time. Milliseconds. */
  setClock(node: number, ahead: number): void {
    const it = this.#node(node);
    this.#note(`the clock of ${it.index} jumps to ${ahead} ms ahead`);
    it.ahead = ahead;
  }

  // --- what must hold

  /** Ends all faults, and checks that everything comes to order. Throws an AssertionError. */
  async check(): Promise<void> {
    // A pause that outlasts a lease is the better test.
    while (this.nodes.some(({ resume }) => resume !== undefined)) await this.wait(10);
    for (const node of this.nodes) {
      this.disk(node.index, "works");
      node.store.become("works");
      this.slow(node.index, 0);
    }
    for (const node of [...this.nodes]) await this.restart(node.index);
    this.#note("all faults are over");
    await Promise.all(this.#pending);
    assert.deepEqual(this.#faults, []);
    assert.deepEqual(this.machine.doubles, [], "two agents for one epoch");
    await this.#untilInOrder();
    for (const [key, { agent, session }] of this.#promised) {
      assert(agent.alive, `the acknowledged server of ${key} (epoch ${session.epoch}) was lost`);
    }
    for (const key of KEYS) await this.#servedByAll(key);
    for (const key of KEYS) {
      const releases = this.nodes.map(({ service }) => service.release(this.#request(key, 0, 0), ""));
      assert.equal((await inTime(Promise.all(releases), "releases")).filter((released) => released).length, 1);
    }
    await this.#untilInOrder();
    assert.deepEqual(this.machine.agents.filter(({ alive }) => alive).length, 0);
    assert.deepEqual(this.machine.doubles, [], "two agents for one epoch");
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const node of this.nodes) this.#resume(node);
    for (const { server } of this.machine.agents) server.close();
    const stops = this.nodes.filter(({ isUp }) => isUp).map(({ service }) => service.stop());
    // After a failed run they may not come to an end.
    await inTime(Promise.allSettled(stops), "the end of the orchestrators").catch(() => {});
    for (const { compute } of this.nodes) compute.close();
    for (const { store } of this.#stores) await store[Symbol.asyncDispose]();
  }
  readonly #stores: FaultyStore[] = [];

  async #newNode(index: number, life: number, ahead: number): Promise<Node> {
    const store = new FaultyStore(await this.options.open());
    this.#stores.push(store);
    const compute = new ChaosCompute(this.machine);
    const node: Node = { index, life, store, compute, ahead, isUp: true, service: undefined! };
    node.service = new SessionService({
      store: store.faulty.sessions,
      leases: store.faulty.leases,
      compute: new ComputeChoice([compute]),
      log: (line) => {
        if (node.isUp) this.#note(`  ${index}: ${line}`);
        if (/TypeError|cannot happen/.test(line)) this.#faults.push(line);
      },
      now: () => Date.now() + node.ahead,
      orchestrator: {
        address: () => address(index, life),
        durationMs: TAKEOVER_MS,
        isGone: (other) => Promise.resolve(this.#gone.has(other)),
      },
      synced: false,
      hiddenPaths: [],
      leaseSeconds: AGENT_LEASE_SECONDS,
      idleTimeoutMs: 3_600_000,
      startTimeoutMs: 4_000,
      stopGraceMs: 0,
      killAfterMs: 500,
      answerTimeoutMs: 1_000,
      sweepIntervalMs: 300,
    });
    await inTime(node.service.adopt(), "the start of an orchestrator");
    return node;
  }

  #node(index: number): Node {
    return this.nodes[index % this.nodes.length];
  }

  #resume(node: Node): void {
    clearTimeout(node.resume);
    node.resume = undefined;
    if (node.store.state !== "silent") return;
    this.#note(`resume ${node.index}`);
    node.store.become("works");
    node.compute.go();
  }

  #request(key: number, sessionId: number, options: number): ServerRequest {
    // Two servers of each workspace, one of which knows no server ids.
    const sourcePath = `/${key - key % 2}`;
    return {
      userId: key % 4 < 2 ? "ann" : "bob",
      repoHash: repoHash(sourcePath),
      serverId: key % 2 === 0 ? "" : "0123456789abcdef",
      sourcePath,
      sessionId: String(sessionId).padStart(32, "0"),
      startupOptions: OPTIONS[options],
      region: "",
    };
  }

  #keyOf({ sourcePath, serverId }: { sourcePath: string; serverId: string }): string {
    return String(Number(sourcePath.slice(1)) + (serverId === "" ? 0 : 1));
  }

  #note(line: string): void {
    this.log.push(`${((performance.now() - this.#began) / 1000).toFixed(3)} ${line}`);
  }

  #excusesOf(key: number): number {
    return this.#excuses.get(String(key)) ?? 0;
  }

  /** The key's session may end from now on, or a moment ago, without a fault of the orchestrators'. */
  #excuse(key: number): void {
    this.#excuses.set(String(key), this.#excusesOf(key) + 1);
    this.#promised.delete(String(key));
  }

  /** Does something that ends by itself, in time. */
  #perform(what: string, work: (signal: AbortSignal) => Promise<void>): void {
    this.#note(what);
    const nodes = [...this.nodes];
    const deadline = AbortSignal.timeout(DEADLINE_MS);
    const done = (async () => {
      try {
        await work(deadline);
        this.#note(`${what}: done`);
      } catch (e) {
        this.#note(`${what}: ${e instanceof Error ? e.message : e}`);
        const isAnswer = e instanceof RpcError || e instanceof RbsError || e === deadline.reason;
        if (!isAnswer) this.#faults.push(`${what}: ${e instanceof Error ? e.stack : e}`);
      }
    })();
    const late = Promise.withResolvers<void>();
    const timer = setTimeout(() => {
      // Who asks one that stands still has the deadline of its own call.
      if (nodes.every(({ isUp, resume }) => isUp && !resume)) this.#faults.push(`${what}: no answer`);
      late.resolve();
    }, DEADLINE_MS + SLACK_MS);
    const settled = Promise.race([done, late.promise]).finally(() => {
      clearTimeout(timer);
      this.#pending.delete(settled);
    });
    this.#pending.add(settled);
  }

  async #answer(key: number, session: Session, excuses: number): Promise<void> {
    const agent = this.machine.byPort.get(session.agentPort);
    if (!agent) return void this.#faults.push(`the server of ${key} is nowhere`);
    const answer = { session, agent, at: this.#answered++ };
    const answers = this.#answers.get(String(key)) ?? [];
    this.#answers.set(String(key), answers);
    try {
      await this.#use(answer);
      const newest = Math.max(0, ...answers.map(({ session }) => session.epoch));
      if (excuses === this.#excusesOf(key) && session.epoch >= newest) this.#promised.set(String(key), answer);
      answers.push(answer);
      answers.sort((a, b) => a.session.epoch - b.session.epoch);
    } catch (e) {
      this.#note(`the agent of ${key} refuses epoch ${session.epoch}: ${(e as Error).message}`);
      const isTakenOver = e instanceof RpcError && e.code === Code.FAILED_PRECONDITION &&
        agent.server.epochs.some((epoch) => epoch > session.epoch);
      if (agent.alive && !isTakenOver) this.#faults.push(`the agent of ${key} refuses its owner: ${e}`);
    }
  }

  /** Runs a command at the agent, with the epoch of the answer. */
  async #use({ session, agent }: Answer): Promise<void> {
    using client = createRpcClient(Agent, `127.0.0.1:${agent.port}`, { token: session.accessToken });
    const metadata = { "rbs-epoch": String(session.epoch) };
    const call = client.executeCommand({ metadata, timeoutMs: SLACK_MS });
    await call.send({ message: { case: "init", value: { args: ["who"] } } });
    for await (const _ of call);
  }

  /** Resolves when each agent is a session's, and each session is served by an orchestrator that is there. */
  async #untilInOrder(): Promise<void> {
    for (const until = performance.now() + CALM_MS;;) {
      const { store } = this.nodes[0];
      const sessions = (await store.store.sessions.list()).filter(({ status }) => status !== "FAILED");
      const leases = new Set((await store.store.leases.list()).map(({ id }) => id));
      const wanted = new Set(sessions.map(({ agentId }) => agentId));
      const wrong = [
        ...sessions.filter(({ status }) => status !== "READY").map((s) => `${this.#keyOf(s)} is ${s.status}`),
        ...sessions.filter(({ holder }) => !leases.has(holder)).map((s) => `nobody holds ${this.#keyOf(s)}`),
        ...this.machine.agents.filter((agent) => agent.alive && !wanted.has(agent.agentId))
          .map(({ session }) => `nobody wants an agent of ${this.#keyOf(session)}`),
        ...sessions.filter(({ agentId }) =>
          !this.machine.agents.some((agent) => agent.alive && agent.agentId === agentId)
        ).map((s) => `${this.#keyOf(s)} has no agent`),
      ];
      if (leases.size !== this.nodes.length) wrong.push(`there are ${leases.size} leases`);
      if (wrong.length === 0) return;
      if (performance.now() > until) assert.fail(`not in order: ${wrong.join("; ")}`);
      await this.wait(20);
    }
  }

  /** Whichever orchestrator is asked, it gives the same server. */
  async #servedByAll(key: number): Promise<void> {
    const signal = AbortSignal.timeout(DEADLINE_MS);
    const ports = [];
    for (const { service } of this.nodes) {
      const session = await inTime(service.getServer(this.#request(key, 9, 0), signal), `a server of ${key}`);
      ports.push(this.machine.byPort.get(session.agentPort)?.port);
    }
    assert.equal(new Set(ports).size, 1, `the orchestrators name different agents of ${key}`);
  }
}

/** The sessions that are asked for. */
export const KEYS = [0, 1, 2] as const;

function address(index: number, life: number): string {
  return `orchestrator ${index}.${life}`;
}

async function inTime<T>(answer: Promise<T>, what: string): Promise<T> {
  const late = Promise.withResolvers<never>();
  const timer = setTimeout(() => late.reject(new assert.AssertionError({ message: `${what}: no answer` })), CALM_MS);
  try {
    return await Promise.race([answer, late.promise]);
  } finally {
    clearTimeout(timer);
  }
}
