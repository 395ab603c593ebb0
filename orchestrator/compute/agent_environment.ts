import { join } from "node:path";
import { startupOption } from "../../proto/startup_options.ts";
import type { AgentSpec } from "./compute_service.ts";

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
] as const;

/**
 * An agent's environment: what it inherits, and the paths from which its launcher makes the agent's permissions.
 *
 * @param host The orchestrator's environment.
 * @param listenAddress Where the agent listens; undefined: on the loopback interface.
 */
export function agentEnvironment(
  spec: AgentSpec,
  host: Readonly<Record<string, string>>,
  listenAddress?: string,
): Record<string, string> {
  const environment: Record<string, string> = {};
  for (const name of INHERITED_VARIABLES) {
    if (host[name] !== undefined) environment[name] = host[name];
  }
  const cache = host.XDG_CACHE_HOME || join(host.HOME ?? "/", ".cache");
  return {
    ...environment,
    ...(listenAddress === undefined ? {} : { RBS_AGENT_HOST: listenAddress }),
    RBS_AGENT_STORAGE: spec.storageDirectory,
    RBS_AGENT_WORKSPACE: spec.sourcePath,
    RBS_AGENT_INSTALL_BASE: startupOption(spec.startupOptions, "install_base") ?? "",
    // Bazel's own default on Linux (`blaze_util_linux.cc`, `GetOutputRoot`).
    RBS_AGENT_OUTPUT_BASE: startupOption(spec.startupOptions, "output_base") ??
      join(cache, "bazel", `_bazel_${host.USER || host.LOGNAME || "unknown"}`, spec.repoHash),
  };
}
