/** AgentLimits in Spanner's transactions, which count sessions and warm agents. */
import type { Transaction } from "@google-cloud/spanner";
import { counted } from "./agent_count.ts";
import type { AgentLimits } from "./agent_limits.ts";
import { machineOf, type SessionKey } from "./session.ts";
import type { SpannerDatabase } from "./spanner_database.ts";

/**
 * The turn of transactions that read all agents, which would abort each other. Differs from every key, since keys
 * contain a slash.
 */
export const ALL_AGENTS = "shared";

/**
 * Whether there is room for one more agent of a user, whose second server of a workspace on a machine is not counted.
 * The result stays valid until the transaction has ended.
 */
export async function hasRoom(
  database: SpannerDatabase,
  transaction: Transaction,
  { userId, repoHash, serverId }: SessionKey,
  { agents, agentsPerUser }: AgentLimits,
): Promise<boolean> {
  const groups = await database.select<{ RepoHash: string | null; Machine: string | null; Agents: number }>(
    transaction,
    `SELECT RepoHash, Machine, COUNT(*) AS Agents FROM (
       SELECT IF(UserId = @userId, RepoHash, NULL) AS RepoHash,
              IF(UserId = @userId, SUBSTR(ServerId, 1, 8), NULL) AS Machine
       FROM ServerSessions WHERE Status != 'FAILED'
     ) GROUP BY RepoHash, Machine`,
    { userId },
  );
  const all = groups.reduce((sum, { Agents }) => sum + Number(Agents), 0);
  // Other users' agents are one group, with a null name.
  const own = groups.filter(({ RepoHash }) => RepoHash !== null);
  const ofUser = own.reduce((sum, { Agents }) => sum + counted(Number(Agents)), 0);
  const here = own.find(({ RepoHash, Machine }) => RepoHash === repoHash && Machine === machineOf(serverId));
  const isSecond = Number(here?.Agents) === 1;
  return (agents === 0 || all < agents) && (agentsPerUser === 0 || isSecond || ofUser < agentsPerUser);
}

/**
 * Whether there is room for one more warm agent, beside all sessions and warm agents. The result stays valid until the
 * transaction has ended.
 */
export async function hasRoomForWarm(
  database: SpannerDatabase,
  transaction: Transaction,
  limits?: AgentLimits,
): Promise<boolean> {
  if (!limits?.agents) return true;
  const [{ Agents }] = await database.select<{ Agents: number }>(
    transaction,
    `SELECT (SELECT COUNT(*) FROM ServerSessions WHERE Status != 'FAILED')
          + (SELECT COUNT(*) FROM WarmAgents) AS Agents`,
  );
  return Number(Agents) < limits.agents;
}
