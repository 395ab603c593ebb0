/**
 * The right of one orchestrator process to hold sessions and agents: it lasts while its row is in the store. Another
 * orchestrator that sees no renewal for the lease's duration may end it, and then adopt what it held.
 */
export interface OrchestratorLease {
  /** Random; 32 lowercase hex digits. */
  readonly id: string;
  /** Its "HOST:PORT". */
  readonly address: string;
  /** Duration without a renewal, in milliseconds. */
  readonly durationMs: number;
  /**
   * End without a renewal, by the clock of its own orchestrator. Milliseconds since 1970. Others, whose clocks may
   * differ, only compare it with earlier values.
   */
  readonly expiresAt: number;
}

/** The leases of all orchestrators. Every method throws an RbsError when the storage fails. */
export interface LeaseStore {
  /** Starts an orchestrator's lease. */
  begin(lease: OrchestratorLease): Promise<void>;
  /**
   * Renews an orchestrator's lease, and with it the hold on everything that names it as holder, in one write.
   *
   * @returns false if the lease was ended, and others may hold what it held
   */
  renew(lease: OrchestratorLease): Promise<boolean>;
  /**
   * Ends a lease, unless it was renewed since it was read.
   *
   * @returns whether this call ended it
   */
  end(lease: OrchestratorLease): Promise<boolean>;
  /** All leases that were not ended, whether expired or not, by id. */
  list(): Promise<OrchestratorLease[]>;
}
