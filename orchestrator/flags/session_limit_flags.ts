import { InvalidArgumentError, Option } from "commander";
import type { SessionLimits } from "../compute/compute_service.ts";
import type { FlagPart } from "./flag_part.ts";
import { wholeNumber } from "./option_values.ts";

/** What each session may use. */
export interface SessionLimitFlags {
  /** Of its machine. */
  readonly sessionLimits: SessionLimits;
  /** Whether each session has a network of its own. */
  readonly unshareNet: boolean;
}

/** The flags by which all compute services confine sessions. */
export const SESSION_LIMIT_FLAGS: FlagPart<SessionLimitFlags> = {
  options: () => [
    new Option(
      "--session-memory <size>",
      "memory limit for all processes of a session together: 8G, 500M; 0: no limit",
    )
      .env("RBS_SESSION_MEMORY").argParser(bytes).default(0),
    new Option("--session-cpus <number>", "CPU limit for all processes of a session together: 4, 1.5; 0: no limit")
      .env("RBS_SESSION_CPUS").argParser(processors).default(0),
    new Option("--session-pids <number>", "limit on the processes and threads of a session; 0: no limit")
      .env("RBS_SESSION_PIDS").argParser(wholeNumber(0, 4_194_304)).default(0),
    new Option(
      "--unshare-net",
      "give each session its own network with no other machine and no port of this machine in it; repository rules " +
        "cannot download, and a remote cache does not work",
    )
      .env("RBS_UNSHARE_NET").default(false),
  ],
  read: ({ sessionMemory, sessionCpus, sessionPids, unshareNet }) => ({
    sessionLimits: { memoryBytes: BigInt(sessionMemory), cpuMillis: sessionCpus, pids: sessionPids },
    unshareNet,
  }),
};

/** Bytes. The JVM of a Bazel server alone takes some hundred megabytes. */
function bytes(text: string): number {
  const [, number, unit] = /^(\d{1,9})([KMGT]?)$/.exec(text.toUpperCase()) ?? [];
  const value = Number(number) * 1024 ** " KMGT".indexOf(unit || " ");
  if (number === undefined || (value !== 0 && value < 64 * 1024 ** 2)) {
    throw new InvalidArgumentError("it must be 0, or a size of at least 64M: 500M, 8G");
  }
  return value;
}

/** Thousandths of one. */
function processors(text: string): number {
  const value = Number(text);
  if (!/^\d{1,4}(\.\d{1,3})?$/.test(text) || (value !== 0 && value < 0.01)) {
    throw new InvalidArgumentError("it must be 0, or a number of at least 0.01: 4, 1.5");
  }
  return Math.round(value * 1000);
}
