import { formatHostPort } from "../../proto/base/host_port.ts";
import { sentence } from "../../proto/base/errors.ts";
import {
  Agent,
  type AgentReady,
  type SuperviseRequestSchema,
  type SuperviseResponseSchema,
} from "../../proto/contract/gen/rbs/v1/agent_pb.ts";
import { type BidiCall, createRpcClient, type RpcClient } from "../../proto/transport/rpc/client.ts";
import { agentTls, type AgentTrust } from "./agent_trust.ts";
import type { AgentFailure, WholeSpec } from "../compute/compute_service.ts";
import type { AgentEndpoint } from "../store/agent_endpoint.ts";

/** What a supervised agent tells. */
export interface SupervisorEvents {
  /** The agent was started ahead and has no session yet; told anew after each connection. */
  waiting?(): void;
  /** Progress of the start. */
  step(description: string): void;
  /** The agent takes commands; told anew after each connection. */
  ready(ready: AgentReady): void;
  /** The agent could not start what it was asked to; it ends after it. */
  failed(failure: AgentFailure): void;
  /** So many commands run. */
  activity(runningCommands: number): void;
}

/** Options of {@link Supervisor}. */
export interface SupervisorOptions {
  readonly endpoint: AgentEndpoint;
  readonly agentId: string;
  /** @default plain text, for tests */
  readonly trust?: AgentTrust;
  readonly epoch: number;
  /** Of the orchestrator's hold on the session: an agent refuses supervisors with an older one than it knows. */
  readonly term: number;
  /** Whether the agent has been ready before, so that it must say so at once. */
  readonly wasReady: boolean;
  readonly events: SupervisorEvents;
  /** What the agent is to serve, if it was started ahead and has no session yet. */
  readonly spec?: WholeSpec;
  /** How long an agent that was ready may take to say so on a new connection. Milliseconds. @default 5000 */
  readonly answerTimeoutMs?: number;
}

/** A connection that lasted this long, in milliseconds, has earned its agent another attempt when it breaks. */
const STEADY_MS = 10_000;

/**
 * The orchestrator's hold on one agent: an `Agent.Supervise` stream, which also keeps the agent's lease running. When
 * it breaks it is made anew once; an agent that does not answer then is lost.
 *
 * The agent keeps the stream open until the last of what it started has ended, so the stream's end is the agent's.
 */
export class Supervisor {
  readonly #options: SupervisorOptions;
  #events: SupervisorEvents;
  /** What the agent is to serve, should it not know. */
  #spec?: WholeSpec;
  readonly #lost = Promise.withResolvers<string>();
  #call?: BidiCall<typeof SuperviseRequestSchema, typeof SuperviseResponseSchema>;
  #epoch: number;
  /** Where the agent finds this orchestrator. */
  #address = "";
  #wasReady: boolean;
  #stopGraceMs?: number;
  #closed = false;
  #connected = Promise.withResolvers<void>();
  #isConnected = false;

  constructor(options: SupervisorOptions) {
    this.#options = options;
    this.#events = options.events;
    this.#spec = options.spec;
    this.#epoch = options.epoch;
    this.#wasReady = options.wasReady;
    this.#run();
  }

  /** Resolves when the agent does not answer any more, with the reason. */
  get lost(): Promise<string> {
    return this.#lost.promise;
  }

  /** Whether the agent has said `ready` on the present connection. */
  get isConnected(): boolean {
    return this.#isConnected;
  }

  /** Resolves when the agent has said `ready` on the present connection; never when it is lost. */
  get connected(): Promise<void> {
    return this.#connected.promise;
  }

  /**
   * Gives the agent, which was started ahead, its session; `events` hears of it from now on. Should the connection break
   * over it, it is told again on the next one.
   */
  assign(spec: WholeSpec, epoch: number, events: SupervisorEvents): void {
    this.#events = events;
    this.#epoch = epoch;
    this.#wasReady = false;
    this.#spec = spec;
    void this.#call?.send({ message: { case: "assign", value: spec } });
  }

  /** Makes the agent refuse calls with an older epoch. Resolves when that is on its way. */
  async setEpoch(epoch: number): Promise<void> {
    this.#epoch = epoch;
    await this.#call?.send({ message: { case: "setEpoch", value: this.#setEpoch() } });
  }

  #setEpoch() {
    return { epoch: this.#epoch, term: this.#options.term, orchestratorAddress: this.#address };
  }

  /**
   * Asks the agent to end; {@link lost} resolves when it has.
   *
   * @param graceMs What running commands get.
   */
  async stop(graceMs: number): Promise<void> {
    this.#stopGraceMs = graceMs;
    await this.#call?.send({ message: { case: "stop", value: { graceMs } } });
  }

  /** Lets go of the agent. */
  close(): void {
    this.#closed = true;
    this.#call?.cancel();
  }

  async #run(): Promise<void> {
    for (let mayRetry = true;;) {
      const since = performance.now();
      const { heard, reason } = await this.#connect();
      if (performance.now() - since >= STEADY_MS) mayRetry = true;
      const stopped = this.#stopGraceMs !== undefined && heard;
      if (this.#closed || stopped || !mayRetry) return this.#lost.resolve(reason);
      mayRetry = false;
    }
  }

  /** Serves one connection until it ends. */
  async #connect(): Promise<{ heard: boolean; reason: string }> {
    const { endpoint, trust, agentId } = this.#options;
    this.#address = await trust?.orchestratorAddress ?? "";
    // A channel that has seen its server die may not come back: each connection gets its own.
    using client = agentClient(endpoint, agentId, trust);
    const call = this.#call = client.supervise();
    let heard = false;
    let silent = false;
    const answerTimer = this.#wasReady
      ? setTimeout(() => {
        silent = true;
        call.cancel();
      }, this.#options.answerTimeoutMs ?? 5000)
      : undefined;
    try {
      void call.send({ message: { case: "setEpoch", value: this.#setEpoch() } });
      if (this.#stopGraceMs !== undefined) {
        void call.send({ message: { case: "stop", value: { graceMs: this.#stopGraceMs } } });
      }
      for await (const { message } of call) {
        heard = true;
        clearTimeout(answerTimer);
        switch (message.case) {
          case "waiting":
            this.#events.waiting?.();
            if (this.#spec) void call.send({ message: { case: "assign", value: this.#spec } });
            break;
          case "step":
            this.#events.step(message.value);
            break;
          case "ready":
            this.#wasReady = true;
            this.#isConnected = true;
            this.#connected.resolve();
            this.#events.ready(message.value);
            break;
          case "failed":
            this.#events.failed(message.value);
            break;
          case "activity":
            this.#events.activity(message.value.runningCommands);
            break;
        }
      }
      return { heard, reason: "it closed its connection" };
    } catch (e) {
      return { heard, reason: silent ? "it did not answer" : sentence(e) };
    } finally {
      clearTimeout(answerTimer);
      this.#call = undefined;
      if (this.#isConnected) this.#connected = Promise.withResolvers();
      this.#isConnected = false;
    }
  }
}

/**
 * Makes an agent that another orchestrator supervises refuse calls with an older epoch. Resolves when it does; throws an
 * RpcError when the agent does not answer.
 */
export async function raiseEpoch(
  { endpoint, agentId, trust }: Pick<SupervisorOptions, "endpoint" | "agentId" | "trust">,
  epoch: number,
  timeoutMs: number,
): Promise<void> {
  using client = agentClient(endpoint, agentId, trust);
  const call = client.supervise({ timeoutMs });
  await call.send({ message: { case: "setEpoch", value: { epoch, term: 0 } } });
  for await (const _ of call); // It says nothing, and ends.
}

function agentClient({ host, port }: AgentEndpoint, agentId: string, trust?: AgentTrust): RpcClient<typeof Agent> {
  return createRpcClient(Agent, formatHostPort(host, port), {
    tls: agentTls(trust, agentId),
    // grpc-js 1.14.7 (`retrying-call.js`, progress NOT_STARTED) starts a call on a session that is just gone again and
    // again without ever letting the event loop run; attempts are counted here instead.
    channel: { "grpc.enable_retries": 0 },
  });
}
