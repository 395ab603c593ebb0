/** Mutual TLS for the clients of our own services, which @grpc/grpc-js makes. */
import { type ChannelCredentials, credentials as grpcCredentials } from "@grpc/grpc-js";
import { createSecureContext } from "node:tls";
import { certificateIdentity } from "../identity/certificate.ts";
import type { Credentials } from "../identity/credentials.ts";
import { type Identity, spiffeUri } from "../identity/spiffe.ts";
import { secureContext } from "./settings.ts";

/**
 * The names that are asked for in the handshake, whatever the address: there must be one, and Deno takes none that is an
 * address. Who the peer is its SPIFFE URI says, and no name.
 */
export const SERVER_NAMES = {
  orchestrator: "orchestrator.rbs.internal",
  agent: "agent.rbs.internal",
} as const;

/** Whom a client wants to reach, and as whom it comes. */
export interface ClientTls {
  /** Without a certificate of its own (who has none yet): only what it trusts. */
  readonly credentials: Credentials | Pick<Credentials, "authorities" | "trustDomain">;
  /** Who must answer. */
  readonly expected: Exclude<Identity, { kind: "user" }>;
}

/** What grpc-js makes connections with, and the name that it must ask for. */
export function channelTls({ credentials, expected }: ClientTls): { credentials: ChannelCredentials; name: string } {
  const { authorities, trustDomain } = credentials;
  const context = createSecureContext(
    "certificate" in credentials ? secureContext(credentials) : { ca: authorities, minVersion: "TLSv1.2" },
  );
  return {
    credentials: grpcCredentials.createFromSecureContext(context, {
      checkServerIdentity: (_, certificate) => mismatch(certificate.raw, trustDomain, expected),
    }),
    name: SERVER_NAMES[expected.kind],
  };
}

/** What {@link mismatch} and {@link trustFailure} know each other by, in a message that passes through grpc-js. */
const NOT_EXPECTED = "it is not ";

function mismatch(der: Uint8Array | undefined, trustDomain: string, expected: Identity): Error | undefined {
  const found = der && certificateIdentity(der, trustDomain);
  const wanted = spiffeUri(trustDomain, expected);
  const uri = found && spiffeUri(trustDomain, found);
  if (uri === wanted) return undefined;
  return new Error(`${NOT_EXPECTED}${wanted} that answers there, but ${uri ?? `nobody of ${trustDomain}`}`);
}

/**
 * Why there is no trust between the two ends, if that is what the text of a failed connection says: one clause for a
 * person. Undefined for all else, such as nobody who listens.
 */
export function trustFailure(details: string): string | undefined {
  const at = details.indexOf(NOT_EXPECTED);
  if (at >= 0) return details.slice(at).replace(/ Resolution note:.*$/s, "").replace(/[.\s]+$/, "");
  if (/wrong version number|InvalidContentType/i.test(details)) {
    return "what listens there does not speak TLS, so it is no RBS of this version";
  }
  const why = /((?:self.signed|unable to (?:verify|get)|certificate (?:has|is)|CERT_|invalid peer certificate)[^.]*)/i
    .exec(details)?.[1];
  return why && `its certificate is not valid, or not of the authority that this side trusts (${why.trim()})`;
}
