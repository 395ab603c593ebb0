import { OrchestratorAddresses } from "../../proto/base/orchestrator_addresses.ts";
import { authoritiesFile, holderFile } from "../../proto/identity/key_directory.ts";
import type { Settings } from "./settings.ts";

/** The state of this machine's relation to its orchestrator. */
export interface Standing {
  /** Whether the settings name an orchestrator on this machine. */
  local: boolean;
  /** Certainly nothing listens there. Always false for an orchestrator elsewhere. */
  nothingListens: boolean;
  /** The user has no key or no authority yet. */
  keyMissing: boolean;
}

/** Determines the state. */
export async function findStanding({ orchestrator, stateDirectory }: Settings): Promise<Standing> {
  const addresses = new OrchestratorAddresses(orchestrator);
  return {
    local: addresses.areLocal,
    nothingListens: await addresses.areRefused(),
    keyMissing: isMissing(authoritiesFile(stateDirectory)) || isMissing(holderFile(stateDirectory, "user")),
  };
}

function isMissing(file: string): boolean {
  try {
    Deno.lstatSync(file);
    return false;
  } catch (e) {
    return e instanceof Deno.errors.NotFound;
  }
}
