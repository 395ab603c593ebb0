/**
 * The right of one life of an orchestrator to hold what others could hold as well: it has it for as long as its row is in
 * the store. Whoever sees that it was not renewed for its duration may end it, and then adopt what it held.
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

/** The leases of all orchestrators. Every method throws an RbsError when the storage fails. */
export interface LeaseStore {
  /** Begins an orchestrator's lease. */
  begin(lease: OrchestratorLease): Promise<void>;
  /**
   * Renews an orchestrator's lease, and so its hold on all that names it as its holder, in one write.
   *
   * @returns false: it was ended, and what it held may be others'.
   */
  renew(lease: OrchestratorLease): Promise<boolean>;
  /**
   * Ends a lease, if it was not renewed since it was read.
   *
   * @returns Whether this call ended it.
   */
  end(lease: OrchestratorLease): Promise<boolean>;
  /** All leases that nobody has ended, whether they have run out or not, by id. */
  list(): Promise<OrchestratorLease[]>;
}
