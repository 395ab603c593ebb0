/** Gets the authority's certificate, whose SHA-256 is known, from an orchestrator that is not trusted yet. */
import { createHash } from "node:crypto";
import { connect, type DetailedPeerCertificate } from "node:tls";
import { parseHostPort } from "../base/host_port.ts";
import { RbsError, sentence } from "../base/errors.ts";
import { SERVER_NAMES } from "../transport/tls/channel_credentials.ts";

/** Maximum length of a certificate chain. */
const DEPTH = 8;

/** SHA-256 of a certificate, as hex. @param der X.509. */
export function fingerprint(der: Uint8Array): string {
  return createHash("sha256").update(der).digest("hex");
}

/**
 * Connects to `address` and returns the certificate with that fingerprint from the peer's chain. Nothing else is
 * trusted, and nothing is sent. Throws an RbsError.
 *
 * @returns PEM
 */
export async function discoverAuthority(address: string, wanted: string, timeoutMs = 10_000): Promise<string> {
  const at = parseHostPort(address);
  const failed = (why: string, cause?: unknown) =>
    new RbsError(`The orchestrator at ${address} cannot be asked for its certificate: ${why}.`, {
      cause,
      culprit: "caller",
      exitCode: 36,
    });
  const found = Promise.withResolvers<Uint8Array>();
  const socket = connect({
    host: at?.host,
    port: at?.port ?? NaN,
    servername: SERVER_NAMES.orchestrator,
    ALPNProtocols: ["h2"],
    // Nothing is trusted before its fingerprint is compared, and only certificates are read.
    rejectUnauthorized: false,
    minVersion: "TLSv1.2",
  });
  const timer = setTimeout(() => found.reject(failed("it does not answer")), timeoutMs);
  socket.on("error", (e) => found.reject(failed(sentence(e), e)));
  socket.on("close", () => found.reject(failed("it has hung up")));
  socket.on("secureConnect", () => {
    let certificate: DetailedPeerCertificate | undefined = socket.getPeerCertificate(true);
    for (let depth = 0; certificate?.raw && depth < DEPTH; depth++) {
      if (fingerprint(certificate.raw) === wanted) return found.resolve(certificate.raw);
      certificate = certificate.issuerCertificate;
    }
    found.reject(
      new RbsError(
        `What listens at ${address} is not the orchestrator that issued the token (none of its certificates has the ` +
          `SHA-256 that the token names): ask for a new token, and check who is in the network between.`,
        { culprit: "caller", exitCode: 36 },
      ),
    );
  });
  try {
    const der = await found.promise;
    const base64 = btoa(Array.from(der, (byte) => String.fromCharCode(byte)).join(""));
    return `-----BEGIN CERTIFICATE-----\n${base64.replace(/.{64}/g, "$&\n").trimEnd()}\n-----END CERTIFICATE-----\n`;
  } finally {
    clearTimeout(timer);
    socket.removeAllListeners();
    socket.on("error", () => {});
    socket.destroy();
  }
}
