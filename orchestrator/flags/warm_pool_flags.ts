import { Option } from "commander";
import type { FlagPart } from "./flag_part.ts";
import { wholeNumber } from "./option_values.ts";

/** Agents that are started ahead. */
export interface WarmPoolFlags {
  /** How many. */
  readonly warm: number;
}

/** The flags of the warm pool. */
export const WARM_POOL_FLAGS: FlagPart<WarmPoolFlags> = {
  options: () => [
    new Option(
      "--warm <number>",
      "how many agents to start ahead of time for the next sessions; they count as agents",
    )
      .env("RBS_WARM").argParser(wholeNumber(0, 10_000)).default(0),
  ],
  read: ({ warm }) => ({ warm }),
};
