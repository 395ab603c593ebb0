/** Sessions as `jbazel status` shows them. */
import { timestampMs } from "@bufbuild/protobuf/wkt";
import { type Session, SessionStatus } from "../../proto/contract/gen/rbs/v1/orchestrator_pb.ts";
import { oneLine } from "./progress.ts";
import { renderAge, renderTable } from "./table.ts";

/** A session for `--json`. */
export type SessionEntry = ReturnType<typeof describeSession>;

/** For `--json`, and for {@link renderSessions}. */
export function describeSession(session: Session) {
  const { agent } = session;
  return {
    user: session.userId,
    workspace: session.sourcePath,
    repo_hash: session.repoHash,
    server_id: session.serverId || null,
    output_base: session.outputBase || null,
    session_id: session.sessionId,
    status: SessionStatus[session.status] ?? String(session.status),
    epoch: session.epoch,
    agent: agent ? `${agent.host}:${agent.port}` : null,
    region: session.region,
    created_at: session.createdAt ? new Date(timestampMs(session.createdAt)).toISOString() : null,
    last_heartbeat: session.lastHeartbeat ? new Date(timestampMs(session.lastHeartbeat)).toISOString() : null,
    failure: session.failure || null,
  };
}

/**
 * A table, and a line for each session that failed.
 *
 * @param options.isHere Marks sessions. @default none
 * @param options.users Says whose each is.
 */
export function renderSessions(
  sessions: readonly SessionEntry[],
  { isHere = () => false, users = false }: { isHere?(session: SessionEntry): boolean; users?: boolean } = {},
): string[] {
  const now = Date.now();
  const age = (time: string | null) => time === null ? "-" : renderAge(now - Date.parse(time));
  const header = ["WORKSPACE", ...users ? ["USER"] : [], "SERVER", "STATUS", "EPOCH", "AGENT", "AGE", "LAST HEARTBEAT"];
  const rows = sessions.map((s) => [
    (isHere(s) ? "* " : "  ") + oneLine(s.workspace),
    ...users ? [oneLine(s.user)] : [],
    s.server_id ?? "-",
    s.status,
    String(s.epoch),
    s.agent ?? "-",
    age(s.created_at),
    s.last_heartbeat === null ? "-" : `${age(s.last_heartbeat)} ago`,
  ]);
  const failures = sessions.filter((s) => s.failure).map((s) => {
    const whose = users ? `${oneLine(s.user)}'s ` : "";
    return `\n${whose}${oneLine(s.workspace)} failed: ${oneLine(s.failure!)}`;
  });
  return [...renderTable([["  " + header[0], ...header.slice(1)], ...rows]), ...failures];
}
