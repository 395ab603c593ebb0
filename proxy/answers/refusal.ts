import { ExitCode } from "../../proto/bazel/exit_codes.ts";
import { RbsError } from "../../proto/base/errors.ts";

/** The most of what an agent said that is quoted to a person. Characters. */
const MAX_SHOWN = 200;

/** Text of an agent, fit for a terminal: what could steer one is escaped. */
export function quoted(latin1: string): string {
  const text = latin1.length > MAX_SHOWN ? `${latin1.slice(0, MAX_SHOWN)}…` : latin1;
  return JSON.stringify(text).replace(/[^\x20-\x7e…]/g, (c) => `\\x${c.charCodeAt(0).toString(16).padStart(2, "0")}`);
}

/** The same without the quotes: a sentence of an agent's. */
export function escaped(latin1: string): string {
  return quoted(latin1).slice(1, -1);
}

/**
 * The error of an agent whose answer would have this machine do what the command does not ask for. Exit code 37.
 *
 * @param agent How the agent is called.
 * @param what Completes "wants …".
 * @param remedy What an honest user can do, if there is something. Begins with a small letter.
 */
export function wants(agent: string, what: string, remedy = "report this agent"): RbsError {
  return new RbsError(`The agent at ${agent} wants ${what}: nothing was executed; ${remedy}.`, {
    exitCode: ExitCode.INTERNAL_ERROR,
  });
}
