/** What a server of calls asks of its listener: see listener.ts for TLS, and grpc/server.ts for plain TCP. */
import type { Admission } from "../admission.ts";
import type { Caller } from "../../identity/access_rules.ts";
import type { Transport } from "../http2/connection.ts";

/**
 * Takes a caller over.
 *
 * @param admission Counts what it costs. A caller that is not admitted yet has the small limits of a stranger.
 * @param caller Who it is, as its connection proves.
 */
export type OnCaller = (transport: Transport, admission: Admission, caller: Caller) => void;

/** Where callers come from: plain TCP, or TLS. */
export interface CallListener {
  readonly port: number;
  /** Has each caller handed over. Call it once, before the next turn of the event loop. */
  start(onCaller: OnCaller): void;
  /** Stops listening. Who was handed over stays. */
  close(): void;
}
