import type { Identity } from "../proto/identity/spiffe.ts";
import { bearer, sameSecret } from "../proto/state.ts";
import { Code, RpcError } from "../proto/rpc.ts";

/** What a {@link Gate} knows at the start. */
export interface GateOptions {
  /** The owner's: for commands. Empty: there is no owner yet, and nobody gets in as one. */
  accessToken: string;
  /** The orchestrator's: for Supervise. */
  controlToken: string;
  /** The session's current epoch. */
  epoch: number;
  /**
   * The session's owner, a user id: who calls must have proved to be that user, by a certificate, and have the token
   * beside it. @default the token is enough
   */
  owner?: string;
}

/**
 * Decides who may call. The owner has a certificate, if there are any, and shows the access token and the epoch of its
 * takeover; an older epoch is refused, so that somebody who has lost the session cannot go on using it. Tokens are compared
 * in constant time.
 */
export class Gate {
  readonly #controlToken: string;
  #accessToken: string;
  #owner?: string;
  #epoch: number;

  constructor(options: GateOptions) {
    this.#controlToken = options.controlToken;
    this.#accessToken = options.accessToken;
    this.#owner = options.owner;
    this.#epoch = options.epoch;
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
  assign({ accessToken, owner, epoch }: Omit<GateOptions, "controlToken">): void {
    this.#accessToken = accessToken;
    this.#owner = owner;
    this.raise(epoch);
  }

  /**
   * Lets the owner pass, or throws an {@link RpcError}: UNAUTHENTICATED for a wrong token or no certificate,
   * PERMISSION_DENIED for somebody else's certificate, FAILED_PRECONDITION for a missing or older epoch. A newer epoch is
   * taken over: its owner may be here before the orchestrator's own message.
   *
   * @param authorization The `authorization` header.
   * @param epochHeader The `rbs-epoch` header: a decimal number.
   * @param peer Who the caller has proved to be.
   */
  admit(authorization: string | undefined, epochHeader: string | undefined, peer?: Identity): void {
    this.#identify(peer);
    this.#authenticate(this.#accessToken, authorization);
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

  /** Lets the orchestrator pass, or throws an {@link RpcError} with UNAUTHENTICATED. */
  admitControl(authorization: string | undefined): void {
    this.#authenticate(this.#controlToken, authorization);
  }

  #identify(peer: Identity | undefined): void {
    const owner = this.#owner;
    if (owner === undefined) return;
    if (!peer) throw new RpcError(Code.UNAUTHENTICATED, "This agent takes nobody without a certificate.");
    if (peer.kind !== "user" || peer.userId !== owner) {
      const who = peer.kind === "user" ? `the user ${peer.userId}` : `the ${peer.kind}`;
      throw new RpcError(
        Code.PERMISSION_DENIED,
        `This agent takes commands from its session's owner only, and not from ${who}: use the owner's certificate.`,
      );
    }
  }

  #authenticate(expected: string, authorization: string | undefined): void {
    // An empty secret would let everybody in.
    if (expected === "" || !sameSecret(expected, bearer(authorization))) {
      throw new RpcError(Code.UNAUTHENTICATED, "This agent does not know the caller: the token is missing or wrong.");
    }
  }
}
