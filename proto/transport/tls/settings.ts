/** What both ends of our TLS have in common. */
import { createPrivateKey, X509Certificate } from "node:crypto";
import type { SecureContextOptions } from "node:tls";
import { RbsError, sentence } from "../../base/errors.ts";
import type { Credentials } from "../../identity/credentials.ts";

/** The one protocol that is spoken in it: HTTP/2. */
export const PROTOCOLS = ["h2"];

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
