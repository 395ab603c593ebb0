import { createHash, randomBytes } from "node:crypto";
import { type Identity, parseSpiffeUri, spiffeUri } from "../../proto/identity/spiffe.ts";
import { Code, RpcError } from "../../proto/transport/rpc/client.ts";
import type { IdentityStore } from "../store/identity_store.ts";
import { checkUserName } from "./user_name.ts";

/**
 * Decides whom a token makes of its bearer. Tokens of our own are one way ({@link TokenEnroller}); the tokens of an
 * OpenID provider could be another.
 */
export interface Enroller {
  /** Takes a token. Throws an RpcError with UNAUTHENTICATED when it is worth nothing (any more). */
  redeem(token: string): Promise<Identity>;
}

/** Tokens that were made here, each good for one certificate. */
export class TokenEnroller implements Enroller {
  /** @param now Milliseconds since 1970. */
  constructor(readonly store: IdentityStore, readonly trustDomain: string, readonly now: () => number = Date.now) {}

  /** Makes a token. Throws an RbsError if nobody can have that name. @param lifetimeMs Milliseconds. */
  async issue(identity: Identity, lifetimeMs: number): Promise<string> {
    if (identity.kind === "user") checkUserName(identity.userId);
    if (identity.kind === "operator") checkUserName(identity.name);
    const token = randomBytes(32).toString("base64url");
    const now = this.now();
    const uri = spiffeUri(this.trustDomain, identity);
    await this.store.addToken(hash(token), { uri, expiresAt: now + lifetimeMs }, now);
    return token;
  }

  async redeem(token: string): Promise<Identity> {
    const enrolment = token === "" ? undefined : await this.store.takeToken(hash(token), this.now());
    const identity = enrolment && parseSpiffeUri(this.trustDomain, enrolment.uri);
    if (!identity) {
      throw new RpcError(
        Code.UNAUTHENTICATED,
        "This orchestrator does not know the token: it was used before, is too old, or is of another orchestrator; ask for a new one.",
      );
    }
    return identity;
  }
}

function hash(token: string): string {
  return createHash("sha256").update(token).digest("hex");
}
