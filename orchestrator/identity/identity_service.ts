import type {
  Identity as IdentityService,
  IssueCertificateRequest,
} from "../../proto/contract/gen/rbs/v1/identity_pb.ts";
import { sentence } from "../../proto/base/errors.ts";
import type { Identity } from "../../proto/identity/spiffe.ts";
import { type CallContext, Code, RpcError, type RpcImplementation } from "../../proto/transport/rpc/client.ts";
import { admit } from "../../proto/identity/access_rules.ts";
import type { CertificateAuthority } from "./certificate_authority.ts";
import type { Enroller } from "./enroller.ts";
import type { IdentityStore } from "../store/identity_store.ts";
import { revocationName } from "./revocation_name.ts";
import { checkUserName } from "./user_name.ts";

/** Parts of an {@link identityService}. */
export interface IdentityParts {
  readonly authority: CertificateAuthority;
  readonly enroller: Enroller;
  readonly store: IdentityStore;
  /** Whether a session has this agent. */
  hasAgent(agentId: string): Promise<boolean>;
}

/** Gives a certificate for a token. Throws an RpcError. */
export async function issueCertificate(
  { authority, enroller, store }: Omit<IdentityParts, "hasAgent">,
  { certificateRequest, token }: Pick<IssueCertificateRequest, "certificateRequest" | "token">,
) {
  const identity = await enroller.redeem(token);
  await refuseRevoked(store, identity);
  // Here as well, for it is the one door: whatever the enroller, and however old the token.
  if (identity.kind === "user") refuseUnclearName(identity.userId);
  if (identity.kind === "operator") refuseUnclearName(identity.name);
  return await certified(authority, certificateRequest, identity);
}

function refuseUnclearName(name: string): void {
  try {
    checkUserName(name);
  } catch (cause) {
    throw new RpcError(Code.INVALID_ARGUMENT, sentence(cause), cause);
  }
}

async function certified(authority: CertificateAuthority, request: Uint8Array, identity: Identity) {
  return { certificate: await authority.certify(request, identity), authorities: authority.authorities };
}

/** The service rbs.v1.Identity. */
export function identityService(parts: IdentityParts): RpcImplementation<typeof IdentityService> {
  return {
    issueCertificate: (request) => issueCertificate(parts, request),

    async renewCertificate({ certificateRequest }, { identity }) {
      if (!identity) throw new RpcError(Code.UNAUTHENTICATED, "Only who has a certificate can renew it.");
      if (identity.kind === "agent" && !await parts.hasAgent(identity.agentId)) {
        throw new RpcError(Code.PERMISSION_DENIED, "The agent's session has ended.");
      }
      return await certified(parts.authority, certificateRequest, identity);
    },
  };
}

/** Who may call the orchestrator: what the rules say, unless the caller is revoked. */
export function authorizer(store: IdentityStore): (path: string, context: CallContext) => void | Promise<void> {
  // Strangers at once, since nothing of what they send may be held meanwhile.
  return (path, context) => {
    admit(path, context);
    return context.identity && refuseRevoked(store, context.identity);
  };
}

async function refuseRevoked(store: IdentityStore, identity: Identity): Promise<void> {
  if (identity.kind !== "user" && identity.kind !== "operator") return;
  if (!await store.isRevoked(revocationName(identity))) return;
  const who = identity.kind === "user"
    ? `User ${JSON.stringify(identity.userId)}`
    : `Operator ${JSON.stringify(identity.name)}`;
  throw new RpcError(
    Code.PERMISSION_DENIED,
    `${who} was locked out by the orchestrator's operator (orchestrator revoke).`,
  );
}
