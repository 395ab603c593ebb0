/** How a program gets its certificates from the orchestrator: the first by a token, later ones by the one before. */
import { create } from "@bufbuild/protobuf";
import {
  Identity as IdentityService,
  type IssueCertificateRequest,
  IssueCertificateRequestSchema,
  type IssueCertificateResponse,
} from "../contract/gen/rbs/v1/identity_pb.ts";
import type { ClientTls } from "../transport/tls/channel_credentials.ts";
import { type NewKey, newKey } from "../identity/certificate_request.ts";
import type { Credentials } from "../identity/credentials.ts";

/** The issuer of certificates. */
export interface Issuer {
  /** "host:port". */
  readonly address: string;
  /** Timeout in milliseconds. @default 10000 */
  readonly timeoutMs?: number;
}

const TIMEOUT_MS = 10_000;
const EXPECTED = { kind: "orchestrator" } as const;

/**
 * Gets a certificate for a token. The private key is made here, and never leaves this program. Rejects as `ask` does.
 *
 * @param ask Sends the request to the issuer.
 */
export async function enrolBy(
  ask: (request: IssueCertificateRequest) => Promise<Pick<IssueCertificateResponse, "certificate" | "authorities">>,
  { trustDomain }: Pick<Credentials, "trustDomain">,
  token: string,
): Promise<Credentials> {
  const key = newKey();
  const request = create(IssueCertificateRequestSchema, { certificateRequest: key.request, token });
  return received(key, await ask(request), trustDomain);
}

/** The same by a gRPC call. Throws an RpcError. */
export async function enrol(
  { address, timeoutMs = TIMEOUT_MS }: Issuer,
  trusted: Pick<Credentials, "authorities" | "trustDomain">,
  token: string,
): Promise<Credentials> {
  using client = await clientAt(address, trusted);
  return await enrolBy((request) => client.issueCertificate(request, { timeoutMs }), trusted, token);
}

/**
 * Gets a new certificate with a new key for the holder of `credentials`, which must still be valid. Throws an RpcError.
 */
export async function renew(
  { address, timeoutMs = TIMEOUT_MS }: Issuer,
  credentials: Credentials,
): Promise<Credentials> {
  const key = newKey();
  using client = await clientAt(address, credentials);
  const answer = await client.renewCertificate({ certificateRequest: key.request }, { timeoutMs });
  return received(key, answer, credentials.trustDomain);
}

/** Loads grpc-js only when called: an agent needs it half an hour after its start, which it would delay by 20 ms. */
async function clientAt(address: string, credentials: ClientTls["credentials"]) {
  const { createRpcClient } = await import("../transport/rpc/client.ts");
  return createRpcClient(IdentityService, address, { tls: { credentials, expected: EXPECTED } });
}

function received(
  { privateKey }: NewKey,
  { certificate, authorities }: Pick<IssueCertificateResponse, "certificate" | "authorities">,
  trustDomain: string,
): Credentials {
  return { certificate, privateKey, authorities, trustDomain };
}
