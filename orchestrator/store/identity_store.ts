/** What an enrolment token stands for. */
export interface Enrolment {
  /** The SPIFFE URI that the certificate will have. */
  readonly uri: string;
  /** After that the token is worth nothing. Milliseconds since 1970. */
  readonly expiresAt: number;
}

/**
 * Tokens that have not been used, and users and operators who are locked out. Of a token only its SHA-256 is kept (as hex): whoever
 * reads the store cannot become anybody.
 *
 * Every method throws an RbsError when the storage fails.
 */
export interface IdentityStore {
  /** Keeps a token. Those that have expired by `now` go. Milliseconds since 1970. */
  addToken(tokenHash: string, enrolment: Enrolment, now: number): Promise<void>;
  /**
   * Takes a token out, so that of any number of callers one gets it. @returns undefined: it is not there, or has expired
   */
  takeToken(tokenHash: string, now: number): Promise<Enrolment | undefined>;
  /**
   * Locks somebody out, or (`at` undefined) lets in again. Tokens of one who is locked out go.
   *
   * @param userId A user's id; of an operator, see identity/revocation_name.ts.
   * @param uri The SPIFFE URI that the tokens are for.
   * @param at Milliseconds since 1970.
   * @returns how many tokens went
   */
  revoke(userId: string, uri: string, at: number | undefined): Promise<number>;
  /** Whether somebody is locked out. What other orchestrators' stores decided is known within a second. */
  isRevoked(userId: string): Promise<boolean>;
  /** All who are locked out. */
  revokedUsers(): Promise<string[]>;
}
