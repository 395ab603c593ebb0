/** AgentLimits as conditions of SQLite statements, which count sessions and warm agents. */
import type { SQLInputValue } from "node:sqlite";
import type { AgentLimits } from "./agent_limits.ts";
import { machineOf, type SessionKey } from "./session.ts";

/** A condition and the values of its placeholders, in order. */
export interface Condition {
  readonly sql: string;
  readonly values: readonly SQLInputValue[];
}

/** Number of sessions with an agent. The parenthesis is left open for a further condition. */
const AGENTS = "(SELECT count(*) FROM ServerSessions WHERE Status <> 'FAILED'";

/**
 * Condition: there is room for one more agent of this user, whose second server of a workspace on a machine is not
 * counted.
 */
export function roomFor({ userId, repoHash, serverId }: SessionKey, limits?: AgentLimits): Condition {
  const room = { sql: "TRUE", values: [] as SQLInputValue[] };
  if (limits?.agents) {
    room.sql += ` AND ${AGENTS}) < ?`;
    room.values.push(limits.agents);
  }
  if (limits?.agentsPerUser) {
    room.sql += ` AND (
      ${AGENTS} AND UserId = ? AND RepoHash = ? AND substr(ServerId, 1, 8) = ?) = 1
      OR (SELECT coalesce(sum(n - (n > 1)), 0) FROM (
        SELECT count(*) AS n FROM ServerSessions WHERE Status <> 'FAILED' AND UserId = ?
        GROUP BY RepoHash, substr(ServerId, 1, 8))) < ?)`;
    room.values.push(userId, repoHash, machineOf(serverId), userId, limits.agentsPerUser);
  }
  return room;
}

/** Condition: there is room for one more warm agent, beside all sessions and warm agents. */
export function roomForWarm(limits?: AgentLimits): Condition {
  const agents = limits?.agents ?? 0;
  return { sql: `(? = 0 OR ${AGENTS}) + (SELECT count(*) FROM WarmAgents) < ?)`, values: [agents, agents] };
}
