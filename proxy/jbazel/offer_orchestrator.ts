import { RbsError } from "../../proto/base/errors.ts";
import { OrchestratorAddresses } from "../../proto/base/orchestrator_addresses.ts";
import { installCommand, orchestratorProgram, portOf } from "./orchestrator_program.ts";
import type { RunProgram } from "./programs.ts";

/** Input of {@link offerOrchestrator}. */
export interface OfferContext {
  /** "HOST:PORT", or several separated by commas. */
  orchestrator: string;
  /** The javabase that was set up, with the orchestrator beside it. Absolute path. */
  javabase: string;
  run: RunProgram;
  say(line: string): void;
  /** Asks the user; undefined without a terminal. */
  ask?(question: string): string | null;
}

/** Timeout for the start, including the end of an earlier installation. Milliseconds. */
const INSTALL_MS = 120_000;

/**
 * If certainly no orchestrator listens, offers to start one in the background; without a terminal, says how. Throws an
 * RbsError if the start fails.
 */
export async function offerOrchestrator({ orchestrator, javabase, run, say, ask }: OfferContext): Promise<void> {
  const addresses = new OrchestratorAddresses(orchestrator);
  if (!await addresses.areRefused()) return;
  const program = orchestratorProgram(javabase);
  const answer = ask?.(`No orchestrator listens on ${orchestrator}. Start one in the background now, [y]es or [n]o?`);
  if (!/^y(es)?$/i.test(answer?.trim() ?? "")) {
    say(
      `No orchestrator listens on ${orchestrator} yet: \`${
        installCommand(javabase, orchestrator)
      }\` starts one in the background.`,
    );
    return;
  }
  const port = portOf(orchestrator);
  const { outcome, code, stdout, stderr } = await run(program, ["install", `--port=${port}`], INSTALL_MS);
  for (const line of stdout.split("\n")) if (line !== "") say(line);
  if (outcome === "ran" && code === 0) return;
  const why = outcome === "ran" ? stderr.split("\n").at(-1) || `exit code ${code}` : `it is ${outcome}`;
  throw new RbsError(`The orchestrator was not started (${why}): see \`${program} install\`.`, { culprit: "caller" });
}
