/** How long an unreachable agent is retried: one rule for commands, outputs and barriers. */
import { Backoff } from "../../proto/base/backoff.ts";
import { ConnectError } from "../../proto/transport/grpc/channel.ts";
import { StatusError } from "../../proto/transport/grpc/calls.ts";

/** As long as an agent keeps a command for its proxy. Milliseconds. */
export const PATIENCE_MS = 30 * 60_000;
/** After this many refused connections in a row, an agent that answered before counts as gone. */
const REFUSALS = 2;

/** Options of {@link AgentPatience}. */
export interface AgentPatienceOptions {
  /** Whether the agent still belongs to the session, as far as is known. @default it does */
  isCurrent?(): boolean;
  /** Milliseconds. @default {@link PATIENCE_MS} */
  patienceMs?: number;
  /** The agent has answered before, so that one refused connection proves nothing. @default false */
  connected?: boolean;
}

/** The meaning of a failed attempt: try again, the agent is gone, or it was retried for long enough. */
export type Verdict = "again" | "gone" | "late";

/** The attempts of one command, fetch or barrier at one agent. */
export class AgentPatience {
  readonly #options: AgentPatienceOptions;
  readonly #backoff = new Backoff();
  #connected: boolean;
  /** Refused connections in a row. */
  #refusals = 0;
  /** Time of the first failure since the last answer, by performance.now(). */
  #lostAt?: number;

  constructor(options: AgentPatienceOptions) {
    this.#options = options;
    this.#connected = options.connected ?? false;
  }

  /** How long the agent has not answered, in milliseconds; undefined if the last attempt succeeded. */
  get lostMs(): number | undefined {
    return this.#lostAt === undefined ? undefined : performance.now() - this.#lostAt;
  }

  /** Records a connection. The agent may still not answer on it. */
  connected(): void {
    this.#connected = true;
    this.#refusals = 0;
  }

  /**
   * Records an answer of the agent.
   *
   * @param resetWaits Whether the backoff starts again with the shortest wait. Not for an agent that answers and then
   * breaks each connection: it must not be asked ten times a second for half an hour.
   */
  answered({ resetWaits }: { resetWaits: boolean }): void {
    this.connected();
    this.#lostAt = undefined;
    if (resetWaits) this.#backoff.reset();
  }

  /** Records a failed attempt, and returns what it means. */
  failed(e: unknown): Verdict {
    const { patienceMs = PATIENCE_MS, isCurrent = () => true } = this.#options;
    const noConnection = e instanceof ConnectError;
    if (!noConnection && e instanceof StatusError) this.#connected = true;
    this.#refusals = noConnection && e.reason !== "unreachable" ? this.#refusals + 1 : 0;
    this.#lostAt ??= performance.now();
    if (this.#refusals >= (this.#connected ? REFUSALS : 1) || !isCurrent()) return "gone";
    return performance.now() - this.#lostAt < patienceMs ? "again" : "late";
  }

  /** Waits until the next attempt, or until the signal is aborted. Never rejects. */
  async wait(signal?: AbortSignal): Promise<void> {
    await this.#backoff.wait(signal);
  }
}
