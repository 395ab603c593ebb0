import { Option } from "commander";
import type { FlagPart } from "./flag_part.ts";
import { wholeNumber } from "./option_values.ts";

/** The life of one agent. */
export interface AgentFlags {
  readonly leaseSeconds: number;
  readonly startTimeoutSeconds: number;
}

/** The flags of orchestrator/agents. */
export const AGENT_FLAGS: FlagPart<AgentFlags> = {
  options: () => [
    new Option(
      "--lease-seconds <seconds>",
      "an agent ends itself when no orchestrator has supervised it for this long",
    )
      .env("RBS_LEASE_SECONDS").argParser(wholeNumber(1, 86_400)).default(60),
    new Option("--start-timeout <seconds>", "an agent that is not ready after this time has failed")
      .env("RBS_START_TIMEOUT").argParser(wholeNumber(1, 86_400)).default(120),
  ],
  read: ({ leaseSeconds, startTimeout }) => ({ leaseSeconds, startTimeoutSeconds: startTimeout }),
};
