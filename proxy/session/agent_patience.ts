/** How long an agent that cannot be reached is tried: one rule for commands, outputs and barriers. */
import { Backoff } from "../../proto/base/backoff.ts";
import { ConnectError } from "../../proto/transport/grpc/channel.ts";
import { StatusError } from "../../proto/transport/grpc/calls.ts";

/** As long as an agent keeps a command for us. Milliseconds. */
export const PATIENCE_MS = 30 * 60_000;
/** A port that refuses so often in a row, where an agent was, is nobody's any more. */
const REFUSALS = 2;

/** Surroundings of an {@link AgentPatience}. */
export interface AgentPatienceOptions {
  /** Whether the agent is, as far as anybody knows, still the session's. @default it is */
  isCurrent?(): boolean;
  /** Milliseconds. @default {@link PATIENCE_MS} */
  patienceMs?: number;
  /** It has answered before: one refused connection then proves nothing. @default false */
  connected?: boolean;
}

/** What a failed attempt means: try again, or the agent has gone, or it was tried for long enough. */
export type Verdict = "again" | "gone" | "late";

/** The attempts of one command, fetch or barrier at one agent. */
export class AgentPatience {
  readonly #options: AgentPatienceOptions;
  readonly #backoff = new Backoff();
  #connected: boolean;
  /** In a row. */
  #refusals = 0;
  /** When the first attempt failed that nobody has answered since, by performance.now(). */
  #lostAt?: number;

  constructor(options: AgentPatienceOptions) {
    this.#options = options;
    this.#connected = options.connected ?? false;
  }

  /** For how long the agent has not answered, in milliseconds; undefined: the last attempt went well. */
  get lostMs(): number | undefined {
    return this.#lostAt === undefined ? undefined : performance.now() - this.#lostAt;
  }

  /** There is a connection. The agent need not answer by it. */
  connected(): void {
    this.#connected = true;
    this.#refusals = 0;
  }

  /**
   * The agent has answered.
   *
   * @param resetWaits The waits between attempts begin with the shortest again. Not for one that answers and then breaks
   *   each connection off: it shall not be asked ten times in a second for half an hour.
   */
  answered({ resetWaits }: { resetWaits: boolean }): void {
    this.connected();
    this.#lostAt = undefined;
    if (resetWaits) this.#backoff.reset();
  }

  /** Notes that an attempt failed, and says what that means. */
  failed(e: unknown): Verdict {
    const { patienceMs = PATIENCE_MS, isCurrent = () => true } = this.#options;
    const noConnection = e instanceof ConnectError;
    if (!noConnection && e instanceof StatusError) this.#connected = true;
    this.#refusals = noConnection && e.reason !== "unreachable" ? this.#refusals + 1 : 0;
    this.#lostAt ??= performance.now();
    if (this.#refusals >= (this.#connected ? REFUSALS : 1) || !isCurrent()) return "gone";
    return performance.now() - this.#lostAt < patienceMs ? "again" : "late";
  }

  /** Waits for the next attempt's time, or until the signal is aborted. Never rejects. */
  async wait(signal?: AbortSignal): Promise<void> {
    await this.#backoff.wait(signal);
  }
}
