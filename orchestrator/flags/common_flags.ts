import { Option } from "commander";
import type { FlagPart } from "./flag_part.ts";

/** What more than one part needs. */
export interface CommonFlags {
  /** Absolute. */
  readonly stateDir: string;
}

/** The flags of the orchestrator as a whole. Whether it may start without `--local-mode` is for orchestrator/flags.ts. */
export const COMMON_FLAGS: FlagPart<CommonFlags> = {
  options: () => [
    new Option(
      "--local-mode",
      "serve one machine: agents are local processes, and the state directory holds the keys of its user",
    )
      .env("RBS_LOCAL_MODE").default(false),
    new Option(
      "--state-dir <directory>",
      "directory of sessions, keys and storage (default: $XDG_STATE_HOME/rbs or ~/.local/state/rbs)",
    )
      .env("RBS_STATE_DIR"),
  ],
  read: (_, { stateDir }) => ({ stateDir }),
};
