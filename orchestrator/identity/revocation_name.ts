import type { Identity } from "../../proto/identity/spiffe.ts";

/** Who can be locked out. */
export type Revocable = Extract<Identity, { kind: "user" | "operator" }>;

/**
 * By what the store knows somebody who is locked out: a user by the user id, an operator by a name with a slash, which no
 * user id has. So the operator ann and the user ann are locked out apart.
 */
export function revocationName(identity: Revocable): string {
  return identity.kind === "user" ? identity.userId : `operator/${identity.name}`;
}
