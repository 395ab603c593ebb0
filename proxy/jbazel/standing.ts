import { OrchestratorAddresses } from "../../proto/base/orchestrator_addresses.ts";
import { authoritiesFile, holderFile } from "../../proto/identity/key_directory.ts";
import type { Settings } from "./settings.ts";

/** How far this machine has come with an orchestrator. */
export interface Standing {
  /** The settings name an orchestrator of this machine. */
  local: boolean;
  /** It is certain that nothing listens there. Never so for an orchestrator elsewhere. */
  nothingListens: boolean;
  /** The user has no key yet, or none that an orchestrator would know. */
  keyMissing: boolean;
}

/** Looks how far this machine has come. */
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
