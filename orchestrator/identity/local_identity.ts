import { Code, RpcError } from "../../proto/rpc.ts";
import { bearer, sameSecret } from "../../proto/state.ts";

/** Decides who a caller is. */
export interface Identity {
  /**
   * Throws an RpcError with UNAUTHENTICATED when the caller is nobody known.
   *
   * @param authorization The caller's `authorization` metadata.
   */
  authenticate(authorization: string | undefined): Caller;
}

/** Someone who is known. */
export interface Caller {
  /** Throws an RpcError with PERMISSION_DENIED when the caller may not speak for this user. */
  actFor(userId: string): void;
}

/**
 * The identity of local mode: whoever can read the token in the state directory is the user of this machine that the
 * orchestrator runs for, under whatever name (`RBS_USER_ID`).
 */
export class LocalIdentity implements Identity {
  constructor(readonly token: string, readonly tokenFile: string) {}

  authenticate(authorization: string | undefined): Caller {
    if (!sameSecret(this.token, bearer(authorization))) {
      throw new RpcError(
        Code.UNAUTHENTICATED,
        `The caller does not show the token in ${this.tokenFile}; give it the same RBS_STATE_DIR as the orchestrator.`,
      );
    }
    return { actFor() {} };
  }
}
