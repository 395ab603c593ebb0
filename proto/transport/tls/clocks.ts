/**
 * Clocks that are far apart, the reason for which two machines of one authority do not believe each other. Deno has one
 * error for a certificate that is not valid yet, one that has expired, and one of another authority, so the certificate
 * itself is looked at.
 */
import { X509Certificate } from "node:crypto";
import { connect } from "node:tls";
import { HTTP_2 } from "./settings.ts";

/** How long the look at a certificate may take. Milliseconds. */
const LOOK_MS = 2_000;

/**
 * Whether a peer was not believed because of the clocks: a clause that says what its certificate and this machine's clock
 * say, or undefined for any other reason. Connects once more, and sends nothing. Only for messages: nobody has proved
 * anything.
 *
 * @param hostname An IP address (v6 without brackets) or a name.
 * @param servername The name that is asked for in the handshake.
 */
export async function clockDoubt(
  hostname: string,
  port: number,
  servername: string,
): Promise<string | undefined> {
  const found = Promise.withResolvers<Uint8Array | undefined>();
  const socket = connect({ host: hostname, port, servername, ALPNProtocols: [HTTP_2], rejectUnauthorized: false });
  const nothing = () => found.resolve(undefined);
  const late = setTimeout(nothing, LOOK_MS);
  socket.on("secureConnect", () => found.resolve(socket.getPeerCertificate(true)?.raw));
  socket.on("error", nothing);
  socket.on("close", nothing);
  try {
    const raw = await found.promise;
    return raw && certificateDoubt(raw);
  } finally {
    clearTimeout(late);
    socket.destroy();
  }
}

function certificateDoubt(der: Uint8Array): string | undefined {
  const { validFromDate: from, validToDate: to } = new X509Certificate(der);
  const now = new Date();
  if (now >= from && now <= to) return undefined;
  return `its certificate is valid from ${from.toISOString()} to ${to.toISOString()}, and this machine's clock says ` +
    now.toISOString();
}
