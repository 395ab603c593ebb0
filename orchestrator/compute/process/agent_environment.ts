import { join } from "node:path";
import type { AgentUser } from "./agent_user.ts";

/** The variables of the orchestrator's own environment that its agents inherit; nothing else reaches them. */
export const INHERITED_VARIABLES = [
  "HOME",
  "PATH",
  "USER",
  "LOGNAME",
  "LANG",
  "LANGUAGE",
  "LC_ALL",
  "LC_ADDRESS",
  "LC_COLLATE",
  "LC_CTYPE",
  "LC_IDENTIFICATION",
  "LC_MEASUREMENT",
  "LC_MESSAGES",
  "LC_MONETARY",
  "LC_NAME",
  "LC_NUMERIC",
  "LC_PAPER",
  "LC_TELEPHONE",
  "LC_TIME",
  "TZ",
  "TMPDIR",
  "XDG_CACHE_HOME",
  "JAVA_HOME",
  // The agent's own flags.
  "RBS_BAZEL",
  "RBS_NAMESPACE",
  "RBS_INSTALL_BASES",
  "RBS_GRACE_SECONDS",
  // Where its session's limits are set.
  "RBS_CGROUP",
] as const;

/**
 * An agent's environment, which holds nothing of its session: an agent may be started before there is one.
 *
 * @param host The orchestrator's environment.
 * @param options.listenAddress Where the agent listens, for its launcher to make a permission of; undefined: on the
 *   loopback interface.
 * @param options.allowRootSessions Whether its session may have all rights of root.
 */
export function agentEnvironment(
  host: Readonly<Record<string, string>>,
  { listenAddress, allowRootSessions }: { listenAddress?: string; allowRootSessions?: boolean } = {},
): Record<string, string> {
  const environment: Record<string, string> = {};
  for (const name of INHERITED_VARIABLES) {
    if (host[name] !== undefined) environment[name] = host[name];
  }
  return {
    ...environment,
    ...listenAddress !== undefined && { RBS_AGENT_HOST: listenAddress },
    ...allowRootSessions && { RBS_ALLOW_ROOT_SESSIONS: "1" },
  };
}

/** The environment of agents that run as another user: that user's home folder and name, and no folder of the orchestrator's. */
export function environmentOf(
  { name, home }: AgentUser,
  host: Readonly<Record<string, string>>,
): Record<string, string> {
  const { TMPDIR: _temporary, XDG_CACHE_HOME: _cache, ...others } = host;
  return { ...others, HOME: home, USER: name, LOGNAME: name };
}

/** Bazel's own default output base on Linux (`blaze_util_linux.cc`, `GetOutputRoot`), for who has this environment. */
export function defaultOutputBase(repoHash: string, host: Readonly<Record<string, string>>): string {
  const cache = host.XDG_CACHE_HOME || join(host.HOME ?? "/", ".cache");
  return join(cache, "bazel", `_bazel_${host.USER || host.LOGNAME || "unknown"}`, repoHash);
}
