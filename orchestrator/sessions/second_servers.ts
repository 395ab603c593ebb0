import { basename } from "node:path";
import { startupOption } from "../../proto/bazel/startup_options.ts";
import { machineOf, type Session } from "../store/session.ts";

/**
 * The sessions beside a developer's main server for a workspace, such as an IDE's with its own output base. Of the
 * sessions for one workspace on one machine, the main one has the client's default output base (named by the RepoHash);
 * else it is the oldest. A session of an unknown machine, without a ServerId, is never a second one.
 */
export function secondServers(sessions: readonly Session[]): Set<Session> {
  const groups = Map.groupBy(
    sessions.filter(({ serverId, adoptedBy }) => serverId !== "" || adoptedBy !== ""),
    ({ userId, repoHash, serverId, adoptedBy }) => `${userId}/${repoHash}/${machineOf(serverId || adoptedBy)}`,
  );
  const seconds = new Set<Session>();
  for (const group of groups.values()) {
    const oldest = group.reduce((a, b) => b.createdAt < a.createdAt ? b : a);
    const main = group.find(hasDefaultOutputBase) ?? oldest;
    for (const session of group) if (session !== main) seconds.add(session);
  }
  return seconds;
}

/** Whether a server has the client's default output base. */
export function hasDefaultOutputBase(
  { startupOptions, repoHash }: { readonly startupOptions: readonly string[]; readonly repoHash: string },
): boolean {
  return basename(startupOption(startupOptions, "output_base") ?? "") === repoHash;
}
