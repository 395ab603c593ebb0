import type { SessionKey } from "../store/session.ts";

/** A request for a server, already validated by request_checks.ts. */
export interface ServerRequest extends SessionKey {
  readonly sessionId: string;
  readonly sourcePath: string;
  readonly startupOptions: readonly string[];
  readonly region: string;
  /**
   * The ServerId of the caller that a session without one is to serve. @default none: the session has the caller's own
   * key
   */
  readonly adopts?: string;
}
