/** Takes the place of proto/transport/tls/client.ts in the programs that the benchmark compares with ours: says who it is, in plain text. */
import { certificateIdentity } from "../../../proto/identity/certificate.ts";
import type { Transport } from "../../../proto/transport/transport.ts";
import type { Credentials } from "../../../proto/identity/credentials.ts";
import type { Identity } from "../../../proto/identity/spiffe.ts";

export interface TlsClientOptions {
  credentials: () => Credentials;
  expected: Identity;
}

export class TrustError extends Error {
  override readonly name = "TrustError";
}

/** Connects, and tells who it is in a line of JSON. */
export async function connectTls(
  hostname: string,
  port: number,
  { credentials }: TlsClientOptions,
  signal: AbortSignal,
): Promise<Transport> {
  const tcp = await Deno.connect({ hostname, port, signal });
  tcp.setNoDelay(true);
  const { certificate, trustDomain } = credentials();
  const own = certificateIdentity(der(certificate), trustDomain);
  const line = new TextEncoder().encode(`${JSON.stringify(own)}\n`);
  for (let at = 0; at < line.length;) at += await tcp.write(line.subarray(at));
  return tcp;
}

/** The bytes of the first certificate in a PEM text. */
function der(pem: string): Uint8Array {
  const base64 = pem.split("-----")[2].replace(/\s/g, "");
  return Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
}
