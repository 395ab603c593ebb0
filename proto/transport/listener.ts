/**
 * Where connections come from, whatever is served on them: by mutual TLS (tls/listener.ts), or in plain text from this
 * machine (tcp_listener.ts).
 *
 *     kernel ──> admission control ──> TLS, where there is any ──> connection ──> what is served on it
 *
 * Each listener has an {@link Admission} control of its own, and hands over nothing that has not passed it. So whatever is
 * served, in whatever protocol, connections, handshakes and strangers are bounded.
 */
import type { Caller } from "../identity/access_rules.ts";
import type { Admission } from "./admission.ts";
import type { Transport } from "./transport.ts";

/** A connection that was let in. */
export interface AcceptedConnection {
  /** Its bytes. Whoever takes the connection over reads to its end and closes it, which ends its admission. */
  readonly transport: Transport;
  /**
   * What it may cost. A caller that is not admitted yet is a stranger: whoever serves it says what it holds for it
   * ({@link Admission.hold}), and admits it once it has proved itself by what it sent.
   */
  readonly admission: Admission;
  /** Who is at its other end, as far as the connection itself proves it. */
  readonly caller: Caller;
}

/** See the file's head. */
export interface Listener {
  readonly port: number;
  /** Has each connection handed over to `serve`. Call it once, before the next turn of the event loop. */
  start(serve: (connection: AcceptedConnection) => void): void;
  /** Stops listening. What was handed over stays. */
  close(): void;
}
