import { dirname, join } from "node:path";
import { shellWord } from "./shell_word.ts";

/** The orchestrator that belongs to a javabase: it lies beside it. */
export function orchestratorProgram(javabase: string): string {
  return join(dirname(javabase), "orchestrator");
}

/** The command line that starts an orchestrator in the background of this machine, as a person can type it. */
export function installCommand(javabase: string): string {
  const program = orchestratorProgram(javabase);
  try {
    if (Deno.statSync(program).isFile) return `${shellWord(program)} install`;
  } catch { /* not there: it may be elsewhere on the PATH */ }
  return "orchestrator install";
}
