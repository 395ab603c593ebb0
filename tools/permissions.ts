/**
 * What each program may do: the one place from which launchers, compiled programs and tests take it.
 *
 * Values may name a launcher variable (`$output_base`): the launcher finds it anew at each start, so that a program gets
 * the very paths that it was started for. A compiled program has its permissions baked in; where they depend on the
 * start, `compiled` says what it gets instead, which is wider.
 */

/** The kinds of Deno's `--allow-…` flags that are used. */
export type Kind = "net" | "read" | "write" | "env" | "run" | "sys" | "ffi";

/** One thing that a program may do, and why it must. */
export interface Permission {
  allow: Kind;
  /** Values of the flag. One that is a launcher variable without a value at a start is left out. */
  of: readonly string[] | "all";
  why: string;
  /** A launcher variable: only at starts at which it has a value. A compiled program has it always. */
  when?: string;
  /** What a compiled program gets instead; "all" is the flag without values. @default the same as `of` */
  compiled?: readonly string[] | "all";
}

/** Where a launcher takes a variable's value from: a flag of the command line first, then a shell expression. */
export interface LauncherVariable {
  /** Flags of the program, `--x=VALUE` or `--x VALUE`; the first one given counts. */
  options?: readonly string[];
  /** A shell word. It must not fork: each start pays for it. */
  otherwise?: string;
  /**
   * path: a value of --allow-read and --allow-write. network: "HOST:PORT" of a peer (or several, with commas), a value of
   * --allow-net: nothing for this machine (see LOOPBACK), and everything for another one, because Deno checks the
   * addresses behind a name, and these nobody knows beforehand. address: an IP address, or "localhost": a value of
   * --allow-net.
   * @default "path"
   */
  is?: "path" | "network" | "address";
}

/** A program of ours. */
export interface Program {
  name: string;
  /** Relative to the repository. */
  entry: string;
  /** Relative to dist/. */
  output: string;
  /** A shell program of the launcher that sets more variables, whose names stand in `prepared`. */
  prepare?: string;
  prepared?: readonly string[];
  /** Options of the JavaScript engine. */
  v8Flags?: readonly string[];
  /** Its children get the user's environment: what the launcher hides from Deno it keeps as RBS_USER_ENV_…. */
  keepsUserEnvironment?: boolean;
  variables: Readonly<Record<string, LauncherVariable>>;
  /**
   * npm packages that cannot be bundled, and a launcher variable: it has a value at the starts that may import them,
   * which is their folder (see packages.ts).
   */
  packages?: { names: readonly string[]; folder: string };
  permissions: readonly Permission[];
  /** Arguments with which the program says who it is, and what it then prints. */
  proof: { args: readonly string[]; prints: RegExp };
}

const LOOPBACK = ["127.0.0.1", "[::1]", "localhost"] as const;

/** What @grpc/grpc-js and the node: modules below it look up. They get `undefined` for all else (--ignore-env). */
const GRPC_ENV = ["GRPC_*", "grpc_proxy", "http_proxy", "https_proxy", "no_grpc_proxy", "no_proxy"] as const;

const STATE_DIRECTORY: LauncherVariable = {
  options: ["--state-dir"],
  otherwise: "${RBS_STATE_DIR:-${XDG_STATE_HOME:-${HOME-}/.local/state}/rbs}",
};
const ORCHESTRATOR: LauncherVariable = { otherwise: "${RBS_ORCHESTRATOR_ADDR-}", is: "network" };

const STATE_ENV = {
  allow: "env",
  of: ["RBS_*", "HOME", "USER", "LOGNAME", "XDG_STATE_HOME"],
  why: "RBS_… settings, and what tells the state directory and the local user's name",
} as const satisfies Permission;

const USER_ID: Permission = {
  allow: "sys",
  of: ["uid"],
  why: "names the local user where no variable does; whether keys and folders are this user's",
};

export const PROXY: Program = {
  name: "proxy",
  entry: "proxy/main.ts",
  output: "javabase/bin/java",
  // It runs on laptops, mostly idle. After 300 MB of output it holds 78 MB so, and 131 MB without: a small young
  // generation, a collection by itself when it falls idle, and one heap of the C library for all threads. What was
  // compiled stays, however seldom it runs.
  v8Flags: ["--max-semi-space-size=4", "--no-flush-bytecode", "--expose-gc"],
  prepare: "export MALLOC_ARENA_MAX=1\n",
  variables: { orchestrator: ORCHESTRATOR },
  permissions: [
    { allow: "net", of: LOOPBACK, why: "the Bazel client, a local orchestrator and local agents" },
    {
      allow: "net",
      of: ["$orchestrator"],
      why: "an orchestrator elsewhere, and the agents that it names",
      compiled: "all",
    },
    { allow: "net", of: ["169.254.169.254:80"], why: "asks the cloud once a day which region this machine is in" },
    {
      allow: "read",
      of: "all",
      why: "handshake files and keys; the workspace, and what it uses outside of itself, for an agent elsewhere",
    },
    {
      allow: "write",
      of: "all",
      why:
        "handshake files; outputs from an agent elsewhere, among them symlinks, for which Deno wants the right to write " +
        "everywhere (proxy/outputs/allowed_paths.ts says where they may stand)",
    },
    {
      allow: "run",
      of: ["bash"],
      why: "file names that are not UTF-8, which Deno cannot name; findmnt, which tells of mount points",
    },
    {
      allow: "sys",
      of: ["statfs", "uid", "hostname"],
      why:
        "whether the workspace's file system tells of changes; whether the keys are this user's; whether this is still the " +
        "machine whose id is kept",
    },
    STATE_ENV,
    { allow: "env", of: ["LANG", "LANGUAGE", "LC_*"], why: "the locale that the client has chosen for the server" },
    { allow: "env", of: GRPC_ENV, why: "grpc-js reads its settings when it is imported" },
  ],
  proof: { args: [], prints: /rbs: this program stands in for a Bazel server's JVM/ },
};

export const ORCHESTRATOR_PROGRAM: Program = {
  name: "orchestrator",
  entry: "orchestrator/main.ts",
  output: "orchestrator",
  // What strangers make it allocate is freed soon: a small young generation, one heap of the C library for all threads, and
  // collections when many have come and gone (proto/base/garbage.ts).
  v8Flags: ["--max-semi-space-size=2", "--optimize-for-size", "--expose-gc"],
  variables: {
    state: STATE_DIRECTORY,
    storage: { options: ["--storage-root"], otherwise: "${RBS_STORAGE_ROOT-}" },
    agent: { options: ["--agent"], otherwise: '${RBS_AGENT:-"${0%/*}/agent"}' },
    listen: { options: ["--listen"], otherwise: "${RBS_LISTEN-}", is: "address" },
    store: { options: ["--store"], otherwise: "${RBS_STORE-}" },
    authority: { options: ["--ca-cert"], otherwise: "${RBS_CA_CERT-}" },
    key: { options: ["--ca-key"], otherwise: "${RBS_CA_KEY-}" },
    user: { options: ["--agent-user"], otherwise: "${RBS_AGENT_USER-}" },
    spanner: { otherwise: "${SPANNER_EMULATOR_HOST:-elsewhere}", is: "network" },
  },
  prepare: `\
export MALLOC_ARENA_MAX=1
case $store in
  spanner:?*)
    packages=\${0%/*}/.packages
    credentials=\${GOOGLE_APPLICATION_CREDENTIALS:-\${HOME-}/.config/gcloud/application_default_credentials.json} ;;
  *) spanner= ;;
esac
case $store in sqlite:?*) file=\${store#sqlite:} ;; esac
case $file in *"/"*) folder=\${file%/*} ;; ?*) folder=. ;; esac
case $user in ?*) passwd=/etc/passwd ;; esac
case \${1-} in install | status | stop) service=1 units=\${XDG_CONFIG_HOME:-\${HOME-}/.config}/systemd/user ;; esac
`,
  prepared: ["packages", "credentials", "file", "folder", "passwd", "service", "units"],
  packages: { names: ["@google-cloud/spanner"], folder: "packages" },
  permissions: [
    { allow: "net", of: LOOPBACK, why: "its port, and the agents on this machine" },
    { allow: "net", of: ["$listen"], why: "the same, where other machines reach it", compiled: "all" },
    { allow: "read", of: ["$state", "$storage"], why: "keys, sessions.sqlite, agents' logs", compiled: "all" },
    { allow: "read", of: ["$passwd"], why: "only with --agent-user: who that is", compiled: "all" },
    { allow: "read", of: ["$authority", "$key"], why: "an outside authority's files", compiled: "all" },
    { allow: "read", of: ["$file"], why: "the sessions, where --store names an SQLite file", compiled: "all" },
    {
      allow: "read",
      of: ["$folder"],
      why: "whether the folder of that file can be hidden from sessions",
      compiled: "all",
    },
    { allow: "write", of: ["$file"], why: "the sessions there", compiled: "all" },
    { allow: "net", of: ["$spanner"], why: "Spanner, or its emulator, where --store names it", compiled: "all" },
    { allow: "read", of: ["$packages"], why: "the Spanner library, which cannot be bundled", compiled: "all" },
    { allow: "read", of: ["$credentials"], why: "the key to Spanner", compiled: "all" },
    {
      allow: "read",
      of: ["/etc/ssl", "/etc/pki"],
      when: "spanner",
      why: "the Spanner library reads the system's certificate authorities by itself",
    },
    {
      allow: "env",
      of: ["SPANNER_*", "GOOGLE_*", "GCLOUD_PROJECT", "METADATA_SERVER_DETECTION"],
      when: "spanner",
      why: "the Spanner library's settings: the emulator, the credentials",
    },
    {
      allow: "sys",
      of: ["uid", "networkInterfaces"],
      when: "spanner",
      why: "the Spanner library names its clients apart, and looks whether it runs on one of Google's machines",
    },
    { allow: "read", of: ["$agent"], why: "says at the start when there is no agent program", compiled: "all" },
    { allow: "write", of: ["$state", "$storage"], why: "keys, sessions.sqlite, agents' storage", compiled: "all" },
    { allow: "run", of: ["$agent"], why: "starts agents", compiled: "all" },
    { allow: "run", of: ["kill"], why: "ends agents that another orchestrator started" },
    {
      allow: "run",
      of: ["stat", "rm"],
      when: "passwd",
      why: "only with --agent-user: who owns the folders above its storage; what that user has left, by that user",
    },
    {
      allow: "run",
      of: ["systemctl", "sh"],
      when: "service",
      why: "only for install, status and stop: the user's systemd, or a process of its own and its number",
    },
    { allow: "read", of: ["$units"], why: "only for these: whether there is a unit", compiled: "all" },
    { allow: "write", of: ["$units"], why: "only for `orchestrator install`: the unit", compiled: "all" },
    {
      allow: "env",
      of: [...STATE_ENV.of, ..."PATH LANG LANGUAGE LC_* TZ TMPDIR XDG_CACHE_HOME XDG_CONFIG_HOME JAVA_HOME".split(" ")],
      why: "settings, and what agents inherit",
    },
    USER_ID,
    { allow: "env", of: GRPC_ENV, why: "grpc-js reads its settings when it is imported" },
  ],
  proof: { args: ["--help"], prints: /Usage: orchestrator/ },
};

export const AGENT: Program = {
  name: "agent",
  entry: "agent/main.ts",
  output: "agent",
  // Its code is needed for some milliseconds, minutes apart, while a developer waits: it is not compiled anew each time.
  // What strangers make it allocate is freed soon (proto/base/garbage.ts).
  v8Flags: ["--no-flush-bytecode", "--max-semi-space-size=4", "--expose-gc"],
  variables: {
    host: { options: ["--host"], otherwise: "${RBS_AGENT_HOST-}", is: "address" },
  },
  permissions: [
    { allow: "net", of: LOOPBACK, why: "its two ports, and the real Bazel server" },
    { allow: "net", of: ["$host"], why: "its ports, where other machines reach it", compiled: "all" },
    { allow: "read", of: "all", why: "the session's storage, the client's logging settings, the developer's links" },
    {
      allow: "write",
      of: "all",
      why: "the session's folder, wherever --storage-root is, and the developer's output base",
    },
    { allow: "run", of: ["bash"], why: "the namespace's init; whatever else is needed is run by bash" },
    {
      allow: "ffi",
      of: "all",
      why:
        "openat2 and the …at calls of the C library, by which no symlink leads the agent out of its session's files, and " +
        "the kernel's word on who listens at a port (agent/files, the one folder that makes them)",
    },
    { allow: "env", of: ["RBS_*"], why: "its flags may stand there" },
    { allow: "env", of: GRPC_ENV, why: "grpc-js reads its settings when it is imported" },
  ],
  proof: { args: ["--help"], prints: /Usage: agent/ },
};

export const JBAZEL: Program = {
  name: "jbazel",
  entry: "proxy/jbazel/main.ts",
  output: "jbazel",
  keepsUserEnvironment: true,
  variables: {
    orchestrator: { ...ORCHESTRATOR, options: ["--orchestrator"] },
    javabase: { options: ["--javabase"], otherwise: '${RBS_JAVABASE:-"${0%/*}/javabase"}' },
    state: STATE_DIRECTORY,
  },
  prepare: `\
if [ "\${1-}" = setup ]; then
  home=\${HOME-}
  cd -P .
  workspace=$PWD
  while [ -n "$workspace" ]; do
    for marker in MODULE.bazel REPO.bazel WORKSPACE.bazel WORKSPACE; do
      if [ -f "$workspace/$marker" ]; then break 2; fi
    done
    workspace=\${workspace%/*}
  done
  for word do
    case $before in --rc) rc=$word ;; esac
    case $word in --rc=?*) rc=\${word#*=} ;; esac
    before=$word
  done
  case $rc in ?*"/"*) rc=\${rc%/*} ;; ?*) rc=. ;; esac
  case $javabase in *"/"*) service=\${javabase%/*}/orchestrator ;; *) service=./orchestrator ;; esac
fi
if [ "\${1-}" = login ]; then
  login=$state
  # The orchestrator's address stands in the token.
  orchestrator=elsewhere
fi
`,
  prepared: ["home", "workspace", "rc", "login", "service"],
  permissions: [
    { allow: "net", of: LOOPBACK, why: "a local orchestrator and local agents" },
    {
      allow: "net",
      of: ["$orchestrator"],
      why: "an orchestrator elsewhere, and the agents that it names",
      compiled: "all",
    },
    {
      allow: "read",
      of: "all",
      why: "looks for the workspace upwards from any folder, and bazelrc files name others, output and install bases",
    },
    {
      allow: "write",
      of: ["$workspace", "$home", "$rc"],
      why: "only for `jbazel setup`: replaces the bazelrc by a new file beside it",
      compiled: "all",
    },
    { allow: "write", of: ["$state/machines"], why: "the id of this machine, if it has none yet", compiled: "all" },
    { allow: "write", of: ["$login"], why: "only for `jbazel login`: the key and the certificate", compiled: "all" },
    {
      allow: "run",
      of: ["bazel", "/usr/bin/stty", "/bin/stty"],
      why:
        "the local Bazel: for synced workspaces and RBS_FALLBACK=local, its version, setup's first command; a terminal's " +
        "modes",
    },
    {
      allow: "run",
      of: ["$javabase/bin/java", "java", "bwrap", "unshare", "gcc", "cc", "clang", "ps"],
      why: "doctor's checks",
      compiled: "all",
    },
    {
      allow: "run",
      of: ["$service"],
      why: "only for `jbazel setup`: starts an orchestrator in the background for who says yes",
      compiled: "all",
    },
    { allow: "env", of: "all", why: "a Bazel command gets the user's whole environment" },
    {
      allow: "sys",
      of: ["uid", "statfs", "hostname"],
      why:
        "doctor looks whose the folders are, and at the free space; whether this is still the machine whose id is kept",
    },
  ],
  proof: { args: ["--version"], prints: /^jbazel \d/ },
};

/** All programs, in the order in which they are compiled. */
export const PROGRAMS: readonly Program[] = [PROXY, ORCHESTRATOR_PROGRAM, AGENT, JBAZEL];

/** The flags of `deno compile`, which know no launcher variables. */
export function compiledFlags(program: Program): string[] {
  const kinds = byKind(program, (p) => p.compiled ?? p.of);
  const flags = [...v8Option(program), "--no-prompt", ...kinds.get("env") === "all" ? [] : ["--ignore-env"]];
  for (const [kind, values] of kinds) {
    flags.push(values === "all" ? `--allow-${kind}` : `--allow-${kind}=${values.join(",")}`);
  }
  return flags;
}

/** Deno's option for a program's engine options; none if it has none. */
export function v8Option({ v8Flags = [] }: Program): string[] {
  return v8Flags.length > 0 ? [`--v8-flags=${v8Flags.join(",")}`] : [];
}

/** The permissions by kind, each kind's values in one list. */
export function byKind(
  program: Program,
  values: (permission: Permission) => readonly string[] | "all",
  permissions = program.permissions,
): Map<Kind, string[] | "all"> {
  const kinds = new Map<Kind, string[] | "all">();
  for (const permission of permissions) {
    const known = kinds.get(permission.allow) ?? [];
    const more = values(permission);
    kinds.set(permission.allow, known === "all" || more === "all" ? "all" : [...known, ...more]);
  }
  return kinds;
}
