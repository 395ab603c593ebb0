/**
 * The server's end of mutual TLS: callers are handed over once it is known who they are.
 *
 * By node:tls, since Deno.listenTls cannot ask for a client's certificate.
 */
import type { AddressInfo, Socket } from "node:net";
import { createServer, type Server, type TLSSocket } from "node:tls";
import { sentence } from "../errors.ts";
import type { Credentials } from "../identity/credentials.ts";
import type { CallListener, OnCaller } from "../relay/server.ts";
import { peerIdentity, PROTOCOLS, secureContext } from "./settings.ts";
import { SocketTransport } from "./socket_transport.ts";

/** How long a caller may take for its handshake, in milliseconds. */
const HANDSHAKE_MS = 5_000;
/** Callers in mid-handshake at a time. The one that has taken longest goes when there are more. */
const MAX_HANDSHAKES = 64;
/** At most one refusal in so many milliseconds is reported: whoever can reach the port could fill the log. */
const REPORT_MS = 1_000;

/** Options of {@link TlsListener.listen}. */
export interface TlsListenerOptions {
  /** An IP address or name of this machine. */
  hostname: string;
  credentials: Credentials;
  /** Told why a caller was refused, in one sentence; not of each when there are many. */
  onRefused?(why: string): void;
  /** @default HANDSHAKE_MS */
  handshakeMs?: number;
  /** @default MAX_HANDSHAKES */
  maxHandshakes?: number;
}

/** See the file's head. A caller without a certificate of an identity in the trust domain gets no word from us. */
export class TlsListener implements CallListener {
  readonly #server: Server;
  readonly #options: TlsListenerOptions;
  #trustDomain: string;
  #onCaller?: OnCaller;
  /** Those in mid-handshake, in the order in which they came, by their address. */
  readonly #handshakes = new Map<string, Socket>();
  #reported = -Infinity;
  #unreported = 0;

  private constructor(options: TlsListenerOptions) {
    this.#options = options;
    this.#trustDomain = options.credentials.trustDomain;
    this.#server = createServer({
      ...secureContext(options.credentials),
      requestCert: true,
      rejectUnauthorized: true,
      ALPNProtocols: PROTOCOLS,
    });
    this.#server.on("connection", (socket) => this.#onConnection(socket));
    this.#server.on("secureConnection", (socket) => this.#onSecure(socket));
    this.#server.on("tlsClientError", (e, socket) => {
      socket.on("error", () => {});
      socket.destroy();
      this.#refused(
        (e as { code?: string }).code === "ECONNRESET"
          ? "the connection ended during the handshake, or its certificate is not valid or not of our authority"
          : sentence(e),
      );
    });
  }

  /** Starts to listen on a free port. Rejects with the system's error, or if the credentials are none. */
  static async listen(options: TlsListenerOptions): Promise<TlsListener> {
    const listener = new TlsListener(options);
    const server = listener.#server;
    await new Promise<void>((resolve, reject) => {
      server.once("error", reject);
      server.listen({ host: options.hostname, port: 0 }, resolve);
    });
    // A connection that broke before it was taken, or too many open files: neither ends the server.
    server.on("error", () => {});
    return listener;
  }

  get port(): number {
    return (this.#server.address() as AddressInfo).port;
  }

  /** Callers in mid-handshake. */
  get handshakes(): number {
    return this.#handshakes.size;
  }

  start(onCaller: OnCaller): void {
    this.#onCaller = onCaller;
  }

  /**
   * Uses other credentials from here on, for those who come. Who is there already stays. Throws if they are none, and
   * then the former ones stay.
   */
  replaceCredentials(credentials: Credentials): void {
    this.#server.setSecureContext(secureContext(credentials));
    this.#trustDomain = credentials.trustDomain;
  }

  close(): void {
    this.#server.close();
    for (const socket of this.#handshakes.values()) socket.destroy();
  }

  #onConnection(socket: Socket): void {
    const { handshakeMs = HANDSHAKE_MS, maxHandshakes = MAX_HANDSHAKES } = this.#options;
    const key = address(socket);
    this.#handshakes.set(key, socket);
    const timer = setTimeout(() => {
      if (this.#handshakes.get(key) === socket) socket.destroy();
    }, handshakeMs);
    socket.on("close", () => {
      clearTimeout(timer);
      if (this.#handshakes.get(key) === socket) this.#handshakes.delete(key);
    });
    if (this.#handshakes.size > maxHandshakes) {
      const [[oldest, longest]] = this.#handshakes;
      this.#handshakes.delete(oldest);
      longest.destroy();
    }
  }

  #onSecure(socket: TLSSocket): void {
    this.#handshakes.delete(address(socket));
    socket.setNoDelay(true);
    const transport = new SocketTransport(socket);
    const peer = peerIdentity(socket, this.#trustDomain);
    if (peer && socket.alpnProtocol === PROTOCOLS[0] && this.#onCaller) return this.#onCaller(transport, peer);
    transport.close();
    this.#refused(peer ? "it does not speak HTTP/2" : `its certificate names nobody in ${this.#trustDomain}`);
  }

  #refused(why: string): void {
    const now = performance.now();
    if (now - this.#reported < REPORT_MS) {
      this.#unreported++;
      return;
    }
    const others = this.#unreported > 0 ? ` (and ${this.#unreported} others before)` : "";
    this.#reported = now;
    this.#unreported = 0;
    this.#options.onRefused?.(`A caller was refused${others}: ${why}.`);
  }
}

function address({ remoteAddress, remotePort }: Socket): string {
  return `${remoteAddress} ${remotePort}`;
}
