/** Who is at the other end of a TLS connection. */
import { X509Certificate } from "node:crypto";
import type { TLSSocket } from "node:tls";
import type { Identity } from "../../identity/spiffe.ts";
import { peerIdentity } from "./settings.ts";

/** What a server found out of a caller. */
export interface Peer {
  /** Undefined: nobody known. */
  readonly identity?: Identity;
  /** Why it is nobody: a clause. */
  readonly stranger?: string;
}

/** Looks at the certificate of a caller whose handshake is over. */
export function peerOf(socket: TLSSocket, trustDomain: string): Peer {
  const identity = peerIdentity(socket, trustDomain);
  if (identity) return { identity };
  const { raw } = socket.getPeerCertificate() ?? {};
  if (!raw) return { stranger: "it shows no certificate" };
  if (socket.authorized !== true) return { stranger: `its certificate ${flaw(raw)}` };
  return { stranger: `its certificate names nobody of ${trustDomain}` };
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
