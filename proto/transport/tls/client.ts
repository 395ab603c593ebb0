/**
 * The client's end of mutual TLS: connects, proves who it is, and makes sure whom it has reached.
 *
 * By node:tls. Deno.connectTls takes two thirds of the time for much data, but cannot be used: it trusts the system's
 * authorities beside ours, tells nothing of the peer's certificate, and looks the certificate's name up in DNS.
 */
import { X509Certificate } from "node:crypto";
import type { OnReadOpts } from "node:net";
import { connect } from "node:tls";
import { sentence } from "../../base/errors.ts";
import type { Transport } from "../transport.ts";
import { certificateIdentity } from "../../identity/certificate.ts";
import type { Credentials } from "../../identity/credentials.ts";
import { identify } from "../../identity/proof.ts";
import { type Identity, spiffeUri } from "../../identity/spiffe.ts";
import { clockDoubt } from "./clocks.ts";
import { HTTP_2, secureContext } from "./settings.ts";
import { shownProof } from "./shown_proof.ts";
import { SocketTransport } from "./socket_transport.ts";

/**
 * The name that is asked for in the handshake, whatever the address: who the peer must be its SPIFFE URI says, and no
 * name. (There must be one: Deno takes none that is an address.)
 */
const SERVER_NAME = "agent.rbs.internal";
/** The most that is received at once, in bytes. */
const READ_BYTES = 256 << 10;

/** How a connection is made with TLS. */
export interface TlsClientOptions {
  /** Called for each connection, so that they may change. */
  credentials: () => Credentials;
  /** Who the peer must be, whatever its address. */
  expected: Identity;
}

/** The peer is not who it must be, or does not take us for who we are. `message` is a clause without a full stop. */
export class TrustError extends Error {
  override readonly name = "TrustError";

  /** @param clocks It is the clocks: to try again does not help. */
  constructor(message: string, options?: ErrorOptions, readonly clocks = false) {
    super(message, options);
  }
}

/**
 * Connects. Resolves when both ends have accepted each other: then the peer's first bytes are there. (In TLS 1.3 a
 * handshake is over for the client before the server has looked at its certificate.)
 *
 * Rejects with a {@link TrustError}, with the system's error, or with the signal's reason.
 *
 * @param hostname An IP address (v6 without brackets) or a name.
 */
export async function connectTls(
  hostname: string,
  port: number,
  { credentials, expected }: TlsClientOptions,
  signal: AbortSignal,
): Promise<Transport> {
  signal.throwIfAborted();
  const { own, context } = usable(credentials);
  // Into the same memory again and again: that takes two thirds of the time of a new piece for each read.
  const onread: OnReadOpts = {
    buffer: new Uint8Array(READ_BYTES),
    callback(length, buffer) {
      transport.receive(buffer.subarray(0, length));
      return true;
    },
  };
  const socket = connect({
    host: hostname,
    port,
    ...context,
    servername: SERVER_NAME,
    ALPNProtocols: [HTTP_2],
    rejectUnauthorized: true,
    ...{ onread },
    checkServerIdentity: (_, certificate) => mismatch(certificate.raw, own.trustDomain, expected),
  });
  const transport = new SocketTransport(socket, { flows: false });
  const settled = Promise.withResolvers<Transport>();
  let connected = false, secure = false;
  const onAbort = () => settled.reject(signal.reason);
  const failed = (e?: Error) => settled.reject(explain(e, { connected, secure, own }));
  signal.addEventListener("abort", onAbort);
  socket.on("connect", () => connected = true);
  socket.on("error", failed);
  socket.on("close", () => failed());
  socket.on("secureConnect", () => {
    secure = true;
    const wrong = mismatch(socket.getPeerCertificate()?.raw, own.trustDomain, expected) ??
      (identify(shownProof(socket), own.trustDomain).identity
        ? undefined
        : new TrustError("the peer's certificate is not verified")) ??
      (socket.alpnProtocol === HTTP_2 ? undefined : new TrustError("the peer does not speak HTTP/2 in TLS"));
    if (wrong) return settled.reject(wrong);
    socket.setNoDelay(true);
    transport.readable().then((alive) => alive ? settled.resolve(transport) : failed(), failed);
  });
  try {
    return await settled.promise;
  } catch (e) {
    socket.destroy(); // its errors are listened to, and change nothing any more
    const doubt = isUnverified(e) ? await clockDoubt(hostname, port, SERVER_NAME) : undefined;
    throw doubt ? new TrustError(doubt, { cause: e }, true) : e;
  } finally {
    signal.removeEventListener("abort", onAbort);
  }
}

function usable(credentials: () => Credentials) {
  try {
    const own = credentials();
    return { own, context: secureContext(own) };
  } catch (cause) {
    throw new TrustError(sentence(cause), { cause });
  }
}

function mismatch(der: Uint8Array | undefined, trustDomain: string, expected: Identity): TrustError | undefined {
  const found = der && certificateIdentity(der, trustDomain);
  const wanted = spiffeUri(trustDomain, expected);
  if (!found) return new TrustError(`the peer's certificate names nobody in ${trustDomain}, and not ${wanted}`);
  const uri = spiffeUri(trustDomain, found);
  if (uri !== wanted) return new TrustError(`it is not ${wanted} that answers there, but ${uri}`);
}

/** The codes of a peer's certificate that was not believed. */
const UNVERIFIED = /CERT|VERIFY|ISSUER/;

function isUnverified(e: unknown): boolean {
  return e instanceof TrustError && UNVERIFIED.test((e.cause as { code?: string } | undefined)?.code ?? "");
}

/** What an error of the system or of TLS means. Without one, the connection has ended. */
function explain(error: Error | undefined, at: { connected: boolean; secure: boolean; own: Credentials }): Error {
  const code = (error as { code?: string } | undefined)?.code ?? "";
  const said = error ? ` (${sentence(error)})` : "";
  // Of several addresses of a name, node tells in an error without a text.
  if (code === "ECONNREFUSED") return new Error("connection refused", { cause: error });
  if (error instanceof TrustError || (error && !at.connected)) return error;
  if (at.secure || code.includes("_ALERT_")) {
    return new TrustError(`the peer does not accept this side's certificate, ${doubt(at.own.certificate)}${said}`, {
      cause: error,
    });
  }
  if (code === "ERR_SSL_WRONG_VERSION_NUMBER") {
    return new TrustError("what answers there does not speak TLS: look whether it is an RBS agent of this version", {
      cause: error,
    });
  }
  if (UNVERIFIED.test(code)) {
    return new TrustError(
      "the peer's certificate is expired, not valid yet, or not of an authority that this side trusts: " +
        `look at both clocks and at where both have their certificates from${said}`,
      { cause: error },
    );
  }
  return new Error(`the connection ended during the TLS handshake${said}`, { cause: error });
}

/** What may be wrong with our own certificate. */
function doubt(pem: string): string {
  const { validFromDate, validToDate } = new X509Certificate(pem);
  const now = new Date();
  if (now > validToDate) return `which expired at ${validToDate.toISOString()}: get a new one`;
  if (now < validFromDate) return `which is valid from ${validFromDate.toISOString()}: look at this machine's clock`;
  return "which is not of an authority that it trusts, or not valid by its clock";
}
