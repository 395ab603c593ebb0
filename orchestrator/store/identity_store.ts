/** The meaning of an enrolment token. */
export interface Enrolment {
  /** The SPIFFE URI that the certificate will have. */
  readonly uri: string;
  /** Afterwards the token is invalid. Milliseconds since 1970. */
  readonly expiresAt: number;
}

/**
 * Unused tokens, and users and operators who are locked out. Only a token's SHA-256 is stored (as hex), so that a reader
 * of the store cannot enrol.
 *
 * Every method throws an RbsError when the storage fails.
 */
export interface IdentityStore {
  /** Stores a token, and removes those that have expired by `now`. Milliseconds since 1970. */
  addToken(tokenHash: string, enrolment: Enrolment, now: number): Promise<void>;
  /** Removes a token, so that only one caller gets it. @returns undefined if it does not exist or has expired */
  takeToken(tokenHash: string, now: number): Promise<Enrolment | undefined>;
  /**
   * Locks a user or operator out and removes the tokens, or (`at` undefined) ends the lock-out.
   *
   * @param userId A user's id; of an operator, see identity/revocation_name.ts.
   * @param uri The SPIFFE URI that the tokens are for.
   * @param at Milliseconds since 1970.
   * @returns how many tokens were removed
   */
  revoke(userId: string, uri: string, at: number | undefined): Promise<number>;
  /** Whether a user or operator is locked out. Decisions of other orchestrators' stores are known within a second. */
  isRevoked(userId: string): Promise<boolean>;
  /** All who are locked out. */
  revokedUsers(): Promise<string[]>;
}
