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
  /** Who certifies users and agents; undefined: an authority of the state directory's own. */
  readonly outsideAuthority?: OutsideAuthority;
}

const EXAMPLES = `
Examples:
  orchestrator --local-mode
      Serves this machine on localhost:50051. Agents are local processes; sessions, keys and build outputs are kept
      in $XDG_STATE_HOME/rbs, or ~/.local/state/rbs.

  orchestrator --local-mode --port=50052
      Another one for the same sessions, which goes on when the first is gone, and the other way round. Clients need
      RBS_ORCHESTRATOR_ADDR=localhost:50051,localhost:50052.

  orchestrator --local-mode --port=0 --state-dir=/tmp/rbs-trial
      A second one beside it, on a free port (it prints which) and with a state of its own. Its clients need
      RBS_ORCHESTRATOR_ADDR=localhost:PORT and RBS_STATE_DIR=/tmp/rbs-trial.

  orchestrator --local-mode --storage-root=/mnt/fast/rbs --idle-timeout=600
      Puts Bazel's output bases on another disk, and ends servers that nobody used for ten minutes.

  orchestrator --local-mode --max-agents=8 --max-agents-per-user=2 --idle-timeout=1800
      Shares a machine that has memory for eight Bazel servers: the ninth workspace waits until a server ends, and so
      does anybody's third. Servers that nobody used for half an hour make room.

  orchestrator --local-mode --warm=2
      Starts two agents ahead, so that the next two workspaces have theirs within 50 ms, and then the two after those.

  orchestrator --local-mode --workspace=synced
      Agents on this machine live as if they were on another: each sees a copy of its workspace, which travels over the
      connection before each command, as the outputs do after it, and nothing else of anybody's files.

  orchestrator --local-mode --workspace=synced --listen=10.0.0.5
      Serves other machines, too. Laptops set RBS_ORCHESTRATOR_ADDR=10.0.0.5:50051, and become known by
      \`orchestrator enrol USER\` here and \`jbazel login\` there.

  orchestrator --local-mode --workspace=synced --agent-user=builder --storage-root=/var/lib/rbs-storage
      As root: agents, and all that is built, run as the user builder, who can read neither keys nor store.

  orchestrator --local-mode --ca-cert=ca.crt --ca-key=ca.key
      Certifies by your own authority instead of one that it makes itself.

  orchestrator --local-mode --store=spanner:projects/p/instances/i/databases/rbs
      Keeps the sessions in a Cloud Spanner database, which must exist; tables are made. GOOGLE_APPLICATION_CREDENTIALS
      names the key to get in with, or SPANNER_EMULATOR_HOST=localhost:9010 an emulator that needs none.

  orchestrator install --workspace=synced
      Starts one in the background, which outlives this terminal; \`orchestrator status\` says whether it runs, and
      \`orchestrator stop\` ends it: see \`orchestrator install --help\`.

  orchestrator enrol ann --address=10.0.0.5:50051
      Prints a token for the user ann, who gives it to \`jbazel login\` and is known from then on.

  orchestrator revoke ann
      Locks ann out; with --undo, lets ann in again. Both work beside an orchestrator that runs.

It prints one line on standard output when it is ready, and logs to standard error. SIGTERM or Ctrl-C ends it, and
its agents if no other orchestrator on the same store is there to take them over. If it is killed, its agents go on, and
the others or the next start take them over.

Exit codes: 0 ended as asked, 1 could not start or go on, 2 wrong usage.`;

/**
 * Reads the command line. Throws an RbsError with exit code 2 for a wrong one.
 *
 * @param program URL of the orchestrator's own program; its agent lies beside it.
 * @returns The flags, or undefined when all that was asked for was help, and is printed.
 */
export function parseFlags(args: readonly string[], program: string): Flags | undefined {
  const command = new Command("orchestrator")
    .description(
      "The control plane of RBS: knows whose Bazel server runs where, starts one when somebody asks for it, and ends " +
        "it when nobody does any more.",
    )
    .addOption(
      new Option(
        "--local-mode",
        "serve one machine: agents are local processes, and the state directory has the keys of its user",
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
        "IP address of this machine to listen on, also for its agents; localhost: nobody but this machine gets in",
      )
        .env("RBS_LISTEN").argParser(listenAddress).default("localhost"),
    )
    .addOption(
      new Option(
        "--workspace <mode>",
        "how agents get at workspaces: shared, on the disk that they share with those who build; synced, by copies " +
          "that travel to the agent, and outputs that travel back",
      )
        .env("RBS_WORKSPACE").choices(["shared", "synced"]).default("shared"),
    )
    .addOption(
      new Option(
        "--state-dir <directory>",
        "sessions, keys and storage (default: $XDG_STATE_HOME/rbs or ~/.local/state/rbs)",
      )
        .env("RBS_STATE_DIR"),
    )
    .addOption(
      new Option(
        "--storage-root <directory>",
        "Bazel's output bases, one per user, workspace and server (default: <state dir>/storage)",
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
      new Option("--lease-seconds <seconds>", "an agent that no orchestrator holds for this long ends itself")
        .env("RBS_LEASE_SECONDS").argParser(integer(1, 86_400)).default(60),
    )
    .addOption(
      new Option(
        "--takeover <seconds>",
        "an orchestrator of which the others on the same store hear nothing for this long loses its sessions to them",
      )
        .env("RBS_TAKEOVER").argParser(integer(1, 3600)).default(10),
    )
    .addOption(
      new Option(
        "--idle-timeout <seconds>",
        "a session without a client and without a running command for this long is ended",
      )
        .env("RBS_IDLE_TIMEOUT").argParser(integer(1, 31_536_000)).default(10_800),
    )
    .addOption(
      new Option(
        "--second-idle-timeout <seconds>",
        "a second server of a workspace (an IDE's, with an output base of its own) is ended so long after its last command, " +
          "also while its client is there",
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
        "what a restarted client finds: takeover, its warm server, if Bazel version and startup options are the same; " +
          "replace, always a new one, after the former one has ended",
      )
        .env("RBS_ON_BOUNCE").choices(["takeover", "replace"]).default("takeover"),
    )
    .addOption(
      new Option(
        "--max-agents <number>",
        "so many agents run at the same time; who wants one more waits in turn, and is told so; 0: no limit",
      )
        .env("RBS_MAX_AGENTS").argParser(integer(0, 1_000_000)).default(0),
    )
    .addOption(
      new Option(
        "--max-agents-per-user <number>",
        "the same for each user; one whose limit is reached holds up nobody else; a second server of a workspace is not " +
          "counted; 0: no limit",
      )
        .env("RBS_MAX_AGENTS_PER_USER").argParser(integer(0, 1_000_000)).default(0),
    )
    .addOption(
      new Option(
        "--session-memory <size>",
        "what a session's processes may hold in memory together: 8G, 500M; 0: no limit",
      )
        .env("RBS_SESSION_MEMORY").argParser(bytes).default(0),
    )
    .addOption(
      new Option("--session-cpus <number>", "how many processors they may use together: 4, 1.5; 0: no limit")
        .env("RBS_SESSION_CPUS").argParser(processors).default(0),
    )
    .addOption(
      new Option("--session-pids <number>", "how many processes and threads there may be of them; 0: no limit")
        .env("RBS_SESSION_PIDS").argParser(integer(0, 4_194_304)).default(0),
    )
    .addOption(
      new Option(
        "--unshare-net",
        "a session's processes reach nothing but each other by network: neither other machines nor what listens on " +
          "this one; so nothing is downloaded: no repository rule can, and there is no remote cache",
      )
        .env("RBS_UNSHARE_NET").default(false),
    )
    .addOption(
      new Option(
        "--agent-user <user>",
        "as root, with --workspace=synced: run agents, and so all builds, as this user of the machine, to whom keys and store " +
          "are closed (a name, or uid:gid)",
      )
        .env("RBS_AGENT_USER"),
    )
    .addOption(
      new Option(
        "--allow-root-sessions",
        "as root, where sessions cannot be kept from root's rights over this machine: serve them nevertheless, so that " +
          "each build can do whatever root can",
      )
        .env("RBS_ALLOW_ROOT_SESSIONS").default(false),
    )
    .addOption(
      new Option(
        "--allow-shared-users",
        "without --workspace=synced: serve other users nevertheless, so that their builds have the rights of the " +
          "orchestrator's own user on this disk",
      )
        .env("RBS_ALLOW_SHARED_USERS").default(false),
    )
    .addOption(
      new Option("--warm <number>", "so many agents are started ahead, for the next sessions; they count as agents")
        .env("RBS_WARM").argParser(integer(0, 10_000)).default(0),
    )
    .addOption(
      new Option(
        "--ca-cert <file>",
        "certificate of the authority that certifies users and agents, then those above it, the root last (default: the " +
          "state directory's own)",
      ).env("RBS_CA_CERT"),
    )
    .addOption(new Option("--ca-key <file>", "its private key, PKCS #8, readable for nobody else").env("RBS_CA_KEY"))
    .addOption(
      new Option("--region <name>", "where this orchestrator's agents run; who asks for another region is told so")
        .env("RBS_REGION").default("", "unknown"),
    )
    .helpOption("-h, --help", "print this help")
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
      "say --local-mode, by which it serves this machine, until the terminal ends; `orchestrator install` starts one " +
        "that stays",
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
  };
}

/** The orchestrator's own program, by its URL: a compiled one is the running executable. Absolute. */
export function ownProgram(url: string): string {
  return Deno.build.standalone ? Deno.execPath() : fileURLToPath(url);
}

function usage(message: string): RbsError {
  const text = message[0].toUpperCase() + message.slice(1);
  return new RbsError(`${text.replace(/\.$/, "")}; \`orchestrator --help\` lists what there is.`, {
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
