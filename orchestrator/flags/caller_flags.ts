import { Option } from "commander";
import type { FlagPart } from "./flag_part.ts";

/** Whom the orchestrator serves. */
export interface CallerFlags {
  /** Whether sessions that share this disk may be other users' than the orchestrator's own. */
  readonly allowSharedUsers: boolean;
}

/** The flags of orchestrator/api. */
export const CALLER_FLAGS: FlagPart<CallerFlags> = {
  options: () => [
    new Option(
      "--allow-shared-users",
      "with --workspace=shared: serve other users anyway; their builds have the permissions of the orchestrator's user " +
        "on this disk",
    )
      .env("RBS_ALLOW_SHARED_USERS").default(false),
  ],
  read: ({ allowSharedUsers }) => ({ allowSharedUsers }),
};
