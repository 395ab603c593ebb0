import {
  type AgentFailure,
  type AgentSpec,
  type ComputeService,
  type RunningAgent,
  type WholeSpec,
} from "../../orchestrator/compute/compute_service.ts";
import type { AgentEndpoint } from "../../orchestrator/store/agent_endpoint.ts";
import { keyText } from "../../orchestrator/store/session.ts";
import { FakeAgentServer } from "../../orchestrator/testing/fake_agent_server.ts";
import { TcpLink } from "./tcp_link.ts";

/** An agent in this process, whoever started it. */
export interface ChaosAgent {
  readonly server: FakeAgentServer;
  readonly spec: AgentSpec;
  readonly port: number;
  alive: boolean;
}

/** All agents of a run, as the machine has them. */
export class Machine {
  readonly agents: ChaosAgent[] = [];
  /** By the ports of the links that lead to them. */
  readonly byPort = new Map<number, ChaosAgent>();
  /** What must not be: two agents were started for one epoch of a session. */
  readonly doubles: string[] = [];
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

  async start(spec: AgentSpec, signal: AbortSignal, onStep: (step: string) => void): Promise<RunningAgent> {
    onStep("agent process started");
    const server = new FakeAgentServer(spec);
    const port = await server.listen();
    const agent: ChaosAgent = { server, spec, port, alive: true };
    const { agents, doubles } = this.machine;
    const isSame = (other: ChaosAgent) => keyText(other.spec) === keyText(spec) && other.spec.epoch === spec.epoch;
    if (agents.some(isSame)) doubles.push(`${keyText(spec)} epoch ${spec.epoch}`);
    agents.push(agent);
    const ended = server.ended.then((): AgentFailure => {
      agent.alive = false;
      server.close();
      return { reason: "The agent ended (exit code 0).", transient: true };
    });
    await new Promise((resolve) => setTimeout(resolve, this.startMs));
    const end = () => {
      if (!this.isDead) server.close();
    };
    if (signal.aborted) end();
    signal.throwIfAborted();
    const link = this.#link(agent);
    return {
      handle: String(agents.length),
      endpoint: { host: "127.0.0.1", port: link.port, commandPort: port },
      ended,
      assigned() {},
      terminate: end,
      kill: end,
    };
  }

  adopt(handle: string, endpoint: AgentEndpoint): RunningAgent {
    const agent = this.machine.byPort.get(endpoint.port)!;
    const { port } = this.#link(agent);
    return { handle, endpoint: { ...endpoint, port }, assigned() {}, terminate() {}, kill() {} };
  }

  complete(spec: AgentSpec): WholeSpec {
    return { ...spec, defaultOutputBase: "/output/base" };
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
