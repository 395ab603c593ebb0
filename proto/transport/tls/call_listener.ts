/** What a server of calls asks of its listener: see listener.ts for TLS, and grpc/server.ts for plain TCP. */
import type { Admission } from "../admission.ts";
import type { Transport } from "../http2/connection.ts";
import type { Peer } from "./peer.ts";

/**
 * Takes a caller over.
 *
 * @param admission Counts what it costs. A caller that is not admitted yet has the small limits of a stranger.
 * @param peer Who it is, if that was found out: the caller has proved it.
 */
export type OnCaller = (transport: Transport, admission: Admission, peer: Peer) => void;

/** Where callers come from: plain TCP, or TLS. */
export interface CallListener {
  readonly port: number;
  /** Has each caller handed over. Call it once, before the next turn of the event loop. */
  start(onCaller: OnCaller): void;
  /** Stops listening. Who was handed over stays. */
  close(): void;
}
