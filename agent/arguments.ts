import { fromJsonString } from "@bufbuild/protobuf";
import { Command, CommanderError, InvalidArgumentError, Option } from "commander";
import { type AbsolutePath, absolutePath, pathFault } from "../proto/base/absolute_path.ts";
import { RbsError, sentence } from "../proto/base/errors.ts";
import { type AgentSpec, type BlankAgent, BlankAgentSchema } from "../proto/contract/gen/rbs/v1/agent_pb.ts";
import type { LineReader } from "../proto/base/line_reader.ts";
import { startupOption, startupPathFault } from "../proto/bazel/startup_options.ts";
import { NAMESPACE_KINDS, type NamespaceKind } from "./namespace/mount_namespace.ts";

/** What the agent was told by flags and environment. */
export interface AgentArguments {
  namespace: NamespaceKind | "auto";
  bazel: string;
  installBases: string[];
  host: string;
  selfTest: boolean;
  graceSeconds: number;
  /** Whether a session of root may have all of root's rights. @default false */
  allowRootSessions?: boolean;
}

/** The options that the agent takes, each with its variable; docs/settings.md is made from them. */
export function agentCommand(): Command {
  return new Command("agent")
    .description(
      "Runs the Bazel server of one session, in a mount namespace with the developer's own paths. The orchestrator starts " +
        "agents and writes a BlankAgent in JSON to their standard input; by hand, only --self-test is useful.",
    )
    .addOption(
      new Option(
        "--namespace <kind>",
        "how the mount namespace is made: bwrap (bubblewrap), unshare (util-linux, root only), or none; auto takes the " +
          "first that works",
      )
        .choices(["auto", ...NAMESPACE_KINDS]).default("auto").env("RBS_NAMESPACE"),
    )
    .addOption(
      new Option("--bazel <program>", "the Bazel client that runs commands from jbazel").default("bazel").env(
        "RBS_BAZEL",
      ),
    )
    .addOption(
      new Option(
        "--install-bases <dir[:dir]>",
        "directories to search for the client's Bazel version, if it is not at the client's path",
      )
        .default("").env("RBS_INSTALL_BASES"),
    )
    .addOption(
      new Option("--host <address>", "the address to listen on").default("127.0.0.1").env("RBS_AGENT_HOST"),
    )
    .addOption(
      new Option("--grace-seconds <seconds>", "how long a command continues after its proxy became unreachable")
        .env("RBS_GRACE_SECONDS").argParser(seconds).default(1800),
    )
    .addOption(
      new Option("--allow-root-sessions", "as root: serve also where a session cannot be confined")
        .env("RBS_ALLOW_ROOT_SESSIONS").default(false),
    )
    .option("--self-test", "check what sessions on this machine get; exit code 0: everything works", false)
    .helpOption("-h, --help", "print this help")
    .allowExcessArguments(false);
}

/** Reads the command line; `env` stands in for the environment. Throws an RbsError with exit code 2 for a wrong one, and
 * one with exit code 0 whose message is the help when that was asked for. */
export function parseArguments(args: readonly string[]): AgentArguments {
  let output = "";
  const command = agentCommand()
    .exitOverride()
    .configureOutput({ writeOut: (text) => output += text, writeErr: () => {} });
  try {
    command.parse([...args], { from: "user" });
  } catch (e) {
    if (!(e instanceof CommanderError)) throw e;
    if (e.exitCode === 0) throw new RbsError(output.trimEnd(), { exitCode: 0, culprit: "caller" });
    const what = e.message.replace(/^error: /, "").replace(" is invalid. ", " is invalid: ").split("\n")[0];
    throw new RbsError(`agent: ${what.replace(/\.$/, "")}: see agent --help.`, { exitCode: 2, culprit: "caller" });
  }
  const options = command.opts<
    Omit<AgentArguments, "namespace" | "installBases"> & { namespace: string; installBases: string }
  >();
  // Commander takes any value of a variable for a yes.
  const isAllowed = command.getOptionValueSource("allowRootSessions") === "env"
    ? !["", "0", "false"].includes(Deno.env.get("RBS_ALLOW_ROOT_SESSIONS") ?? "")
    : options.allowRootSessions;
  return {
    namespace: options.namespace as NamespaceKind | "auto",
    bazel: options.bazel,
    installBases: options.installBases.split(":").filter((path) => path !== ""),
    host: options.host,
    selfTest: options.selfTest,
    graceSeconds: options.graceSeconds,
    ...isAllowed && { allowRootSessions: true },
  };
}

function seconds(text: string): number {
  if (!/^\d{1,7}$/.test(text)) throw new InvalidArgumentError("it must be a number of seconds");
  return Number(text);
}

/** Reads the BlankAgent: one line of JSON, or all there is. Throws an RbsError with exit code 2 when there is none. */
export async function readBlank(lines: Pick<LineReader, "next">, isTerminal: boolean): Promise<BlankAgent> {
  const wrong = (why: string, cause?: unknown) =>
    new RbsError(
      `agent: ${why}; the orchestrator starts agents and tells them by standard input what to do: see agent --help.`,
      { exitCode: 2, culprit: "caller", cause },
    );
  if (isTerminal) throw wrong("an agent is not started by hand");
  const line = await lines.next() ?? "";
  if (line.trim() === "") throw wrong("standard input is empty");
  let blank: BlankAgent;
  try {
    blank = fromJsonString(BlankAgentSchema, line, { ignoreUnknownFields: true });
  } catch (cause) {
    // The parser quotes what it read, and that may be a token.
    throw wrong("standard input is not a BlankAgent in JSON", new Error(sentence(cause).slice(0, 40)));
  }
  const fault = pathFault(blank.folder);
  if (fault) throw wrong(`the BlankAgent's folder ${fault}`);
  for (const field of ["agentId", "orchestratorAddress", "bootstrapToken", "authorities", "trustDomain"] as const) {
    if (blank[field] === "") throw wrong(`the BlankAgent has no ${field}`);
  }
  return blank;
}

/** Why nothing can be done with a spec; undefined: all is there. */
export function specFault(spec: AgentSpec): string | undefined {
  const paths = {
    storageDirectory: spec.storageDirectory,
    sourcePath: spec.sourcePath,
    ...spec.defaultOutputBase !== "" && { defaultOutputBase: spec.defaultOutputBase },
    ...spec.classArchiveDirectory !== "" && { classArchiveDirectory: spec.classArchiveDirectory },
    ...Object.fromEntries(spec.hiddenPaths.map((path, i) => [`hiddenPaths[${i}]`, path])),
  };
  for (const [field, path] of Object.entries(paths)) {
    const fault = pathFault(path);
    if (fault) return `the AgentSpec's ${field} ${fault}`;
  }
  const fault = startupPathFault(spec.startupOptions);
  if (fault) return fault.replace(/^The /, "the ").replace(/\.$/, "");
  if (spec.accessToken === "") return "the AgentSpec has no accessToken";
  if (spec.agentId === "") return "the AgentSpec has no agentId";
  return undefined;
}

/** The developer's paths in a spec that {@link specFault} has nothing against; by these very strings they are used. */
export function sessionPaths(spec: AgentSpec): { workspace: AbsolutePath; outputBase?: AbsolutePath } {
  const outputBase = startupOption(spec.startupOptions, "output_base") ?? (spec.defaultOutputBase || undefined);
  return {
    workspace: absolutePath(spec.sourcePath),
    outputBase: outputBase === undefined ? undefined : absolutePath(outputBase),
  };
}
