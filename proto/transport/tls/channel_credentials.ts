/** Mutual TLS for the clients of our own services, which @grpc/grpc-js makes. */
import { type ChannelCredentials, credentials as grpcCredentials } from "@grpc/grpc-js";
import { createSecureContext } from "node:tls";
import type { Credentials } from "../../identity/credentials.ts";
import type { Identity } from "../../identity/spiffe.ts";
import { secureContext } from "./settings.ts";
import { mismatch } from "./trust.ts";

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
  /** Who must answer: one of those that serve. */
  readonly expected: Extract<Identity, { kind: keyof typeof SERVER_NAMES }>;
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
