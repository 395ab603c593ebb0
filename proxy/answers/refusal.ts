import { ExitCode } from "../../proto/bazel/exit_codes.ts";
import { RbsError } from "../../proto/base/errors.ts";

/** Maximum length of an agent's text in a message, in characters. */
const MAX_SHOWN = 200;

/** Quotes an agent's text for a terminal: everything but printable ASCII is escaped. */
export function quoted(latin1: string): string {
  const text = latin1.length > MAX_SHOWN ? `${latin1.slice(0, MAX_SHOWN)}…` : latin1;
  return JSON.stringify(text).replace(/[^\x20-\x7e…]/g, (c) => `\\x${c.charCodeAt(0).toString(16).padStart(2, "0")}`);
}

/** The same without the quotes, for an agent's sentence. */
export function escaped(latin1: string): string {
  return quoted(latin1).slice(1, -1);
}

/**
 * The error for a response that would make this machine do what the command does not ask for. Exit code 37.
 *
 * @param agent The agent's name.
 * @param what Completes "wants …".
 * @param remedy What an honest user can do, if anything. Starts with a lower-case letter.
 */
export function wants(agent: string, what: string, remedy = "report this agent"): RbsError {
  return new RbsError(`The agent at ${agent} wants ${what}: nothing was executed; ${remedy}.`, {
    exitCode: ExitCode.INTERNAL_ERROR,
  });
}
