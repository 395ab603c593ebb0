import { Command, CommanderError } from "commander";
import { resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { stateDirectory } from "../proto/base/state_directory.ts";
import { AGENT_FLAGS } from "./flags/agent_flags.ts";
import { AUTHORITY_FLAGS } from "./flags/authority_flags.ts";
import { CALLER_FLAGS } from "./flags/caller_flags.ts";
import { CLASS_ARCHIVE_FLAGS } from "./flags/class_archive_flags.ts";
import { COMMON_FLAGS } from "./flags/common_flags.ts";
import { type FlagsOf, flagsOf, optionsOf, valuesOf } from "./flags/composition.ts";
import { HELP_EXAMPLES } from "./flags/help_examples.ts";
import { LISTENING_FLAGS } from "./flags/listening_flags.ts";
import { PEER_FLAGS } from "./flags/peer_flags.ts";
import { PROCESS_FLAGS } from "./flags/process_flags.ts";
import { SESSION_FLAGS } from "./flags/session_flags.ts";
import { SESSION_LIMIT_FLAGS } from "./flags/session_limit_flags.ts";
import { STORE_FLAGS } from "./flags/store_flags.ts";
import { WARM_POOL_FLAGS } from "./flags/warm_pool_flags.ts";
import { wrongUsage } from "./flags/wrong_usage.ts";

/** The parts of the orchestrator that have flags. */
const PARTS = [
  COMMON_FLAGS,
  LISTENING_FLAGS,
  STORE_FLAGS,
  AUTHORITY_FLAGS,
  PEER_FLAGS,
  PROCESS_FLAGS,
  SESSION_LIMIT_FLAGS,
  AGENT_FLAGS,
  WARM_POOL_FLAGS,
  CLASS_ARCHIVE_FLAGS,
  SESSION_FLAGS,
  CALLER_FLAGS,
] as const;

/** What the orchestrator's command line says. All paths are absolute. */
export type Flags = FlagsOf<typeof PARTS>;

/** The options that help lists first: in the order in which they are usually set, whichever part they belong to. */
export const HELP_ORDER: readonly string[] = [
  "--local-mode",
  "--port",
  "--listen",
  "--workspace",
  "--state-dir",
  "--storage-root",
  "--store",
  "--agent",
  "--lease-seconds",
  "--takeover",
  "--idle-timeout",
  "--second-idle-timeout",
  "--start-timeout",
  "--on-bounce",
  "--max-agents",
  "--max-agents-per-user",
  "--session-memory",
  "--session-cpus",
  "--session-pids",
  "--unshare-net",
  "--agent-user",
  "--allow-root-sessions",
  "--allow-shared-users",
  "--warm",
  "--class-archives",
  "--ca-cert",
  "--ca-key",
  "--region",
];

/** The options that the orchestrator takes, each with its variable; docs/settings.md is made from them. */
export function orchestratorCommand(): Command {
  const command = new Command("orchestrator")
    .description(
      "The control plane of RBS: records which agent runs which Bazel server, starts agents on request, and ends " +
        "those that are idle.",
    )
    .helpOption("-h, --help", "print this help");
  for (const option of optionsOf(PARTS, HELP_ORDER)) command.addOption(option);
  return command;
}

/**
 * Reads the command line. Throws an RbsError with exit code 2 for a wrong one.
 *
 * @param program URL of the orchestrator's own program; its agent lies beside it.
 * @returns The flags, or undefined when all that was asked for was help, and is printed.
 */
export function parseFlags(args: readonly string[], program: string): Flags | undefined {
  const command = orchestratorCommand()
    .addHelpText("after", HELP_EXAMPLES)
    .configureOutput({ writeErr() {} })
    .exitOverride();
  try {
    command.parse(args, { from: "user" });
  } catch (e) {
    if (!(e instanceof CommanderError)) throw e;
    if (e.exitCode === 0) return undefined;
    throw wrongUsage(
      e.message.replace(/^error: /, "").replace(" is invalid. ", " is invalid: ").replaceAll(/\s*\n\s*/g, " "),
    );
  }
  const values = valuesOf(command);
  if (!values.localMode) {
    throw wrongUsage(
      "say --local-mode, to serve this machine until the terminal closes; `orchestrator install` starts one in the " +
        "background",
    );
  }
  const flags = flagsOf(PARTS, values, {
    stateDir: values.stateDir ? resolve(values.stateDir) : stateDirectory(),
    program: ownProgram(program),
  });
  checkTogether(flags);
  return flags;
}

/** What no part can check by itself. Throws an RbsError with exit code 2. */
function checkTogether({ agentUser, synced }: Flags): void {
  if (agentUser !== undefined && !synced) {
    throw wrongUsage(
      "--agent-user belongs with --workspace=synced: another user has no right to the developer's own files",
    );
  }
}

/** The orchestrator's own program, by its URL: a compiled one is the running executable. Absolute. */
export function ownProgram(url: string): string {
  return Deno.build.standalone ? Deno.execPath() : fileURLToPath(url);
}
