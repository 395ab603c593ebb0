import type { Option, OptionValues } from "commander";

/** What is known before a part's flags are read. All paths are absolute. */
export interface Places {
  readonly stateDir: string;
  /** The orchestrator's own program. */
  readonly program: string;
}

/**
 * The flags of one part of the orchestrator. orchestrator/flags.ts composes all parts: a new one is a file here and a line
 * there.
 */
export interface FlagPart<T extends object> {
  /** New ones at each call, since a command keeps and changes its own. Each has its variable. */
  options(): Option[];
  /**
   * What the part's options say together. Throws an RbsError with exit code 2 if they contradict each other.
   *
   * @param values By Commander's names of the options: `maxAgents` for `--max-agents`. A variable of an option without a
   * value counts as said unless it is empty, `0` or `false`.
   * @returns what becomes part of `Flags`; no two parts return a property of the same name
   */
  read(values: OptionValues, places: Places): T;
}
