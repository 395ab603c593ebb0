import { pause } from "../../proto/base/timers.ts";
import { Code, RpcError } from "../../proto/transport/rpc/client.ts";
import type { OrchestratorClient } from "./orchestrator_client.ts";

/** Limits of the interval that an answer names. Milliseconds. */
const LEAST_MS = 1_000, MOST_MS = 600_000;
/** The interval after a failure, and where an answer names none. Milliseconds. */
const USUAL_MS = 10_000;
/** Pause before another orchestrator is tried. Milliseconds. */
const NEXT_MS = 1_000;
/** How long an answer is awaited. Milliseconds. */
const ANSWER_MS = 5_000;

/** A session's key, apart from the user in the certificate, and its id. */
export interface SessionName {
  readonly repoHash: string;
  readonly serverId: string;
  readonly sessionId: string;
}

/**
 * Sends a session's heartbeats until `signal` is aborted, and renews the user's certificate when it is due. Goes on while no
 * orchestrator answers: a running command counts as activity at its agent. Never rejects.
 *
 * @param firstMs Time until the first one, whose answer says when the next is due. Milliseconds.
 * @returns "lost" if the session has ended or has another owner
 */
export async function sendHeartbeats(
  client: OrchestratorClient,
  { repoHash, serverId, sessionId }: SessionName,
  { firstMs, signal }: { firstMs: number; signal: AbortSignal },
): Promise<"lost" | "aborted"> {
  for (let waitMs = firstMs;;) {
    await pause(waitMs, signal);
    if (signal.aborted) return "aborted";
    try {
      const answer = await client.rpc.heartbeat({ repoHash, serverId, sessionId }, { signal, timeoutMs: ANSWER_MS });
      client.addresses.answered();
      client.renewKeys();
      waitMs = Math.min(Math.max(answer.intervalSeconds * 1000 || USUAL_MS, LEAST_MS), MOST_MS);
    } catch (e) {
      if (signal.aborted) return "aborted";
      const { code } = RpcError.from(e);
      if (code === Code.NOT_FOUND || code === Code.FAILED_PRECONDITION) return "lost";
      waitMs = USUAL_MS;
      if (code !== Code.UNAVAILABLE && code !== Code.DEADLINE_EXCEEDED && code !== Code.UNAUTHENTICATED) continue;
      // Once all were tried, the usual interval applies. Keys that were renewed meanwhile are read with the connection.
      if (client.addresses.next()) waitMs = NEXT_MS;
      client.close();
    }
  }
}
