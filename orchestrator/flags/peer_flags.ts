import { Option } from "commander";
import type { FlagPart } from "./flag_part.ts";
import { wholeNumber } from "./option_values.ts";

/** How orchestrators on the same store share its sessions. */
export interface PeerFlags {
  readonly takeoverSeconds: number;
}

/** The flags of the orchestrator's lease. */
export const PEER_FLAGS: FlagPart<PeerFlags> = {
  options: () => [
    new Option(
      "--takeover <seconds>",
      "an orchestrator that is silent for this long loses its sessions to the others on the same store",
    )
      .env("RBS_TAKEOVER").argParser(wholeNumber(1, 3600)).default(10),
  ],
  read: ({ takeover }) => ({ takeoverSeconds: takeover }),
};
