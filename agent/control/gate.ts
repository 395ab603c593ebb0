import type { Identity } from "../../proto/identity/spiffe.ts";
import { admit, type Caller, ruleOf } from "../../proto/identity/access_rules.ts";
import type { CallContext } from "../../proto/transport/rpc/client.ts";
import { Code, RpcError } from "../../proto/transport/rpc/error.ts";
import { bearer, sameSecret } from "../../proto/base/state_directory.ts";

/** What a {@link Gate} knows of its session. */
export interface GateOptions {
  /** The owner's: for commands. Empty: there is no owner yet, and nobody gets in as one. */
  accessToken: string;
  /** The session's current epoch. */
  epoch: number;
  /** The session's owner, a user id. */
  owner: string;
}

/**
 * Decides who may call, by the table of proto/identity/access_rules.ts. The owner has a certificate, and beside it shows
 * the access token and the epoch of its takeover; an older epoch is refused, so that somebody who has lost the session
 * cannot go on using it. Tokens are compared in constant time.
 */
export class Gate {
  #accessToken: string;
  #owner: string;
  #epoch: number;

  constructor({ accessToken, owner, epoch }: GateOptions) {
    this.#accessToken = accessToken;
    this.#owner = owner;
    this.#epoch = epoch;
  }

  /** The epoch below which calls are refused. */
  get epoch(): number {
    return this.#epoch;
  }

  /** Raises the epoch; a lower one changes nothing, since takeovers only ever count up. */
  raise(epoch: number): void {
    this.#epoch = Math.max(this.#epoch, epoch);
  }

  /** An agent that was started ahead gets its owner. */
  assign({ accessToken, owner, epoch }: GateOptions): void {
    this.#accessToken = accessToken;
    this.#owner = owner;
    this.raise(epoch);
  }

  /** Whether somebody has any business at this agent: its session's owner, and the orchestrator. */
  accepts(identity: Identity): boolean {
    return identity.kind === "orchestrator" ||
      (identity.kind === "user" && this.#owner !== "" && identity.userId === this.#owner);
  }

  /** {@link admit} for a call of our own gRPC. */
  authorize(path: string, context: CallContext): void {
    this.admit(path, context, context.metadata("authorization"), context.metadata("rbs-epoch"));
  }

  /**
   * Lets a caller pass, or throws an {@link RpcError}: UNAUTHENTICATED for a wrong token or no certificate,
   * PERMISSION_DENIED for somebody else's certificate, FAILED_PRECONDITION for a missing or older epoch. A newer epoch is
   * taken over: its owner may be here before the orchestrator's own message.
   *
   * @param path "/package.Service/Method".
   * @param caller Who the caller has proved to be.
   * @param authorization The `authorization` header.
   * @param epochHeader The `rbs-epoch` header: a decimal number.
   */
  admit(path: string, caller: Caller, authorization: string | undefined, epochHeader: string | undefined): void {
    try {
      admit(path, caller, this.#owner || undefined);
    } catch (e) {
      throw RpcError.from(e);
    }
    if (ruleOf(path) !== "owner") return;
    // An empty secret would let everybody in.
    if (this.#accessToken === "" || !sameSecret(this.#accessToken, bearer(authorization))) {
      throw new RpcError(Code.UNAUTHENTICATED, "This agent does not know the caller: the token is missing or wrong.");
    }
    const epoch = /^\d{1,10}$/.test(epochHeader ?? "") ? Number(epochHeader) : NaN;
    if (!(epoch >= this.#epoch)) {
      throw new RpcError(
        Code.FAILED_PRECONDITION,
        `This session was taken over (epoch ${this.#epoch}, and the call has ${
          Number.isNaN(epoch) ? "none" : epoch
        }): ask the orchestrator for it again.`,
      );
    }
    this.raise(epoch);
  }
}
