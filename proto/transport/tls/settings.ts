/** What both ends of our TLS have in common. */
import { createPrivateKey, X509Certificate } from "node:crypto";
import type { SecureContextOptions } from "node:tls";
import { RbsError, sentence } from "../../base/errors.ts";
import type { Credentials } from "../../identity/credentials.ts";

/** What is spoken in it, by its name in ALPN (RFC 7301, 6). */
export type Protocol = "h2" | "http/1.1";

/** What RBS's programs speak with each other. */
export const HTTP_2: Protocol = "h2";

/**
 * For node:tls, which takes anything and fails only when somebody connects; so what cannot work is refused here, with an
 * {@link RbsError}. The system's own authorities count for nothing.
 */
export function secureContext(credentials: Credentials): SecureContextOptions {
  const { certificate, privateKey, authorities } = credentials;
  try {
    if (!new X509Certificate(certificate).checkPrivateKey(createPrivateKey(privateKey))) {
      throw new RbsError("the private key is that of another one");
    }
    // With none at all, node:tls would trust the system's.
    new X509Certificate(authorities);
  } catch (cause) {
    throw new RbsError(
      `The certificate, its private key or its authorities cannot be used (${sentence(cause)}): get a new certificate.`,
      { cause },
    );
  }
  return { cert: certificate, key: privateKey, ca: authorities, minVersion: "TLSv1.2" };
}
