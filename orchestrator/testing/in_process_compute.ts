import {
  type AgentFailure,
  type AgentSpec,
  AgentStartError,
  type ComputeService,
  type RunningAgent,
  type WholeSpec,
} from "../compute/compute_service.ts";
import type { AgentEndpoint } from "../store/agent_endpoint.ts";
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
  /** Which storage was given on to which session. */
  readonly inherited: [from: string, to: string][] = [];
  #started = Promise.withResolvers<FakeAgentServer>();

  constructor(readonly name = "in-process", readonly region = "") {}

  /** Resolves with the next agent that is started from now on. */
  next(): Promise<FakeAgentServer> {
    return this.#started.promise;
  }

  inherit(from: string, to: string): undefined {
    this.inherited.push([from, to]);
  }

  async start(spec: AgentSpec, signal: AbortSignal, onStep: (step: string) => void): Promise<RunningAgent> {
    onStep("agent process started");
    const givenUp = new Promise<never>((_, reject) => {
      signal.addEventListener("abort", () => reject(signal.reason));
      if (signal.aborted) reject(signal.reason);
    });
    givenUp.catch(() => {});
    if (spec.warm) this.warmStarts++;
    await Promise.race([spec.warm ? this.warmGate : this.gate, givenUp]);
    signal.throwIfAborted();
    if (spec.startupOptions.includes("--fake=exit")) {
      throw new AgentStartError("The agent ended (exit code 3): no JDK here.", false);
    }
    const agent = new FakeAgentServer(spec);
    const port = await agent.listen();
    this.agents.push(agent);
    this.alive.add(agent);
    const ended = agent.ended.then((): AgentFailure => {
      agent.close();
      this.alive.delete(agent);
      return { reason: "The agent ended (exit code 0).", transient: true };
    });
    this.#started.resolve(agent);
    this.#started = Promise.withResolvers();
    const deaf = spec.startupOptions.includes("--fake=deaf");
    return {
      handle: String(this.agents.length),
      endpoint: { host: "127.0.0.1", port, commandPort: port },
      ended,
      assigned() {},
      terminate: () => deaf || agent.close(),
      kill: () => agent.close(),
    };
  }

  adopt(handle: string, endpoint: AgentEndpoint): RunningAgent {
    return { handle, endpoint, assigned() {}, terminate() {}, kill() {} };
  }

  complete(spec: AgentSpec): WholeSpec {
    return { ...spec, defaultOutputBase: "/output/base" };
  }

  sweep(): Promise<void> {
    return Promise.resolve();
  }

  [Symbol.asyncDispose](): Promise<void> {
    for (const agent of this.agents) agent.close();
    return Promise.resolve();
  }
}
