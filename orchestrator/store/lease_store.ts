/**
 * The right of one life of an orchestrator to hold sessions: it has it for as long as its row is in the store. Whoever
 * sees that it was not renewed for its duration may end it, and then adopt what it held.
 */
export interface OrchestratorLease {
  /** Random; 32 lowercase hex digits. */
  readonly id: string;
  /** Where it listens: "HOST:PORT". */
  readonly address: string;
  /** How long it lasts if it is not renewed. Milliseconds. */
  readonly durationMs: number;
  /**
   * When it ends if it is not renewed, by the clock of its own orchestrator. Milliseconds since 1970. Others, whose clocks
   * may differ, only compare it with what they saw before.
   */
  readonly expiresAt: number;
}
