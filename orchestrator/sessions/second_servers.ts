import { basename } from "node:path";
import { startupOption } from "../../proto/bazel/startup_options.ts";
import { machineOf, type Session } from "../store/session.ts";

/**
 * The sessions beside a developer's main server for a workspace, such as an IDE's for its queries, which has an output base
 * of its own. Main is, of those for one workspace on one machine, the one with the client's default output base (which is
 * named by the RepoHash), else the oldest. Of a session without a ServerId no machine is known: it is beside none.
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

/** Whether a server has the output base that a client chooses by itself. */
export function hasDefaultOutputBase(
  { startupOptions, repoHash }: { readonly startupOptions: readonly string[]; readonly repoHash: string },
): boolean {
  return basename(startupOption(startupOptions, "output_base") ?? "") === repoHash;
}
