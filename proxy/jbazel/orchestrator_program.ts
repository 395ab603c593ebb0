import { dirname, join } from "node:path";
import { OrchestratorAddresses } from "../../proto/base/orchestrator_addresses.ts";
import { DEFAULT_ORCHESTRATOR_ADDR } from "../../proto/base/state_directory.ts";
import { shellWord } from "./shell_word.ts";

/** The orchestrator program that belongs to a javabase: it is beside it. */
export function orchestratorProgram(javabase: string): string {
  return join(dirname(javabase), "orchestrator");
}

/**
 * The command line that starts an orchestrator in the background on this machine, as a user can type it.
 *
 * @param address Where it shall listen: "HOST:PORT", or several separated by commas.
 */
export function installCommand(javabase: string, address: string): string {
  const port = portOf(address);
  return `${programName(javabase)} install${port === portOf(DEFAULT_ORCHESTRATOR_ADDR) ? "" : ` --port=${port}`}`;
}

/** The port of the first address. */
export function portOf(address: string): string | undefined {
  return /:(\d+)$/.exec(new OrchestratorAddresses(address).current)?.[1];
}

function programName(javabase: string): string {
  const program = orchestratorProgram(javabase);
  try {
    if (Deno.statSync(program).isFile) return shellWord(program);
  } catch { /* not there: it may be elsewhere on the PATH */ }
  return "orchestrator";
}
