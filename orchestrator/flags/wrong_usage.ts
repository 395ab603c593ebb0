import { RbsError } from "../../proto/base/errors.ts";

/** The error for a command line that cannot be meant, with exit code 2. */
export function wrongUsage(message: string): RbsError {
  const text = message[0].toUpperCase() + message.slice(1);
  return new RbsError(`${text.replace(/\.$/, "")}; \`orchestrator --help\` lists the options.`, {
    culprit: "caller",
    exitCode: 2,
  });
}
