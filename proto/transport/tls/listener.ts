/**
 * The server's end of mutual TLS: callers are handed over once it is known who they are, or that they are nobody known.
 *
 * By node:tls, since Deno.listenTls cannot ask for a client's certificate.
 */
import { Buffer } from "node:buffer";
import { type AddressInfo, createServer as createTcpServer, type Server as TcpServer, type Socket } from "node:net";
import { createServer, type Server, type TLSSocket } from "node:tls";
import { type Admission, AdmissionControl, type AdmissionLimits, BACKLOG } from "../admission.ts";
import { sentence } from "../../base/errors.ts";
import type { Credentials } from "../../identity/credentials.ts";
import { identify } from "../../identity/proof.ts";
import { type Identity, identityName } from "../../identity/spiffe.ts";
import type { AcceptedConnection, Listener } from "../listener.ts";
import { type Handshake, HandshakeTurns } from "./handshake_turns.ts";
import { networkOf } from "./network.ts";
import { HTTP_2, type Protocol, secureContext } from "./settings.ts";
import { shownProof } from "./shown_proof.ts";
import { SocketTransport } from "./socket_transport.ts";

/** Options of {@link TlsListener.listen}. */
export interface TlsListenerOptions {
  /** An IP address or name of this machine. */
  hostname: string;
  /** @default 0: a free one */
  port?: number;
  credentials: Credentials;
  /** What is served: who does not ask for it in the handshake is cut off. @default HTTP_2 */
  protocol?: Protocol;
  /**
   * Lets callers speak who have no certificate that counts: within a stranger's limits, until they are admitted.
   * @default false: their connection ends
   */
  admitStrangers?: boolean;
  /** Whether somebody known has any business here; who has not is cut off before a word. @default everybody has */
  accepts?(identity: Identity): boolean;
  limits?: Partial<AdmissionLimits>;
  /** Told why a caller was refused, in one sentence; not of each when there are many. */
  onRefused?(why: string): void;
}

/**
 * See the file's head. A caller without a certificate of an identity in the trust domain gets no word from us, unless
 * strangers are admitted.
 */
export class TlsListener implements Listener {
  /** Takes connections: one whose hello is not whole yet costs a socket, and none of TLS's buffers. */
  readonly #tcp: TcpServer;
  readonly #server: Server;
  readonly #options: TlsListenerOptions;
  #trustDomain: string;
  #serve?: (connection: AcceptedConnection) => void;
  /** What its callers cost. */
  readonly admission: AdmissionControl;
  /** Those in mid-handshake, by their address. */
  readonly #handshakes = new Map<string, { socket: Socket; admission: Admission; turn?: Handshake }>();
  readonly #turns = new HandshakeTurns();

  private constructor(options: TlsListenerOptions) {
    this.#options = options;
    this.#trustDomain = options.credentials.trustDomain;
    this.admission = new AdmissionControl(options.limits, options.onRefused);
    this.#server = createServer({
      ...secureContext(options.credentials),
      requestCert: true,
      rejectUnauthorized: !options.admitStrangers,
      ALPNProtocols: [options.protocol ?? HTTP_2],
    });
    // Admission says how long a handshake may take. The server's own timer, 120 s unless it is told otherwise (and 0 is
    // taken for that), outlives a connection that was cut, and holds 25 kB of it and all that TLS has.
    (this.#server as Server & { _handshakeTimeout: number })._handshakeTimeout = 0;
    this.#tcp = createTcpServer((socket) => this.#onConnection(socket));
    this.#server.on("secureConnection", (socket) => this.#onSecure(socket));
    this.#server.on("tlsClientError", (e, socket) => {
      socket.on("error", () => {});
      socket.destroy();
      this.admission.refused(
        (e as { code?: string }).code === "ECONNRESET"
          ? "the connection ended during the handshake, or its certificate is not valid or not of our authority"
          : sentence(e),
      );
    });
  }

  /** Starts to listen. Rejects with the system's error, or if the credentials are none. */
  static async listen(options: TlsListenerOptions): Promise<TlsListener> {
    const listener = new TlsListener(options);
    const server = listener.#tcp;
    await new Promise<void>((resolve, reject) => {
      server.once("error", reject);
      server.listen({ host: options.hostname, port: options.port ?? 0, backlog: BACKLOG }, resolve);
    });
    // A connection that broke before it was taken, or too many open files: neither ends the server.
    server.on("error", () => {});
    return listener;
  }

  get port(): number {
    return (this.#tcp.address() as AddressInfo).port;
  }

  start(serve: (connection: AcceptedConnection) => void): void {
    this.#serve = serve;
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
    this.#tcp.close();
    for (const { socket } of this.#handshakes.values()) socket.destroy();
  }

  #onConnection(socket: Socket): void {
    const origin = networkOf(socket.remoteAddress ?? "");
    const admission = this.admission.enter(() => entry.socket.destroy(), origin);
    if (!admission) return void socket.destroy();
    const key = address(socket);
    const entry: { socket: Socket; admission: Admission; turn?: Handshake } = { socket, admission };
    this.#handshakes.set(key, entry);
    socket.on("close", () => {
      admission.end();
      if (entry.turn) this.#turns.remove(entry.turn);
      if (this.#handshakes.get(key) === entry) this.#handshakes.delete(key);
    });
    socket.on("error", () => {}); // It is closed then.
    const parts: Buffer[] = [];
    const take = (part: Buffer) => {
      parts.push(part);
      const beginning = parts.length === 1 ? part : Buffer.concat(parts);
      const missing = missingOfHello(beginning);
      if (missing > 0) return;
      socket.off("data", take);
      if (missing < 0) {
        this.admission.refused("it does not speak TLS");
        return void socket.end(UNEXPECTED_MESSAGE);
      }
      socket.pause();
      entry.turn = {
        address: origin,
        begin: () => {
          if (socket.destroyed) return;
          socket.unshift(beginning);
          this.#server.emit("connection", socket);
        },
        cut: () => socket.destroy(),
      };
      this.#turns.add(entry.turn);
    };
    socket.on("data", take);
  }

  #onSecure(socket: TLSSocket): void {
    const key = address(socket);
    const entry = this.#handshakes.get(key);
    this.#handshakes.delete(key);
    const { accepts = () => true, admitStrangers = false, protocol = HTTP_2 } = this.#options;
    const caller = identify(shownProof(socket), this.#trustDomain);
    const { identity } = caller;
    const refusal = socket.alpnProtocol !== protocol
      ? `it does not speak ${protocol}`
      : !identity && !admitStrangers
      ? caller.stranger
      : identity && !accepts(identity)
      ? `${identityName(identity)} has no business here`
      : undefined;
    if (entry && this.#serve && refusal === undefined) {
      const { admission } = entry;
      if (entry.turn) this.#turns.remove(entry.turn);
      // What is destroyed from here on is the socket with TLS.
      entry.socket = socket;
      socket.on("close", () => admission.end());
      admission.secured();
      if (!identity || admission.admit(identityName(identity))) {
        socket.setNoDelay(true);
        const transport = new SocketTransport(socket, { onReceived: (bytes) => admission.received(bytes) });
        return this.#serve({ transport, admission, caller });
      }
    }
    socket.on("error", () => {});
    socket.destroy();
    if (refusal) this.admission.refused(refusal);
  }
}

/** The type of the record that a handshake begins with (RFC 8446, 5.1), and the size of its header. */
const HANDSHAKE = 22, RECORD_HEADER_BYTES = 5;
/** A fatal alert, by which who speaks something else, or TLS from before 2000, learns what this is (RFC 8446, 6). */
const UNEXPECTED_MESSAGE = Buffer.from([21, 3, 3, 0, 2, 2, 10]);
/** A client's hello is some hundred bytes to 2 kB, with a key share that resists quantum computers. */
const MAX_HELLO_BYTES = 8 << 10;

/**
 * How many bytes of the first record are still to come, at least; negative: it is none. Until it is whole it costs us
 * these bytes, and nothing of what TLS takes for a connection.
 */
function missingOfHello(beginning: Buffer): number {
  if (beginning[0] !== HANDSHAKE) return -1;
  if (beginning.length < RECORD_HEADER_BYTES) return RECORD_HEADER_BYTES - beginning.length;
  const length = beginning.readUInt16BE(3);
  if (length > MAX_HELLO_BYTES) return -1;
  return Math.max(0, RECORD_HEADER_BYTES + length - beginning.length);
}

function address({ remoteAddress, remotePort }: Socket): string {
  return `${remoteAddress} ${remotePort}`;
}
