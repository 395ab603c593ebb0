/** Completion of jbazel's own command lines; everything else is completed as Bazel's. */
import type { CompletedVerb } from "./completed_verb.ts";
import { bashCompletion } from "./completion_bash.ts";
import { fishCompletion } from "./completion_fish.ts";
import { zshCompletion } from "./completion_zsh.ts";

/** Shells with completion scripts. */
export const SHELLS = ["bash", "zsh", "fish"] as const;
export type Shell = typeof SHELLS[number];

const GENERATORS: Record<Shell, (verbs: CompletedVerb[]) => string> = {
  bash: bashCompletion,
  zsh: zshCompletion,
  fish: fishCompletion,
};

/** The completion script for a shell, without a newline at its end. */
export function completionScript(shell: Shell, verbs: CompletedVerb[]): string {
  return GENERATORS[shell](verbs).trimEnd();
}
