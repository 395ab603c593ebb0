import { Command, CommanderError, InvalidArgumentError, Option } from "commander";
import { isIP } from "node:net";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { RbsError } from "../proto/base/errors.ts";
import { stateDirectory } from "../proto/base/state_directory.ts";
import type { SessionLimits } from "./compute/compute_service.ts";
import { parseStoreLocation, STORE_SYNTAX, type StoreLocation } from "./store/store_location.ts";
import type { OutsideAuthority } from "./identity/local_keys.ts";
import type { OnBounce } from "./sessions/session_service.ts";
import type { AgentLimits } from "./store/agent_limits.ts";

/** What the orchestrator's command line says. All paths are absolute. */
export interface Flags {
  /** 0: any free port. */
  readonly port: number;
  readonly stateDir: string;
  readonly storageRoot: string;
  readonly store: StoreLocation;
  readonly agent: string;
  readonly leaseSeconds: number;
  readonly takeoverSeconds: number;
  readonly idleTimeoutSeconds: number;
  /** For sessions beside the main one of a workspace. */
  readonly secondIdleTimeoutSeconds: number;
  readonly startTimeoutSeconds: number;
  /** Where its agents run. Empty: unknown. */
  readonly region: string;
  /** The address to listen on, and that of its agents: "localhost", or an IP address. */
  readonly listen: string;
  /** Whether agents share no files with those who build. */
  readonly synced: boolean;
  readonly onBounce: OnBounce;
  readonly limits: AgentLimits;
  /** What each session may use of its machine. */
  readonly sessionLimits: SessionLimits;
  /** Whether each session has a network of its own. */
  readonly unshareNet: boolean;
  /** Whom agents run as: a name, or uid:gid. Undefined: the orchestrator's own user. */
  readonly agentUser?: string;
  /** Whether sessions may have all rights of root, where it cannot be helped. */
  readonly allowRootSessions: boolean;
  /** Whether sessions that share this disk may be other users' than the orchestrator's own. */
  readonly allowSharedUsers: boolean;
  /** How many agents are started ahead. */
  readonly warm: number;
  /** How many class-data archives are kept for each user. */
  readonly classArchives: number;
  /** Who certifies users and agents; undefined: an authority of the state directory's own. */
  readonly outsideAuthority?: OutsideAuthority;
}

const EXAMPLES = `
Examples:
  orchestrator --local-mode
      Serves this machine on localhost:50051. Agents are local processes. Sessions, keys and build outputs are kept in
      $XDG_STATE_HOME/rbs, or ~/.local/state/rbs.

  orchestrator --local-mode --port=50052
      A second orchestrator for the same sessions: each takes over when the other is gone. Clients need
      RBS_ORCHESTRATOR_ADDR=localhost:50051,localhost:50052.

  orchestrator --local-mode --port=0 --state-dir=/tmp/rbs-trial
      An independent one, on a free port (which it prints) and with its own state. Its clients need
      RBS_ORCHESTRATOR_ADDR=localhost:PORT and RBS_STATE_DIR=/tmp/rbs-trial.

  orchestrator --local-mode --storage-root=/mnt/fast/rbs --idle-timeout=600
      Keeps Bazel's output bases on another disk. Ends servers that were idle for ten minutes.

  orchestrator --local-mode --max-agents=8 --max-agents-per-user=2 --idle-timeout=1800
      Shares a machine that has memory for eight Bazel servers. The ninth workspace waits until a server ends, and so
      does a user's third. Servers that were idle for half an hour end and make room.

  orchestrator --local-mode --warm=2
      Starts two agents ahead of time. The next two workspaces get theirs within 50 ms; then the pool is refilled.

  orchestrator --local-mode --workspace=synced
      Agents on this machine behave as if they were on another. Each sees a copy of its workspace and no other files of
      users. The copy is updated over the connection before each command; outputs are sent back after it.

  orchestrator --local-mode --workspace=synced --listen=10.0.0.5
      Also serves other machines. Laptops set RBS_ORCHESTRATOR_ADDR=10.0.0.5:50051. Users are enrolled with
      \`orchestrator enrol USER\` here and \`jbazel login\` there.

  orchestrator --local-mode --workspace=synced --agent-user=builder --storage-root=/var/lib/rbs-storage
      As root: agents and all builds run as the user builder, who can read neither keys nor store.

  orchestrator --local-mode --ca-cert=ca.crt --ca-key=ca.key
      Issues certificates from your own authority instead of one that it creates.

  orchestrator --local-mode --store=spanner:projects/p/instances/i/databases/rbs
      Keeps the sessions in a Cloud Spanner database. The database must exist; tables are created. It authenticates with
      the key that GOOGLE_APPLICATION_CREDENTIALS names. SPANNER_EMULATOR_HOST=localhost:9010 selects an emulator, which
      needs no key.

  orchestrator install --workspace=synced
      Starts one in the background, which outlives this terminal. \`orchestrator status\` shows whether it runs,
      \`orchestrator stop\` ends it: see \`orchestrator install --help\`.

  orchestrator enrol ann --address=10.0.0.5:50051
      Prints a token for the user ann, who passes it to \`jbazel login\`.

  orchestrator enrol --operator olga --address=10.0.0.5:50051
      The same for an operator, who sees the sessions of all users by \`jbazel status --all-users\`.

  orchestrator revoke ann
      Locks ann out. With --undo, lets ann in again. Both work while an orchestrator runs.

It prints one line on standard output when it is ready, and logs to standard error. SIGTERM or Ctrl-C ends it. Its agents
end too, unless another orchestrator on the same store takes them over. If it is killed, its agents continue; another
orchestrator, or the next start, takes them over.

Exit codes: 0 ended as requested, 1 could not start or continue, 2 wrong usage.`;

/** The options that the orchestrator takes, each with its variable; docs/settings.md is made from them. */
export function orchestratorCommand(): Command {
  return new Command("orchestrator")
    .description(
      "The control plane of RBS: records which agent runs which Bazel server, starts agents on request, and ends " +
        "those that are idle.",
    )
    .addOption(
      new Option(
        "--local-mode",
        "serve one machine: agents are local processes, and the state directory holds the keys of its user",
      )
        .env("RBS_LOCAL_MODE").default(false),
    )
    .addOption(
      new Option("--port <number>", "port to listen on; 0 takes a free one")
        .env("RBS_PORT").argParser(integer(0, 65535)).default(50051),
    )
    .addOption(
      new Option(
        "--listen <address>",
        "IP address of this machine to listen on, for the orchestrator and its agents; localhost accepts connections " +
          "from this machine only",
      )
        .env("RBS_LISTEN").argParser(listenAddress).default("localhost"),
    )
    .addOption(
      new Option(
        "--workspace <mode>",
        "how agents access workspaces: shared, on a disk that agents and users share; synced, as a copy that RBS sends to " +
          "the agent, with outputs sent back",
      )
        .env("RBS_WORKSPACE").choices(["shared", "synced"]).default("shared"),
    )
    .addOption(
      new Option(
        "--state-dir <directory>",
        "directory of sessions, keys and storage (default: $XDG_STATE_HOME/rbs or ~/.local/state/rbs)",
      )
        .env("RBS_STATE_DIR"),
    )
    .addOption(
      new Option(
        "--storage-root <directory>",
        "directory of Bazel's output bases, one per user, workspace and server (default: <state dir>/storage)",
      )
        .env("RBS_STORAGE_ROOT"),
    )
    .addOption(
      new Option(
        "--store <where>",
        `where sessions are kept: ${STORE_SYNTAX} (default: sqlite:<state dir>/sessions.sqlite)`,
      )
        .env("RBS_STORE").argParser(store),
    )
    .addOption(
      new Option("--agent <path>", "the agent program (default: `agent` beside this program)").env("RBS_AGENT"),
    )
    .addOption(
      new Option(
        "--lease-seconds <seconds>",
        "an agent ends itself when no orchestrator has supervised it for this long",
      )
        .env("RBS_LEASE_SECONDS").argParser(integer(1, 86_400)).default(60),
    )
    .addOption(
      new Option(
        "--takeover <seconds>",
        "an orchestrator that is silent for this long loses its sessions to the others on the same store",
      )
        .env("RBS_TAKEOVER").argParser(integer(1, 3600)).default(10),
    )
    .addOption(
      new Option(
        "--idle-timeout <seconds>",
        "a session ends after this long without a client and without a running command",
      )
        .env("RBS_IDLE_TIMEOUT").argParser(integer(1, 31_536_000)).default(10_800),
    )
    .addOption(
      new Option(
        "--second-idle-timeout <seconds>",
        "a second server of a workspace (an IDE's, with its own output base) ends this long after its last command, even " +
          "if its client is still there",
      )
        .env("RBS_SECOND_IDLE_TIMEOUT").argParser(integer(1, 31_536_000)).default(900),
    )
    .addOption(
      new Option("--start-timeout <seconds>", "an agent that is not ready after this time has failed")
        .env("RBS_START_TIMEOUT").argParser(integer(1, 86_400)).default(120),
    )
    .addOption(
      new Option(
        "--on-bounce <rule>",
        "what a restarted client gets: takeover, its warm server, if Bazel version and startup options are the same; " +
          "replace, always a new server, after the previous one has ended",
      )
        .env("RBS_ON_BOUNCE").choices(["takeover", "replace"]).default("takeover"),
    )
    .addOption(
      new Option(
        "--max-agents <number>",
        "how many agents run at the same time; further requests wait in a queue, and the user is told; 0: no limit",
      )
        .env("RBS_MAX_AGENTS").argParser(integer(0, 1_000_000)).default(0),
    )
    .addOption(
      new Option(
        "--max-agents-per-user <number>",
        "the same for each user; a user at the limit delays no other user; a second server of a workspace is not " +
          "counted; 0: no limit",
      )
        .env("RBS_MAX_AGENTS_PER_USER").argParser(integer(0, 1_000_000)).default(0),
    )
    .addOption(
      new Option(
        "--session-memory <size>",
        "memory limit for all processes of a session together: 8G, 500M; 0: no limit",
      )
        .env("RBS_SESSION_MEMORY").argParser(bytes).default(0),
    )
    .addOption(
      new Option("--session-cpus <number>", "CPU limit for all processes of a session together: 4, 1.5; 0: no limit")
        .env("RBS_SESSION_CPUS").argParser(processors).default(0),
    )
    .addOption(
      new Option("--session-pids <number>", "limit on the processes and threads of a session; 0: no limit")
        .env("RBS_SESSION_PIDS").argParser(integer(0, 4_194_304)).default(0),
    )
    .addOption(
      new Option(
        "--unshare-net",
        "give each session its own network with no other machine and no port of this machine in it; repository rules " +
          "cannot download, and a remote cache does not work",
      )
        .env("RBS_UNSHARE_NET").default(false),
    )
    .addOption(
      new Option(
        "--agent-user <user>",
        "as root, with --workspace=synced: run agents and all builds as this user of the machine, who cannot read keys or " +
          "store (a name, or uid:gid)",
      )
        .env("RBS_AGENT_USER"),
    )
    .addOption(
      new Option(
        "--allow-root-sessions",
        "as root, where sessions cannot be confined: serve them anyway; each build can then do whatever root can",
      )
        .env("RBS_ALLOW_ROOT_SESSIONS").default(false),
    )
    .addOption(
      new Option(
        "--allow-shared-users",
        "with --workspace=shared: serve other users anyway; their builds have the permissions of the orchestrator's user " +
          "on this disk",
      )
        .env("RBS_ALLOW_SHARED_USERS").default(false),
    )
    .addOption(
      new Option(
        "--warm <number>",
        "how many agents to start ahead of time for the next sessions; they count as agents",
      )
        .env("RBS_WARM").argParser(integer(0, 10_000)).default(0),
    )
    .addOption(
      new Option(
        "--class-archives <number>",
        "how many archives of Bazel's loaded classes to keep for each user, by which a Bazel server starts faster: one for " +
          "each Bazel, JDK and JVM options, some 50 MB each; 0 switches them off",
      )
        .env("RBS_CLASS_ARCHIVES").argParser(integer(0, 100)).default(4),
    )
    .addOption(
      new Option(
        "--ca-cert <file>",
        "certificate of the authority that certifies users and agents, followed by its issuers, the root last (default: " +
          "an authority in the state directory)",
      ).env("RBS_CA_CERT"),
    )
    .addOption(new Option("--ca-key <file>", "its private key: PKCS #8, readable only by its owner").env("RBS_CA_KEY"))
    .addOption(
      new Option(
        "--region <name>",
        "where this orchestrator's agents run; a client that asks for another region is told",
      )
        .env("RBS_REGION").default("", "unknown"),
    )
    .helpOption("-h, --help", "print this help");
}

/**
 * Reads the command line. Throws an RbsError with exit code 2 for a wrong one.
 *
 * @param program URL of the orchestrator's own program; its agent lies beside it.
 * @returns The flags, or undefined when all that was asked for was help, and is printed.
 */
export function parseFlags(args: readonly string[], program: string): Flags | undefined {
  const command = orchestratorCommand()
    .addHelpText("after", EXAMPLES)
    .configureOutput({ writeErr() {} })
    .exitOverride();
  try {
    command.parse(args, { from: "user" });
  } catch (e) {
    if (!(e instanceof CommanderError)) throw e;
    if (e.exitCode === 0) return undefined;
    throw usage(
      e.message.replace(/^error: /, "").replace(" is invalid. ", " is invalid: ").replaceAll(/\s*\n\s*/g, " "),
    );
  }
  const options = command.opts();
  // Commander takes any value of a variable for a boolean option's "yes".
  const isSet = (option: string, variable: string): boolean =>
    command.getOptionValueSource(option) === "env"
      ? !["", "0", "false"].includes(Deno.env.get(variable) ?? "")
      : options[option];
  if (!isSet("localMode", "RBS_LOCAL_MODE")) {
    throw usage(
      "say --local-mode, to serve this machine until the terminal closes; `orchestrator install` starts one in the " +
        "background",
    );
  }
  if (Boolean(options.caCert) !== Boolean(options.caKey)) {
    throw usage("--ca-cert and --ca-key belong together");
  }
  if (options.agentUser && options.workspace !== "synced") {
    throw usage("--agent-user belongs with --workspace=synced: another user has no right to the developer's own files");
  }
  const stateDir = options.stateDir ? resolve(options.stateDir) : stateDirectory();
  return {
    port: options.port,
    stateDir,
    storageRoot: options.storageRoot ? resolve(options.storageRoot) : join(stateDir, "storage"),
    store: options.store ?? { kind: "sqlite", file: join(stateDir, "sessions.sqlite") },
    agent: options.agent ? resolve(options.agent) : join(dirname(ownProgram(program)), "agent"),
    leaseSeconds: options.leaseSeconds,
    takeoverSeconds: options.takeover,
    idleTimeoutSeconds: options.idleTimeout,
    secondIdleTimeoutSeconds: options.secondIdleTimeout,
    startTimeoutSeconds: options.startTimeout,
    region: options.region,
    listen: options.listen,
    synced: options.workspace === "synced",
    onBounce: options.onBounce,
    outsideAuthority: options.caCert
      ? { certificateFile: resolve(options.caCert), keyFile: resolve(options.caKey) }
      : undefined,
    limits: { agents: options.maxAgents, agentsPerUser: options.maxAgentsPerUser },
    sessionLimits: {
      memoryBytes: BigInt(options.sessionMemory),
      cpuMillis: options.sessionCpus,
      pids: options.sessionPids,
    },
    unshareNet: isSet("unshareNet", "RBS_UNSHARE_NET"),
    agentUser: options.agentUser || undefined,
    allowRootSessions: isSet("allowRootSessions", "RBS_ALLOW_ROOT_SESSIONS"),
    allowSharedUsers: isSet("allowSharedUsers", "RBS_ALLOW_SHARED_USERS"),
    warm: options.warm,
    classArchives: options.classArchives,
  };
}

/** The orchestrator's own program, by its URL: a compiled one is the running executable. Absolute. */
export function ownProgram(url: string): string {
  return Deno.build.standalone ? Deno.execPath() : fileURLToPath(url);
}

function usage(message: string): RbsError {
  const text = message[0].toUpperCase() + message.slice(1);
  return new RbsError(`${text.replace(/\.$/, "")}; \`orchestrator --help\` lists the options.`, {
    culprit: "caller",
    exitCode: 2,
  });
}

function store(text: string): StoreLocation {
  const location = parseStoreLocation(text);
  if (!location) throw new InvalidArgumentError(`it must be ${STORE_SYNTAX}`);
  return location;
}

function listenAddress(text: string): string {
  if (text === "localhost") return text;
  if (isIP(text) === 0) throw new InvalidArgumentError("it must be localhost or an IP address of this machine");
  if (/^[0:.]+$/.test(text)) {
    throw new InvalidArgumentError("it must be one address, since laptops are told to find their agents there");
  }
  return text;
}

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

function integer(least: number, most: number): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (!/^\d+$/.test(text) || value < least || value > most) {
      throw new InvalidArgumentError(`it must be a whole number from ${least} to ${most}`);
    }
    return value;
  };
}
