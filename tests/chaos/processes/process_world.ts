/** Two real orchestrators and their real agents, the faults that befall these processes, and what must hold whatever does. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { TestWorkspace } from "../../../agent/test_agent.ts";
import { agentsFolder } from "../../../orchestrator/compute/process/agent_folder.ts";
import { openAuthority } from "../../../orchestrator/identity/local_keys.ts";
import { keyText, type Session, type SessionKey } from "../../../orchestrator/store/session.ts";
import { SqliteStore } from "../../../orchestrator/store/sqlite_store.ts";
import type { Store } from "../../../orchestrator/store/store.ts";
import { Agent } from "../../../proto/contract/gen/rbs/v1/agent_pb.ts";
import { type GetServerResponse, Orchestrator } from "../../../proto/contract/gen/rbs/v1/orchestrator_pb.ts";
import type { Credentials } from "../../../proto/identity/credentials.ts";
import { Code, createRpcClient, type RpcClient, RpcError } from "../../../proto/transport/rpc/client.ts";
import { repoHash } from "../../../proto/bazel/workspace.ts";
import { eventually } from "../../support/eventually.ts";
import { signal } from "../../mirror/support/processes.ts";
import { PROGRAMS } from "../../support/repository.ts";
import { run } from "../../support/run.ts";
import { tempDir } from "../../support/temp_dir.ts";
import type { Database } from "../databases.ts";
import type { World } from "../run.ts";
import { lookAtProcesses, type Processes } from "./agent_processes.ts";
import { OrchestratorNode } from "./orchestrator_node.ts";
import { SmallDisk } from "./small_disk.ts";

const ORCHESTRATORS = 2;
/** A lease of an orchestrator. Seconds. */
export const TAKEOVER = 2;
/** A lease of an agent. Seconds. */
const AGENT_LEASE = 10;
/** An agent that stands still for no longer than this is not given up. Milliseconds. */
const AGENT_PATIENCE_MS = 2_000;
/** What a caller waits for its server at most. Milliseconds. */
const DEADLINE_MS = 40_000;
/** What an answer may take beyond its deadline. Milliseconds. */
const SLACK_MS = 3_000;
/** What a command at an agent may take. Milliseconds. */
const COMMAND_MS = 10_000;
/** When nothing goes wrong any more, all must be in order after this time. Milliseconds. */
const CALM_MS = 60_000;
/** The same after a full disk: what could not be written is looked for once a minute. */
const CALM_AFTER_FULL_DISK_MS = 130_000;
/** Between two looks at the agents. Milliseconds. */
const LOOK_MS = 300;

/** Whether the agents can start real Bazel servers: Debian's, whose startup options are known. */
export const hasBazel = await Deno.stat("/usr/share/bazel/install_base_key").then(() => true, () => false);

/** The sessions that are asked for. */
export const KEYS = [0, 1, 2] as const;
/** Whose they are. */
const USERS = ["ann", "bob", "ann"] as const;
/** Who is locked out at times. */
const LOCKED_OUT = "bob";

/** What a run is made of. */
export interface ProcessSetup {
  /** Agents that each orchestrator starts ahead. */
  readonly warm: number;
  /** The agents start real Bazel servers. */
  readonly bazel: boolean;
  /** State and storage are on a disk that can be full. */
  readonly disk: boolean;
}

/** What a caller was told. */
interface Answer {
  readonly epoch: number;
  readonly agentId: string;
  readonly port: number;
  readonly token: string;
}

/** A call at an orchestrator. */
type Call<T> = (client: RpcClient<typeof Orchestrator>, options: { timeoutMs: number }) => Promise<T>;

/** See the file's head. */
export class ProcessWorld implements World {
  readonly nodes: OrchestratorNode[] = [];
  readonly log: string[] = [];
  readonly #began = performance.now();
  readonly #workspaces: TestWorkspace[] = [];
  #credentials!: ReadonlyMap<string, Credentials>;
  #store!: Store;
  #disk?: SmallDisk;
  #wasFull = false;
  /** Since when no orchestrator serves. */
  #deserted?: number;
  readonly #pending = new Set<Promise<void>>();
  readonly #faults: string[] = [];
  /** By key: those that were used, by their epochs. */
  readonly #answers = new Map<number, Answer[]>();
  /** The agents of the epochs that callers were told of: `<key> <epoch>`. */
  readonly #agents = new Map<string, string>();
  /** By key: rises with all that may end an acknowledged session, and with all that ends it. */
  readonly #excuses = new Map<number, number>();
  /** By key: the last answer, if nothing may have ended its session since then. */
  readonly #promised = new Map<number, Answer>();
  /** Agents that stand still, and when they last went on. */
  readonly #pausedAgents = new Map<number, ReturnType<typeof setTimeout>>();
  #agentWentOn = -Infinity;
  /** By key, for agents that stand still for so long that they may be given up: until when that is so. */
  readonly #unsteady = new Map<number, number>();
  #isLockedOut = false;
  readonly #storeFlags: string[] = [];
  #watching?: Promise<void>;
  #isOver = false;

  /** What goes with the world. */
  #owned?: AsyncDisposableStack;

  private constructor(readonly directory: string, readonly setup: ProcessSetup) {}

  static async start(setup: ProcessSetup, database: Database): Promise<ProcessWorld> {
    await using scope = new AsyncDisposableStack();
    const directory = scope.use(await tempDir("rbs-chaos-")).path;
    const world = new ProcessWorld(directory, setup);
    await Deno.mkdir(world.#state, { mode: 0o700 });
    if (setup.disk) world.#disk = scope.use(await SmallDisk.mount(world.#state, setup.bazel ? 256 : 32));
    scope.defer(() => world.#end());
    for (const key of KEYS) {
      world.#workspaces.push(scope.use(await TestWorkspace.make(`ws${key}`, "", directory)));
    }
    if (database.spanner) world.#storeFlags.push(`--store=spanner:${database.spanner}`);
    const flags = [
      `--takeover=${TAKEOVER}`,
      `--lease-seconds=${AGENT_LEASE}`,
      "--start-timeout=30",
      `--warm=${setup.warm}`,
      ...world.#storeFlags,
    ];
    for (let index = 0; index < ORCHESTRATORS; index++) {
      const node = new OrchestratorNode({
        index,
        flags,
        env: world.#env,
        note: (line) => world.#note(line),
        fault: (what) => world.#faults.push(what),
        mayEndBadly: () => world.#wasFull,
        changed: () => world.#watchNodes(),
      });
      world.nodes.push(node);
      assert(await node.start(), `orchestrator ${index} does not start:\n${world.log.join("\n")}`);
    }
    const authority = await openAuthority(world.#state);
    world.#credentials = new Map(
      await Promise.all(
        [...new Set(USERS)].map(async (userId) =>
          [userId, await authority.newCredentials({ kind: "user", userId })] as const
        ),
      ),
    );
    world.#store = database.spanner ? await database.open() : SqliteStore.open(join(world.#state, "sessions.sqlite"));
    world.#watching = world.#watchAgents();
    world.#owned = scope.move();
    return world;
  }

  /** Of all programs. The emulator's address is this process's own variable. */
  get #env(): Record<string, string> {
    return { RBS_STATE_DIR: this.#state, USER: USERS[0], NO_COLOR: "1" };
  }

  get #state(): string {
    return join(this.directory, "state");
  }

  get #storage(): string {
    return join(this.#state, "storage");
  }

  // --- operations

  /** Asks for a server, as a proxy does, and uses it at once. */
  ask(node: number, key: number, owner: number, options = 0): void {
    if (options !== 0) this.#excuse(key);
    const before = this.#excusesOf(key);
    this.#perform(`ask ${node} for ${key} as ${owner}, options ${options}`, node, key, async (client, call) => {
      try {
        await this.#answer(key, await client.getServer(this.#request(key, owner, options), call), before);
      } finally {
        if (options !== 0) this.#excuse(key);
      }
    });
  }

  release(node: number, key: number): void {
    this.#excuse(key);
    this.#perform(`release ${key} at ${node}`, node, key, async (client, call) => {
      try {
        await client.releaseServer({ repoHash: this.#key(key).repoHash, sessionId: "" }, call);
      } finally {
        this.#excuse(key);
      }
    });
  }

  heartbeat(node: number, key: number, owner: number): void {
    this.#perform(`heartbeat ${key} at ${node}`, node, key, async (client, call) => {
      const { repoHash, sessionId } = this.#request(key, owner, 0);
      await client.heartbeat({ repoHash, sessionId }, call);
    });
  }

  /** A former owner runs a command: the agent must refuse it once a newer one has used it. */
  useFormer(key: number): void {
    const answers = this.#answers.get(key) ?? [];
    const last = answers.at(-1);
    const former = answers.find(({ agentId, epoch }) => agentId === last?.agentId && epoch < last.epoch);
    if (!former || !last) return;
    this.#track(`a former owner of ${key} runs a command`, async () => {
      const passed = await this.#use(key, former).then(() => true, () => false);
      if (passed) this.#faults.push(`a command of epoch ${former.epoch} passed after ${last.epoch}`);
    });
  }

  /** The operator locks a user out, or lets that user in again, by the orchestrator's own command. */
  async lockOut(isLockedOut: boolean): Promise<void> {
    if (this.#isLockedOut === isLockedOut) return;
    this.#note(`${LOCKED_OUT} is ${isLockedOut ? "locked out" : "let in again"}`);
    const excuse = () => KEYS.filter((key) => USERS[key] === LOCKED_OUT).forEach((key) => this.#excuse(key));
    excuse();
    this.#isLockedOut = true;
    const undo = isLockedOut ? [] : ["--undo"];
    const command = [PROGRAMS.orchestrator, "revoke", LOCKED_OUT, ...undo, ...this.#storeFlags];
    const { code, stderr } = await run(command, { env: this.#env });
    if (code !== 0) this.#note(`orchestrator revoke: ${stderr}`);
    if (code !== 0 && !this.#disk?.isFull) this.#faults.push(`orchestrator revoke failed: ${stderr}`);
    if (code === 0) this.#isLockedOut = isLockedOut;
    excuse();
  }

  async wait(milliseconds: number): Promise<void> {
    await new Promise((resolve) => setTimeout(resolve, milliseconds));
  }

  /** Waits until everybody has an answer, or for so long: what happens next befalls a world that works. */
  async calm(milliseconds: number): Promise<void> {
    await Promise.race([Promise.all([...this.#pending]), this.wait(milliseconds)]);
  }

  // --- faults

  kill(node: number): void {
    if (this.nodes.some(({ status }) => status === "ending")) this.#excuseAll();
    this.nodes[node].kill();
  }

  async restart(node: number): Promise<void> {
    const it = this.nodes[node];
    if (it.status !== "down" && it.status !== "ending") return;
    this.#note(`restart ${node}`);
    if (!await it.start() && !this.#disk?.isFull) this.#faults.push(`orchestrator ${node} does not start`);
  }

  pause(node: number, milliseconds: number): void {
    if (this.nodes.some(({ status }) => status === "ending")) this.#excuseAll();
    this.nodes[node].pause(milliseconds);
  }

  /** SIGTERM. The last one that runs takes the agents along. */
  terminate(node: number): void {
    if (this.nodes.some(({ status }, other) => other !== node && status !== "up")) this.#excuseAll();
    this.nodes[node].terminate();
  }

  async killAgent(key: number): Promise<void> {
    const pid = await this.#agentOf(key);
    if (!pid) return;
    this.#note(`kill the agent of ${key}, process ${pid}`);
    this.#excuse(key);
    signal(pid, "SIGKILL");
  }

  /** SIGSTOP, and SIGCONT after a time; one that is long may cost the session. */
  async pauseAgent(key: number, milliseconds: number): Promise<void> {
    const pid = await this.#agentOf(key);
    if (!pid || this.#pausedAgents.size > 0) return;
    if (milliseconds > AGENT_PATIENCE_MS || performance.now() - this.#agentWentOn < 3 * AGENT_PATIENCE_MS) {
      this.#excuse(key);
      this.#unsteady.set(key, performance.now() + milliseconds + 3 * AGENT_PATIENCE_MS);
    }
    this.#note(`pause the agent of ${key}, process ${pid}, for ${milliseconds} ms`);
    signal(pid, "SIGSTOP");
    this.#pausedAgents.set(pid, setTimeout(() => this.#resumeAgent(pid), milliseconds));
  }

  /** The connections of callers to an orchestrator break; new ones work. */
  cut(node: number): void {
    this.#note(`cut the links to ${node}`);
    this.nodes[node].disturbances++;
    this.nodes[node].link.cut();
  }

  /** All that callers and an orchestrator say to each other is late. */
  slow(node: number, delayMs: number): void {
    this.#note(`slow the links to ${node} by ${delayMs} ms`);
    this.nodes[node].link.delayMs = delayMs;
  }

  /** Nothing passes between callers and an orchestrator for a time. */
  silence(node: number, milliseconds: number): void {
    const { link } = this.nodes[node];
    this.#note(`silence the links to ${node} for ${milliseconds} ms`);
    this.nodes[node].disturbances++;
    link.stop();
    setTimeout(() => link.go(), milliseconds);
  }

  disk(state: "full" | "works"): void {
    if (!this.#disk || this.#disk.isFull === (state === "full")) return;
    this.#note(`the disk ${state === "full" ? "is full" : "has room"}`);
    this.#excuseAll();
    this.#wasFull = true;
    if (state === "full") this.#disk.fill();
    else this.#disk.free();
  }

  // --- what must hold

  async check(): Promise<void> {
    this.disk("works");
    for (const node of this.nodes) await node.settled();
    while (this.#pausedAgents.size > 0) await this.wait(10);
    for (const [index, { link }] of this.nodes.entries()) {
      this.slow(index, 0);
      link.go();
    }
    for (const index of this.nodes.keys()) await this.restart(index);
    await this.lockOut(false);
    this.#note("all faults are over");
    await Promise.all([...this.#pending]);
    this.#note(`acknowledged and not to be lost: ${[...this.#promised.keys()].join(", ") || "none"}`);
    this.#noFaults();
    await this.#untilInOrder();
    for (const [key, { agentId, epoch }] of this.#promised) {
      const session = await this.#store.sessions.get(this.#key(key));
      assert.equal(session?.agentId, agentId, `the acknowledged server of ${key} (epoch ${epoch}) was lost`);
    }
    for (const key of KEYS) await this.#servedByAll(key);
    await this.#untilInOrder();
    this.#note("all sessions are released");
    for (const key of KEYS) {
      const request = { repoHash: this.#key(key).repoHash, sessionId: "" };
      const answers = await Promise.all(
        this.nodes.map((_, node) => this.#with(node, key, (client, call) => client.releaseServer(request, call))),
      );
      assert.equal(answers.filter(({ released }) => released).length, 1, `releases of ${key}`);
    }
    await this.#untilInOrder();
    assert.deepEqual((await this.#store.sessions.list()).filter(({ status }) => status !== "FAILED"), []);
    this.#note("the orchestrators are ended");
    for (const node of this.nodes) node.terminate();
    for (const node of this.nodes) await node.settled();
    await this.#until("nothing is left", async () => {
      const { agents, strays } = await this.#look();
      return [
        ...agents.map(({ pid, folder }) => `${pid} ${folder}`),
        ...strays.map(({ pid, args }) => `${pid} ${args}`),
      ];
    });
    this.#noFaults();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#owned?.[Symbol.asyncDispose]();
  }

  /** Whatever a failed run has left, too. Each process is ended by its id. */
  async #end(): Promise<void> {
    this.#isOver = true;
    this.#disk?.free();
    for (const pid of [...this.#pausedAgents.keys()]) this.#resumeAgent(pid);
    for (const node of this.nodes) await node.close();
    await this.#watching;
    await Promise.allSettled(this.#pending);
    await eventually(async () => {
      const { agents, strays } = await this.#look();
      for (const { pid } of [...agents, ...strays]) signal(pid, "SIGKILL");
      return agents.length === 0 && strays.length === 0;
    }, "the run's processes are gone");
    await (this.#store as Store | undefined)?.[Symbol.asyncDispose]();
  }

  #key(key: number): SessionKey {
    return { userId: USERS[key], repoHash: repoHash(this.#workspaces[key].workspace), serverId: "" };
  }

  #request(key: number, owner: number, options: number) {
    const workspace = this.#workspaces[key];
    const startupOptions = this.setup.bazel
      ? workspace.startupOptions({ hostJvmArgs: ["-Xmx128m", `-Drbs.chaos=${options}`] })
      // Without an install base there is no Bazel server.
      : [`--chaos=${options}`, `--output_base=${workspace.outputBase}`];
    return {
      repoHash: this.#key(key).repoHash,
      sourcePath: workspace.workspace,
      sessionId: String(owner).padStart(32, "0"),
      startupOptions,
    };
  }

  #note(line: string): void {
    this.log.push(`${((performance.now() - this.#began) / 1000).toFixed(3)} ${line}`);
  }

  #excusesOf(key: number): number {
    return this.#excuses.get(key) ?? 0;
  }

  /** The key's session may end from now on, or a moment ago, without a fault of the orchestrators'. */
  #excuse(key: number): void {
    this.#excuses.set(key, this.#excusesOf(key) + 1);
    this.#promised.delete(key);
  }

  #excuseAll(): void {
    for (const key of KEYS) this.#excuse(key);
  }

  /** Agents that nobody holds end by their lease. */
  #watchNodes(): void {
    const isDeserted = !this.nodes.some(({ status }) => status === "up");
    if (isDeserted) this.#deserted ??= performance.now();
    else if (this.#deserted !== undefined) {
      if (performance.now() - this.#deserted > AGENT_LEASE * 500) this.#excuseAll();
      this.#deserted = undefined;
    }
  }

  #look(): Promise<Processes> {
    return lookAtProcesses(this.directory, this.#storage, this.nodes.map(({ pid }) => pid));
  }

  /** No two agents may serve one session at once. */
  async #watchAgents(): Promise<void> {
    for (; !this.#isOver; await this.wait(LOOK_MS)) {
      const { agents } = await this.#look();
      const serving = agents.filter(({ isServing }) => isServing).map(({ folder }) => folder);
      const twice = serving.find((folder, i) => serving.indexOf(folder) !== i);
      if (twice) this.#faults.push(`two agents serve ${twice}: ${JSON.stringify(agents)}`);
    }
  }

  /** The process of a key's agent, as the machine has it. */
  async #agentOf(key: number): Promise<number | undefined> {
    const { agents } = await this.#look();
    return agents.findLast(({ folder }) => folder === keyText(this.#key(key)))?.pid;
  }

  #resumeAgent(pid: number): void {
    clearTimeout(this.#pausedAgents.get(pid));
    this.#pausedAgents.delete(pid);
    this.#agentWentOn = performance.now();
    this.#note(`resume process ${pid}`);
    signal(pid, "SIGCONT");
  }

  /** A call at an orchestrator, by the link to it. */
  async #with<T>(
    node: number,
    key: number,
    work: Call<T>,
  ): Promise<T> {
    const credentials = this.#credentials.get(USERS[key])!;
    using client = createRpcClient(Orchestrator, `127.0.0.1:${this.nodes[node].link.port}`, {
      tls: { credentials, expected: { kind: "orchestrator" } },
    });
    return await work(client, { timeoutMs: DEADLINE_MS });
  }

  #perform(what: string, node: number, key: number, work: Call<void>): void {
    const it = this.nodes[node];
    const { disturbances, status } = it;
    const isCalm = () => status === "up" && it.disturbances === disturbances && !this.#wasFull;
    this.#track(what, async () => {
      try {
        await this.#with(node, key, work);
      } catch (e) {
        const isLate = e instanceof RpcError && e.code === Code.DEADLINE_EXCEEDED;
        if (isLate && isCalm()) this.#faults.push(`${what}: no answer from an orchestrator that nothing befell`);
        throw e;
      }
    });
  }

  /** Does something that ends by itself, in time. */
  #track(what: string, work: () => Promise<void>): void {
    this.#note(what);
    const done = (async () => {
      try {
        await work();
        this.#note(`${what}: done`);
      } catch (e) {
        this.#note(`${what}: ${e instanceof Error ? e.message : e}`);
        if (!(e instanceof RpcError)) this.#faults.push(`${what}: ${e instanceof Error ? e.stack : e}`);
        else if (e.code === Code.INTERNAL || e.code === Code.UNKNOWN) this.#faults.push(`${what}: ${e.message}`);
      }
    })();
    const late = Promise.withResolvers<void>();
    const timer = setTimeout(() => {
      this.#faults.push(`${what}: no answer`);
      late.resolve();
    }, DEADLINE_MS + COMMAND_MS + SLACK_MS);
    const settled = Promise.race([done, late.promise]).finally(() => {
      clearTimeout(timer);
      this.#pending.delete(settled);
    });
    this.#pending.add(settled);
  }

  async #answer(key: number, { session, accessToken }: GetServerResponse, excuses: number): Promise<void> {
    const { epoch, agent } = session!;
    const answer: Answer = { epoch, agentId: agent!.agentId, port: agent!.port, token: accessToken };
    const known = this.#agents.get(`${key} ${epoch}`);
    if (known && known !== answer.agentId) this.#faults.push(`two agents for ${key} in epoch ${epoch}`);
    this.#agents.set(`${key} ${epoch}`, answer.agentId);
    try {
      await this.#use(key, answer);
    } catch (e) {
      this.#note(`the agent of ${key} refuses epoch ${epoch}: ${e}`);
      // Another has the session by now, or something befell the agent.
      const now = await this.#store.sessions.get(this.#key(key)).catch(() => undefined);
      const isStill = now?.status === "READY" && now.epoch === epoch && now.agentId === answer.agentId;
      if (isStill && excuses === this.#excusesOf(key) && !this.#isUnsteady(key)) {
        this.#faults.push(`the agent of ${key} refuses its owner: ${e}`);
      }
      return;
    }
    const answers = this.#answers.get(key) ?? [];
    this.#answers.set(key, answers);
    const newest = Math.max(0, ...answers.map(({ epoch }) => epoch));
    const promised = this.#promised.get(key);
    if (promised && promised.agentId !== answer.agentId && epoch > promised.epoch) {
      this.#faults.push(`the acknowledged server of ${key} (epoch ${promised.epoch}) was lost, and has a successor`);
    }
    const mayEnd = excuses !== this.#excusesOf(key) ||
      (this.#isLockedOut && USERS[key] === LOCKED_OUT) || this.#isUnsteady(key) ||
      this.nodes.some(({ status }) => status === "ending");
    if (!mayEnd && epoch >= newest) this.#promised.set(key, answer);
    answers.push(answer);
    answers.sort((a, b) => a.epoch - b.epoch);
  }

  /** Its agent stands still, or did for so long that it may have been given up; or nothing can be written. */
  #isUnsteady(key: number): boolean {
    return performance.now() < (this.#unsteady.get(key) ?? 0) || this.#disk?.isFull === true;
  }

  /** Runs a command in the namespace of the agent, with the epoch of the answer. */
  async #use(key: number, { port, token, agentId, epoch }: Answer): Promise<void> {
    const credentials = this.#credentials.get(USERS[key])!;
    using client = createRpcClient(Agent, `127.0.0.1:${port}`, {
      token,
      tls: { credentials, expected: { kind: "agent", agentId } },
    });
    const call = client.executeCommand({ metadata: { "rbs-epoch": String(epoch) }, timeoutMs: COMMAND_MS });
    const workingDirectory = this.#workspaces[key].workspace;
    await call.send({ message: { case: "init", value: { args: ["/bin/pwd"], env: {}, workingDirectory } } });
    let output = "";
    for await (const { message } of call) {
      if (message.case === "stdout") output += new TextDecoder().decode(message.value);
    }
    if (output !== `${workingDirectory}\n`) this.#faults.push(`a command of ${key} says ${JSON.stringify(output)}`);
  }

  #noFaults(): void {
    assert.deepEqual(this.#faults, []);
  }

  /** Resolves when `wrong` finds nothing that is wrong any more. */
  async #until(what: string, wrong: () => Promise<string[]>): Promise<void> {
    const until = performance.now() + (this.#wasFull ? CALM_AFTER_FULL_DISK_MS : CALM_MS);
    for (;;) {
      const faults = await wrong();
      if (faults.length === 0) return;
      this.#noFaults();
      if (performance.now() > until) assert.fail(`it is not so that ${what}: ${faults.join("; ")}`);
      await this.wait(100);
    }
  }

  /** Resolves when each agent is a session's or waits for one, and each session and pool is an orchestrator's. */
  async #untilInOrder(): Promise<void> {
    await this.#until("all is in order", async () => {
      const sessions = (await this.#store.sessions.list()).filter(({ status }) => status !== "FAILED");
      const leases = new Set((await this.#store.leases.list()).map(({ id }) => id));
      const waiting = await this.#store.warmAgents.list();
      const { agents, strays } = await this.#look();
      const isThat = (handle: string, pid: number) => handle.startsWith(`${pid} `);
      const isBlankFolder = (folder: string, agentId: string) =>
        folder.startsWith(join(agentsFolder("."), `${agentId}-`));
      const isAgent = (handle: string, folder: string) =>
        agents.some((agent) => isThat(handle, agent.pid) && agent.folder === folder);
      const isThere = (handle: string, agentId: string) =>
        agents.some((agent) => isThat(handle, agent.pid) && isBlankFolder(agent.folder, agentId));
      const isWanted = ({ pid, folder }: (typeof agents)[number]) =>
        sessions.some((session) => isThat(session.handle, pid) && keyText(session) === folder) ||
        waiting.some(({ handle, agentId }) => isThat(handle, pid) && isBlankFolder(folder, agentId));
      const { warm } = this.setup;
      return [
        ...leases.size === this.nodes.length ? [] : [`there are ${leases.size} leases`],
        ...sessions.filter(({ status }) => status !== "READY").map((s) => `${s.sourcePath} is ${s.status}`),
        ...sessions.filter(({ holder }) => !leases.has(holder)).map((s) => `nobody holds ${s.sourcePath}`),
        ...sessions.filter((s: Session) => !isAgent(s.handle, keyText(s))).map((s) => `${s.sourcePath} has no agent`),
        ...[...leases].filter((id) =>
          waiting.filter(({ owner, agentPort }) => owner === id && agentPort).length !== warm
        )
          .map((id) => `the pool of ${id} is not full`),
        ...waiting.filter(({ owner }) => !leases.has(owner)).map(({ id }) => `nobody holds the warm agent ${id}`),
        ...waiting.filter(({ handle, agentId }) => !isThere(handle, agentId))
          .map(({ id }) => `the warm agent ${id} is not there`),
        ...agents.filter((agent) => !isWanted(agent)).map(({ pid, folder }) =>
          `nobody wants ${pid}, agent in ${folder}`
        ),
        ...strays.map(({ pid, args }) => `stray process ${pid}: ${args.join(" ").slice(0, 200)}`),
      ];
    });
  }

  /** All orchestrators name the same agent, and it works. */
  async #servedByAll(key: number): Promise<void> {
    const agents = new Set<string>();
    for (const node of this.nodes.keys()) {
      const answer = await this.#with(node, key, (client, call) => client.getServer(this.#request(key, 9, 0), call));
      agents.add(answer.session!.agent!.agentId);
      await this.#answer(key, answer, this.#excusesOf(key));
    }
    assert.equal(agents.size, 1, `the orchestrators name different agents of ${key}`);
    if (!this.setup.bazel) return;
    const outputBase = `--output_base=${this.#workspaces[key].outputBase}`;
    const { servers } = await this.#look();
    assert.equal(servers.filter(({ args }) => args.includes(outputBase)).length, 1, `Bazel servers of ${key}`);
  }
}
