import {
  type AgentFailure,
  type BlankAgent,
  type ComputeService,
  type RunningAgent,
  type StartOptions,
} from "../compute/compute_service.ts";
import type { AgentEndpoint } from "../store/agent_endpoint.ts";
import type { SessionKey } from "../store/session.ts";
import { FakeAgentServer } from "./fake_agent_server.ts";

/** Runs fake agents inside of the test's own process, where the test can reach them. */
export class InProcessCompute implements ComputeService, AsyncDisposable {
  /** All agents that were ever started, oldest first. */
  readonly agents: FakeAgentServer[] = [];
  /** The agents that are not gone. */
  readonly alive = new Set<FakeAgentServer>();
  /** The next starts wait for this. */
  gate: Promise<void> = Promise.resolve();
  /** The same for agents of the warm pool. */
  warmGate: Promise<void> = Promise.resolve();
  /** How many agents of the warm pool were to be started. */
  warmStarts = 0;
  /** Nothing ends an agent but its own {@link FakeAgentServer.close}: as when the kernel waits for a disk. */
  areImmortal = false;
  /** Agents that were let go, by their handles. */
  readonly letGo: string[] = [];
  /** Which storage was given on to which session, by their ServerIds. */
  readonly inherited: [from: string, to: string][] = [];
  #started = Promise.withResolvers<FakeAgentServer>();

  constructor(readonly name = "in-process", readonly region = "") {}

  /** Resolves with the next agent that is started from now on. */
  next(): Promise<FakeAgentServer> {
    return this.#started.promise;
  }

  inherit(from: SessionKey, to: SessionKey): undefined {
    this.inherited.push([from.serverId, to.serverId]);
  }

  async start(blank: BlankAgent, { signal, onStep, session }: StartOptions): Promise<RunningAgent> {
    onStep("agent process started");
    const givenUp = new Promise<never>((_, reject) => {
      signal.addEventListener("abort", () => reject(signal.reason));
      if (signal.aborted) reject(signal.reason);
    });
    givenUp.catch(() => {});
    if (!session) this.warmStarts++;
    await Promise.race([session ? this.gate : this.warmGate, givenUp]);
    signal.throwIfAborted();
    const agent = new FakeAgentServer(blank);
    agent.isStartedAhead = !session;
    const port = await agent.listen();
    this.agents.push(agent);
    this.alive.add(agent);
    void agent.ended.then(() => {
      agent.close();
      this.alive.delete(agent);
    });
    this.#started.resolve(agent);
    this.#started = Promise.withResolvers();
    return this.#running(agent, String(this.agents.length), { host: "127.0.0.1", port, commandPort: port });
  }

  adopt(handle: string, endpoint: AgentEndpoint): RunningAgent {
    return this.#running(this.agents[Number(handle) - 1], handle, endpoint);
  }

  #running(agent: FakeAgentServer, handle: string, endpoint: AgentEndpoint): RunningAgent {
    return {
      ...{ handle, endpoint },
      ended: agent.ended.then((): AgentFailure =>
        agent.hasExited
          ? { reason: "The agent ended (exit code 3): no JDK here.", transient: false }
          : { reason: "The agent ended (exit code 0).", transient: true }
      ),
      log: "nowhere",
      assign: (spec) => ({ ...spec, storageDirectory: "/storage", defaultOutputBase: "/output/base" }),
      terminate: () => agent.isDeaf || this.areImmortal || agent.close(),
      kill: () => this.areImmortal || agent.close(),
      letGo: () => void this.letGo.push(handle),
    };
  }

  sweep(): Promise<void> {
    return Promise.resolve();
  }

  [Symbol.asyncDispose](): Promise<void> {
    for (const agent of this.agents) agent.close();
    return Promise.resolve();
  }
}
