import { ExitCode } from "../../proto/bazel/exit_codes.ts";
import { RbsError } from "../../proto/base/errors.ts";
import { DEFAULT_ORCHESTRATOR_ADDR, stateDirectory } from "../../proto/base/state_directory.ts";
import { OrchestratorAddresses } from "../../proto/base/orchestrator_addresses.ts";

/** jbazel's settings. */
export interface Settings {
  /** "host:port", or several separated by commas. */
  orchestrator: string;
  /** Absolute path. */
  stateDirectory: string;
  /** What to do with a Bazel command when there is no build server. */
  fallback: "local" | "error";
}

/** Settings from command line options; undefined ones come from the environment. */
export interface SettingOptions {
  orchestrator?: string;
  stateDir?: string;
}

/** Reads the settings. Throws an RbsError (exit code 2) that names the invalid variable. */
export function readSettings(options: SettingOptions = {}): Settings {
  const orchestrator = options.orchestrator || Deno.env.get("RBS_ORCHESTRATOR_ADDR") || DEFAULT_ORCHESTRATOR_ADDR;
  const isAddress = (address: string) => {
    const port = Number(/^(?:[^\s:/,]+|\[[0-9a-fA-F:.]+\]):(\d{1,5})$/.exec(address)?.[1]);
    return port >= 1 && port <= 65535;
  };
  if (!new OrchestratorAddresses(orchestrator).all.every(isAddress)) {
    throw usage(`RBS_ORCHESTRATOR_ADDR must be HOST:PORT, but it is ${JSON.stringify(orchestrator)}.`);
  }
  const fallback = Deno.env.get("RBS_FALLBACK") || "error";
  if (fallback !== "local" && fallback !== "error") {
    throw usage(`RBS_FALLBACK must be "local" or "error", but it is ${JSON.stringify(fallback)}.`);
  }
  if (options.stateDir && !options.stateDir.startsWith("/")) {
    throw usage(`--state-dir must be an absolute path, but it is ${JSON.stringify(options.stateDir)}.`);
  }
  return {
    orchestrator,
    stateDirectory: options.stateDir || stateDirectory(),
    fallback,
  };
}

/** An error on the command line or in a variable: one sentence, exit code 2. */
export function usage(message: string): RbsError {
  return new RbsError(message, { culprit: "caller", exitCode: ExitCode.COMMAND_LINE_ERROR });
}
