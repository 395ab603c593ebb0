/** What the peer at the other end of a TLS connection shows for who it is. */
import { X509Certificate } from "node:crypto";
import type { TLSSocket } from "node:tls";
import type { Proof } from "../../identity/proof.ts";

/**
 * Looks at the certificate of a peer whose handshake is over.
 *
 * It is a second look, at the certificate itself: there were Denos that said `authorized` of peers without any
 * (denoland/deno#33367, #34366).
 */
export function shownProof(socket: TLSSocket): Proof {
  const { raw } = socket.getPeerCertificate() ?? {};
  if (!raw) return { kind: "nothing", why: "it shows no certificate" };
  if (socket.authorized !== true || socket.authorizationError) {
    return { kind: "nothing", why: `its certificate ${flaw(raw)}` };
  }
  return { kind: "certificate", der: raw };
}

/** What is wrong with a certificate that was not accepted: Deno has one error for all of it. */
function flaw(der: Uint8Array): string {
  const { validFromDate, validToDate } = new X509Certificate(der);
  const now = new Date();
  const clock = `by the clock there, which says ${now.toISOString()}`;
  if (now > validToDate) return `has expired at ${validToDate.toISOString()}, ${clock}`;
  if (now < validFromDate) return `is not valid before ${validFromDate.toISOString()}, ${clock}`;
  return "is not of the authority that is trusted here";
}
