import type {
  AgentFailure,
  BlankAgent,
  ComputeService,
  RunningAgent,
  StartFor,
  StartOptions,
} from "../../orchestrator/compute/compute_service.ts";
import type { AgentEndpoint } from "../../orchestrator/store/agent_endpoint.ts";
import { keyText } from "../../orchestrator/store/session.ts";
import { FakeAgentServer } from "../../orchestrator/testing/fake_agent_server.ts";
import { TcpLink } from "./tcp_link.ts";

/** An agent in this process, whoever started it. */
export interface ChaosAgent {
  readonly server: FakeAgentServer;
  readonly agentId: string;
  /** What it was started for. */
  readonly session: StartFor;
  readonly port: number;
  alive: boolean;
}

/** All agents of a run, as the machine has them. */
export class Machine {
  readonly agents: ChaosAgent[] = [];
  /** By the ports of the links that lead to them. */
  readonly byPort = new Map<number, ChaosAgent>();
  /** What must not be: two agents serve one epoch of a session. */
  readonly doubles: string[] = [];
  readonly #served = new Set<string>();

  /** Notes an agent, and in time the session that it gets. */
  add(agent: ChaosAgent): void {
    this.agents.push(agent);
    void agent.server.assigned.then(({ userId, repoHash, serverId, epoch }) => {
      const start = `${keyText({ userId, repoHash, serverId })} epoch ${epoch}`;
      if (this.#served.has(start)) this.doubles.push(start);
      this.#served.add(start);
    });
  }
}

/** One orchestrator's view of the machine: it reaches each agent by a link of its own. */
export class ChaosCompute implements ComputeService {
  readonly name = "chaos";
  readonly region = "";
  readonly links = new Set<TcpLink>();
  /** The orchestrator is dead: what is left of it in this process does nothing any more. */
  isDead = false;
  /** What a start takes. Milliseconds. */
  startMs = 0;
  #slowMs = 0;
  #isStopped = false;

  constructor(readonly machine: Machine) {}

  inherit(): undefined {}

  async start(blank: BlankAgent, { signal, onStep, session }: StartOptions): Promise<RunningAgent> {
    onStep("agent process started");
    const server = new FakeAgentServer(blank);
    const port = await server.listen();
    const agent: ChaosAgent = { server, agentId: blank.agentId, session: session!, port, alive: true };
    this.machine.add(agent);
    void server.ended.then(() => {
      agent.alive = false;
      server.close();
    });
    await new Promise((resolve) => setTimeout(resolve, this.startMs));
    if (signal.aborted && !this.isDead) server.close();
    signal.throwIfAborted();
    const link = this.#link(agent);
    const endpoint = { host: "127.0.0.1", port: link.port, commandPort: port };
    return this.#running(agent, String(this.machine.agents.indexOf(agent)), endpoint);
  }

  adopt(handle: string, endpoint: AgentEndpoint): RunningAgent {
    const agent = this.machine.agents[Number(handle)];
    const { port } = this.#link(agent);
    return this.#running(agent, handle, { ...endpoint, port });
  }

  #running({ server }: ChaosAgent, handle: string, endpoint: AgentEndpoint): RunningAgent {
    const end = () => {
      if (!this.isDead) server.close();
    };
    return {
      ...{ handle, endpoint },
      ended: server.ended.then((): AgentFailure => ({ reason: "The agent ended (exit code 0).", transient: true })),
      log: "nowhere",
      assign: (spec) => ({ ...spec, storageDirectory: "/storage", defaultOutputBase: "/output/base" }),
      terminate: end,
      kill: end,
      letGo() {},
    };
  }

  sweep(): Promise<void> {
    return Promise.resolve();
  }

  /** All that passes is late from now on. */
  slow(delayMs: number): void {
    this.#slowMs = delayMs;
    for (const link of this.links) link.delayMs = delayMs;
  }

  /** Nothing passes until {@link go}. */
  stop(): void {
    this.#isStopped = true;
    for (const link of this.links) link.stop();
  }

  go(): void {
    this.#isStopped = false;
    for (const link of this.links) link.go();
  }

  cut(): void {
    for (const link of this.links) link.cut();
  }

  close(): void {
    for (const link of this.links) link.close();
  }

  #link(agent: ChaosAgent): TcpLink {
    const link = new TcpLink(agent.port);
    link.delayMs = this.#slowMs;
    if (this.#isStopped) link.stop();
    if (this.isDead) link.close();
    this.machine.byPort.set(link.port, agent);
    this.links.add(link);
    return link;
  }
}
