import { Option } from "commander";
import type { OnBounce } from "../sessions/decision.ts";
import type { AgentLimits } from "../store/agent_limits.ts";
import type { FlagPart } from "./flag_part.ts";
import { wholeNumber } from "./option_values.ts";

/** Which sessions there are, and how long. */
export interface SessionFlags {
  /** Whether agents share no files with those who build. */
  readonly synced: boolean;
  readonly idleTimeoutSeconds: number;
  /** For sessions beside the main one of a workspace. */
  readonly secondIdleTimeoutSeconds: number;
  readonly onBounce: OnBounce;
  readonly limits: AgentLimits;
}

/** The flags of orchestrator/sessions. */
export const SESSION_FLAGS: FlagPart<SessionFlags> = {
  options: () => [
    new Option(
      "--workspace <mode>",
      "how agents access workspaces: shared, on a disk that agents and users share; synced, as a copy that RBS sends to " +
        "the agent, with outputs sent back",
    )
      .env("RBS_WORKSPACE").choices(["shared", "synced"]).default("shared"),
    new Option(
      "--idle-timeout <seconds>",
      "a session ends after this long without a client and without a running command",
    )
      .env("RBS_IDLE_TIMEOUT").argParser(wholeNumber(1, 31_536_000)).default(10_800),
    new Option(
      "--second-idle-timeout <seconds>",
      "a second server of a workspace (an IDE's, with its own output base) ends this long after its last command, even " +
        "if its client is still there",
    )
      .env("RBS_SECOND_IDLE_TIMEOUT").argParser(wholeNumber(1, 31_536_000)).default(900),
    new Option(
      "--on-bounce <rule>",
      "what a restarted client gets: takeover, its warm server, if Bazel version and startup options are the same; " +
        "replace, always a new server, after the previous one has ended",
    )
      .env("RBS_ON_BOUNCE").choices(["takeover", "replace"]).default("takeover"),
    new Option(
      "--max-agents <number>",
      "how many agents run at the same time; further requests wait in a queue, and the user is told; 0: no limit",
    )
      .env("RBS_MAX_AGENTS").argParser(wholeNumber(0, 1_000_000)).default(0),
    new Option(
      "--max-agents-per-user <number>",
      "the same for each user; a user at the limit delays no other user; a second server of a workspace is not " +
        "counted; 0: no limit",
    )
      .env("RBS_MAX_AGENTS_PER_USER").argParser(wholeNumber(0, 1_000_000)).default(0),
  ],
  read: (values) => ({
    synced: values.workspace === "synced",
    idleTimeoutSeconds: values.idleTimeout,
    secondIdleTimeoutSeconds: values.secondIdleTimeout,
    onBounce: values.onBounce,
    limits: { agents: values.maxAgents, agentsPerUser: values.maxAgentsPerUser },
  }),
};
