import { dirname, join } from "node:path";
import { OrchestratorAddresses } from "../../proto/base/orchestrator_addresses.ts";
import { DEFAULT_ORCHESTRATOR_ADDR } from "../../proto/base/state_directory.ts";
import { shellWord } from "./shell_word.ts";

/** The orchestrator that belongs to a javabase: it lies beside it. */
export function orchestratorProgram(javabase: string): string {
  return join(dirname(javabase), "orchestrator");
}

/**
 * The command line that starts an orchestrator in the background of this machine, as a person can type it.
 *
 * @param address Where it is to listen: "HOST:PORT", or several with commas between them.
 */
export function installCommand(javabase: string, address: string): string {
  const port = portOf(address);
  return `${programName(javabase)} install${port === portOf(DEFAULT_ORCHESTRATOR_ADDR) ? "" : ` --port=${port}`}`;
}

/** The port of the first of the addresses. */
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
