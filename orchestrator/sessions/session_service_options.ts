import type { BackoffClock } from "../../proto/base/backoff.ts";
import type { AgentRunnerOptions } from "../agents/agent_runner.ts";
import type { WarmPool } from "../agents/warm_pool.ts";
import type { ComputeChoice } from "../compute/compute_choice.ts";
import type { OwnLeaseOptions } from "../peers/orchestrator_lease.ts";
import type { AgentLimits } from "../store/agent_limits.ts";
import type { LeaseStore } from "../store/lease_store.ts";
import type { DecisionRules } from "./decision.ts";

/** Options of SessionService. */
export interface SessionServiceOptions
  extends Omit<AgentRunnerOptions, "steps" | "lease" | "pool" | "compute">, DecisionRules {
  readonly compute: ComputeChoice;
  readonly leases: LeaseStore;
  /** Agents started ahead. @default none */
  readonly pool?: WarmPool;
  /** How this orchestrator shares the store with others. @default alone, without an address, with a lease of 10 s */
  readonly orchestrator?: Pick<OwnLeaseOptions, "address" | "durationMs" | "isGone">;
  /** A session without heartbeats and commands for this long is ended. Milliseconds. */
  readonly idleTimeoutMs: number;
  /**
   * The same for a session beside a workspace's main one, such as an IDE's, since its last command. Milliseconds.
   * @default 900_000
   */
  readonly secondIdleTimeoutMs?: number;
  /** How long running commands get when their agent is ended. Milliseconds. */
  readonly stopGraceMs: number;
  /** Callers beyond these limits queue. @default no limits */
  readonly limits?: AgentLimits;
  /** See StartQueueOptions. */
  readonly lookAgainMs?: number;
  /** Interval at which sessions without a served agent are looked for. Milliseconds. @default 60_000 */
  readonly sweepIntervalMs?: number;
  /** The clock between attempts to start an agent, for tests. */
  readonly backoffClock?: BackoffClock;
}
