import { basename, dirname, join, relative } from "node:path";
import { RbsError, sentence } from "../../proto/base/errors.ts";
import type { Dial } from "../../proto/transport/grpc/channel.ts";
import { type ConfinedMount, confinedMounts, ownFolders, rights, ROOTS_UNSHARE } from "./confined_root.ts";
import { makeControlFolder } from "./control_files.ts";
import { type Covers, coversOf, NO_COVERS, withSessionMark } from "./covers.ts";
import { HeldMaker } from "./held_maker.ts";
import { log } from "../log.ts";
import { confinedCommand, isLimited, limitsWarning, removeGroups, type ResourceLimits } from "./resource_limits.ts";
import { SessionInit } from "./namespace_init.ts";
import { connectInside, LOOPBACK_UP } from "./session_network.ts";
import { shell } from "./shell.ts";
import { Beneath } from "../files/beneath.ts";
import { openOrMake } from "../files/open_or_make.ts";
import { mustNotBeMounted, openStorage, storageFolder, syncedRoot } from "./storage_folder.ts";
import { prepareSyncedRoot, readableAt, syncedNamespaceCommand, type SyncedView } from "./synced_root.ts";

/**
 * The ways to provide the developer's absolute paths in a session:
 *
 * | kind    | needs                                            | output base by name     |
 * |---------|--------------------------------------------------|-------------------------|
 * | bwrap   | bubblewrap, and user namespaces unless it's root | the developer's         |
 * | unshare | root, and util-linux                             | the developer's         |
 * | none    | nothing                                          | the one in the storage  |
 *
 * A synced session sees the developer's files under the developer's paths, so `none` is not possible for it; nor for a
 * session with its own network, for which `unshare` needs iproute2.
 */
export const NAMESPACE_KINDS = ["bwrap", "unshare", "none"] as const;

/** Executes the command after it with the least priority that there is: for processors, and for the disk where that counts. */
const GIVING_WAY = [
  ...["bash", "-c"],
  String.raw`
! type chrt >/dev/null 2>&1 || set -- chrt --idle 0 "$@"
! type ionice >/dev/null 2>&1 || set -- ionice --class idle "$@"
exec nice -n 19 "$@"`,
  "bash",
];

const CONTROL_GROUPS = "/sys/fs/cgroup";

/** See {@link NAMESPACE_KINDS}. */
export type NamespaceKind = typeof NAMESPACE_KINDS[number];

/** What a namespace shows where. Absolute paths; both must exist. */
export interface NamespaceBind {
  /** The session's output base in its storage. */
  storage: string;
  /** The developer's output base. Undefined: nothing is bound. */
  outputBase?: string;
  /** Where agent and session exchange files. Made a mount point, so that it cannot be moved. @default none */
  controlDirectory?: string;
  /** @default none */
  covers?: Covers;
  /** Only as root: where the session has root's rights, see ownFolders. Undefined: everywhere. */
  own?: readonly string[];
  /** Whether the session runs in a control group, which it must not change. */
  limited?: boolean;
  /** Whether it has its own network. @default false */
  unshareNet?: boolean;
}

/**
 * The program and arguments that make a namespace of `kind`. The command to run in it follows.
 *
 * Everything on the host is visible under its own name, since flags may name any file, as with a local Bazel server.
 * /tmp is a separate mount because linux-sandbox binds it (mount(2) gives EINVAL otherwise).
 *
 * Root needs another /proc: bubblewrap covers parts of a /proc that it mounts for root, and the kernel then refuses
 * linux-sandbox its own. So util-linux makes the pid namespace and mounts /proc, and bubblewrap binds it. In any case
 * the numbers in /proc are those of the pid namespace: a Bazel client inside finds its server by them.
 */
export function namespaceCommand(kind: NamespaceKind, root: boolean, bind: NamespaceBind): string[] {
  const { storage, outputBase, controlDirectory, covers = NO_COVERS, limited, unshareNet = false } = bind;
  // The same for both kinds, and faster. But bubblewrap needs no iproute2 for a separate network.
  if (root && bind.own !== undefined && kind !== "none" && !(kind === "bwrap" && unshareNet)) {
    const mounts: ConfinedMount[] = [
      ["bind", "/tmp", "/tmp"],
      ...covers.pinned.map((path) => ["bind", path, path] as const),
      ...covers.folders.map((path) => ["empty", "", path] as const),
      ...[...covers.shown, ...covers.readable].map((path) => ["show", path, path] as const),
      ...[...covers.folders, ...covers.readable].map((path) => ["lock", "", path] as const),
      ...covers.files.map((path) => ["unreadable", "/dev/null", path] as const),
      ...controlDirectory === undefined ? [] : [["bind", controlDirectory, controlDirectory] as const],
      ...outputBase === undefined ? [] : [["bind", storage, outputBase] as const],
    ];
    const net = unshareNet ? ["--net", ...LOOPBACK_UP] : [];
    return [...ROOTS_UNSHARE, ...net, ...confinedMounts(bind.own, mounts)];
  }
  const { begin, enter } = rights(root ? bind.own : undefined);
  const net = unshareNet ? ["--unshare-net"] : [];
  const binds = [
    ...["--bind", "/tmp", "/tmp"],
    ...covers.pinned.flatMap((path) => ["--bind", path, path]),
    ...covers.folders.flatMap((path) => ["--tmpfs", path]),
    ...covers.ways.flatMap((path) => ["--perms", "0755", "--dir", path]),
    ...covers.shown.flatMap((path) => ["--bind", path, path]),
    ...covers.readable.flatMap((path) => ["--ro-bind", path, path]),
    ...covers.folders.flatMap((path) => ["--remount-ro", path]),
    ...covers.files.flatMap((path) => ["--ro-bind", "/dev/null", path]),
    ...limited ? ["--ro-bind-try", CONTROL_GROUPS, CONTROL_GROUPS] : [],
    ...(controlDirectory === undefined ? [] : ["--bind", controlDirectory, controlDirectory]),
    ...(outputBase === undefined ? [] : ["--bind", storage, outputBase]),
    "--",
  ];
  switch (kind) {
    case "bwrap":
      return root
        ? [
          ...[...ROOTS_UNSHARE, ...begin, "bwrap", "--die-with-parent", ...net],
          ...["--dev-bind", "/", "/", "--bind", "/proc", "/proc", ...binds, ...enter],
        ]
        : [
          ...["bwrap", "--die-with-parent", "--unshare-user", "--unshare-pid", "--unshare-ipc", ...net],
          ...["--dev-bind", "/", "/", "--proc", "/proc", ...binds],
        ];
    case "unshare":
      return [
        ...[...ROOTS_UNSHARE, ...unshareNet ? ["--net", ...LOOPBACK_UP] : []],
        ...["bash", "-c", UNSHARED, "bash", storage, outputBase ?? "", controlDirectory ?? ""],
        ...[covers.pinned, covers.folders, covers.files, covers.shown].flatMap((paths) => [...paths, ""]),
      ];
    case "none":
      return ["setsid"];
  }
}

/**
 * Does as root what bubblewrap does. $1: the output base in the storage. $2: the developer's output base, or empty. $3:
 * the control directory, or empty. Then the parts of {@link Covers}: pinned, folders, files and shown, with an empty
 * argument after each. Then the command.
 */
const UNSHARED = String.raw`
storage=$1 output_base=$2 control=$3 pinned=() folders=() files=() shown=() held=()
shift 3
for part in pinned folders files shown; do
  declare -n paths=$part
  while [[ -n $1 ]]; do paths+=("$1"); shift; done
  shift
done
mount --bind /tmp /tmp || exit
for path in "${"${pinned[@]}"}"; do mount --rbind -- "$path" "$path" || exit; done
for path in "${"${shown[@]}"}"; do exec {fd}<"$path" && held+=("$fd") || exit; done
for path in "${"${folders[@]}"}"; do mount -t tmpfs -o mode=755 rbs "$path" || exit; done
for i in "${"${!shown[@]}"}"; do
  mkdir -p -- "${"${shown[i]}"}" && mount --no-canonicalize --bind "/proc/self/fd/${"${held[i]}"}" "${"${shown[i]}"}" || exit
  exec {held[i]}<&-
done
for path in "${"${folders[@]}"}"; do mount -o remount,ro "$path" || exit; done
for path in "${"${files[@]}"}"; do mount --bind -- /dev/null "$path" && mount -o remount,bind,ro,nodev -- "$path" || exit; done
[[ -z $control ]] || mount --bind -- "$control" "$control" || exit
[[ -z $output_base ]] || mount --bind -- "$storage" "$output_base" || exit
exec "$@"
`;

interface User {
  isRoot: boolean;
  /** The home directory and the cache directory; an empty string for a missing one. */
  folders: string[];
}

let user: Promise<User> | undefined;

/** The user that runs this process. Asks bash once, since Deno would need a permission for it. */
function whoami(): Promise<User> {
  return user ??= shell(`printf '%s\\0' "$EUID" "$HOME" "$XDG_CACHE_HOME"`).then(({ code, stdout, stderr }) => {
    if (code !== 0) throw new RbsError(`bash cannot tell as whom it runs (exit code ${code}): ${stderr.trim()}`);
    const [uid, ...folders] = stdout.split("\0");
    return { isRoot: uid === "0", folders };
  }).catch((e) => {
    // A transient failure, for example no memory or no process left: the next caller may succeed.
    user = undefined;
    throw e;
  });
}

/** Whether this process is root. */
export async function isRoot(): Promise<boolean> {
  return (await whoami()).isRoot;
}

/** Options of {@link SessionNamespace}. */
export interface SessionNamespaceOptions {
  /** `auto` takes the first kind that works here. */
  kind: NamespaceKind | "auto";
  /** The session's own directory: contains `out`, `ctl`, and the `root` of a synced session. */
  storageDirectory: string;
  /** The developer's output base, if known. */
  outputBase?: string;
  /** The developer's workspace, absolute. @default unknown */
  workspace?: string;
  /** What a synced session sees. Undefined: laptop and agent share their disk, and the session sees it. */
  synced?: SyncedView;
  /** Paths that a session that is not synced does not see, such as keys and other sessions' storage. @default none */
  hidden?: readonly string[];
  /** The directory of the client's `--server_javabase`: its SESSION_MARK is covered. @default none */
  javabase?: string;
  /**
   * Absolute paths that a session can read but not change, if it does not have all rights of root; see
   * {@link SessionNamespace.readablePath}. @default none
   */
  readable?: readonly string[];
  /**
   * Directories that the request names: as root, a session that is not synced has root's rights in them. @default none
   */
  named?: readonly string[];
  /** Whether a session of root may have all of root's rights, confined or not. @default false */
  allowRootSessions?: boolean;
  /** @default none */
  limits?: ResourceLimits;
  /** Whether the session has its own network, with only a loopback interface. @default false */
  unshareNet?: boolean;
  /** Whether everything in it gives way to the rest of the machine. @default false */
  givesWay?: boolean;
  /**
   * A maker that was started ahead, used if the namespace's command starts like it. The namespace disposes of it.
   * @default none
   */
  held?: HeldMaker;
}

/** Starts a maker for a session that is not known yet, see {@link SessionNamespaceOptions.held}. */
export async function holdMaker({ allowRootSessions }: Pick<SessionNamespaceOptions, "allowRootSessions">) {
  const { isRoot } = await whoami();
  return isRoot && !allowRootSessions ? HeldMaker.ofRoot() : HeldMaker.ofAnyone();
}

/** The namespace of a session: made on demand, and made again after it was killed. */
export class SessionNamespace {
  readonly #options: SessionNamespaceOptions;
  #kind: NamespaceKind | undefined;
  #init: Promise<SessionInit> | undefined;
  #closed = false;
  #limitsWarning?: string;
  #storageOutputBase?: string;
  #storage?: Beneath;
  #own?: readonly Beneath[];
  #showsReadable = false;

  constructor(options: SessionNamespaceOptions) {
    this.#options = options;
  }

  /** The chosen kind, once {@link init} has resolved. */
  get kind(): NamespaceKind {
    if (this.#kind === undefined) throw new TypeError("the namespace was not started yet");
    return this.#kind;
  }

  /** Why the session's limits are not fully enforced, for the developer; undefined if they are. */
  get limitsWarning(): string | undefined {
    return this.#limitsWarning;
  }

  /** Whether the session sees what the developer's proxy sent, and nothing of the developer's own disk. */
  get synced(): boolean {
    return this.#options.synced !== undefined;
  }

  /** Connects to the session's loopback interface; undefined if that is this machine's. */
  get dial(): Dial | undefined {
    if (!this.#options.unshareNet) return undefined;
    return async (host, port, signal) => {
      const init = await this.running();
      if (!init) throw new RbsError("The session's namespace ended.");
      return await connectInside(init.pid, host, port, signal);
    };
  }

  /**
   * Where a confined session of root may write, opened before any of its programs ran. Undefined if it is not confined,
   * or was not started yet.
   */
  get own(): readonly Beneath[] | undefined {
    return this.#own;
  }

  /** Whether the session can read {@link SessionNamespaceOptions.readable} but not change it, once it was started. */
  get showsReadable(): boolean {
    return this.#showsReadable;
  }

  /** The session's path of something that is in one of the {@link SessionNamespaceOptions.readable}. */
  readablePath(path: string): string {
    const { readable = [], synced } = this.#options;
    const at = synced ? readable.findIndex((folder) => path.startsWith(`${folder}/`)) : -1;
    return at < 0 ? path : readableAt(at) + path.slice(readable[at].length);
  }

  /** Whether the output base has the developer's path inside. */
  get samePaths(): boolean {
    return this.kind !== "none" && (this.synced || !this.mustNotBeMounted);
  }

  /**
   * See {@link mustNotBeMounted}. Then a synced session has its output base in its root, and others use the storage's
   * path.
   */
  get mustNotBeMounted(): boolean {
    const { workspace, outputBase } = this.#options;
    return workspace !== undefined && mustNotBeMounted(workspace, outputBase);
  }

  /**
   * The session's own directory, open: through it the agent reaches what the session's programs can write. Created if
   * missing. Throws an RbsError.
   */
  get storage(): Beneath {
    try {
      return this.#storage ??= openStorage(this.#options.storageDirectory);
    } catch (cause) {
      throw unwritable(this.#options.storageDirectory, cause);
    }
  }

  /** The session's output base in the storage, see {@link storageFolder}. Throws an RbsError. */
  get storageOutputBase(): string {
    try {
      const { storageDirectory, outputBase } = this.#options;
      return this.#storageOutputBase ??= this.synced && this.mustNotBeMounted
        ? `${syncedRoot(storageDirectory)}${outputBase}`
        : storageFolder(storageDirectory, outputBase);
    } catch (cause) {
      throw unwritable(this.#options.storageDirectory, cause);
    }
  }

  /** The same relative to {@link storage}. Open it that way, since the session's programs may change what is there. */
  get storageOutputBaseName(): string {
    return relative(this.#options.storageDirectory, this.storageOutputBase);
  }

  /** The output base's path inside the namespace. Call it after {@link init}. */
  get outputBase(): string {
    return this.samePaths && this.#options.outputBase !== undefined ? this.#options.outputBase : this.storageOutputBase;
  }

  /** The first process of the namespace; starts it if necessary. Rejects with an RbsError. */
  init(): Promise<SessionInit> {
    if (this.#closed) return Promise.reject(new RbsError("This session's agent is stopping: run the command again."));
    if (!this.#init) {
      const starting = this.#start();
      this.#init = starting;
      const again = () => {
        if (this.#init === starting) this.#init = undefined;
      };
      starting.then(({ gone }) => gone.aborted ? again() : gone.addEventListener("abort", again), again);
    }
    return this.#init;
  }

  /**
   * The first process of a namespace in which no program of the session has run; ends those that run now. Commands wait
   * until the result is disposed of. Rejects with an RbsError.
   */
  async quiet(): Promise<{ init: SessionInit } & Disposable> {
    for (;;) {
      const init = await this.init();
      if (!init.used) {
        const held = init.hold();
        return { init, [Symbol.dispose]: () => held[Symbol.dispose]() };
      }
      log("the session's programs are ended, since its Bazel server is started");
      await init.close();
    }
  }

  /** The first process of the namespace, if it exists. */
  async running(): Promise<SessionInit | undefined> {
    return await this.#init?.catch(() => undefined);
  }

  /** Ends everything in the namespace, for good. */
  async close(): Promise<void> {
    this.#closed = true;
    this.#options.held?.[Symbol.dispose]();
    const init = await this.running();
    await init?.close();
    if (init && this.#options.limits && isLimited(this.#options.limits)) {
      await removeGroups(this.#options.storageDirectory);
    }
  }

  async #start(): Promise<SessionInit> {
    const { storageDirectory, synced, allowRootSessions } = this.#options;
    const outputBase = !synced && this.mustNotBeMounted ? undefined : this.#options.outputBase;
    const { isRoot: root, folders } = await whoami();
    const candidates = this.#candidates(root);
    const storage = this.storageOutputBase;
    const controlDirectory = join(storageDirectory, "ctl");
    prepare(this.storage, this.storageOutputBaseName, controlDirectory, synced ? undefined : outputBase, this.#own);
    // Who has all rights of root could mount it anew.
    const readable = root && allowRootSessions ? [] : this.#options.readable ?? [];
    const mounts = synced && await prepareSyncedRoot({
      ...{ ...synced, readable },
      ...{ storageDirectory, storage: this.storage, controlDirectory, storageOutputBase: storage, outputBase },
    });
    // Of its own storage, the session sees only its part: not the agent's lock and notes.
    const covers = synced ? NO_COVERS : withSessionMark(
      coversOf([...this.#options.hidden ?? [], storageDirectory], [storage, controlDirectory], readable),
      this.#options.javabase,
    );
    const others = synced ? [] : ["/tmp", "/var/tmp", ...folders];
    const named = synced ? [] : this.#options.named;
    const own = root && !allowRootSessions ? ownFolders(storageDirectory, others, named) : undefined;
    this.#own ??= own?.map((folder) => Beneath.open(folder));
    const failures: string[] = [];
    const { limits, unshareNet } = this.#options;
    const limited = limits !== undefined && isLimited(limits);
    const confined = [
      ...this.#options.givesWay ? GIVING_WAY : [],
      ...limited ? confinedCommand(limits, { storageDirectory }) : [],
    ];
    const { held } = this.#options;
    // A maker that was started ahead may have been killed, which says nothing about the kind.
    const attempts = candidates.flatMap((kind, index) => index === 0 && held ? [{ kind, held }, { kind }] : [{ kind }]);
    for (const { kind, held } of attempts) {
      try {
        const namespace = mounts && kind !== "none"
          ? syncedNamespaceCommand(kind, root, { root: syncedRoot(storageDirectory), mounts, unshareNet, own })
          : namespaceCommand(kind, root, {
            ...{ storage, outputBase, controlDirectory, limited, unshareNet, covers, own },
          });
        const init = await SessionInit.start({
          command: [...confined, ...namespace],
          controlDirectory,
          held,
          serverDirectory: kind === "none" ? join(storage, "server") : undefined,
        });
        this.#options.held?.[Symbol.dispose]();
        if (this.#kind === undefined) {
          log(`namespace: ${kind}${failures.length ? `, since ${failures.join("; ")}` : ""}`);
        }
        this.#kind = kind;
        this.#showsReadable = readable.length > 0 && kind !== "none";
        if (limited) this.#limitsWarning = limitsWarning(storageDirectory);
        return init;
      } catch (e) {
        if (held) log(`what was started ahead did not make a namespace (${sentence(e)})`);
        else failures.push(`${kind} does not work here (${sentence(e)})`);
      }
    }
    throw new RbsError(
      `The session's mount namespace cannot be made: ${
        failures.join("; ")
      }; install bubblewrap and allow user namespaces${this.#needsNamespace ? "" : ", or set RBS_NAMESPACE=none"}${
        own
          ? ", or start the orchestrator as an ordinary user (as root it needs perl, Linux 5.12 and a storage on ext4, xfs, btrfs or tmpfs; --allow-root-sessions does without)"
          : ""
      }.`,
      { culprit: "caller" },
    );
  }

  /** The kinds to try, in order. Throws an RbsError if none is possible. */
  #candidates(root: boolean): readonly NamespaceKind[] {
    const wanted = this.#kind ?? this.#options.kind;
    if (wanted === "none" && this.#needsNamespace) {
      throw new RbsError(
        `A ${
          this.synced ? "synced session needs a mount namespace" : "session with --unshare-net needs a namespace"
        }, and RBS_NAMESPACE=none forbids it: install bubblewrap on the agent's machine and unset RBS_NAMESPACE.`,
        { culprit: "caller" },
      );
    }
    if (wanted !== "auto") return [wanted];
    // Builds get all of root's rights only if that was explicitly allowed.
    const isNoneAllowed = !this.#needsNamespace && (!root || this.#options.allowRootSessions);
    return NAMESPACE_KINDS.filter((kind) => kind === "unshare" ? root : kind !== "none" || isNoneAllowed);
  }

  get #needsNamespace(): boolean {
    return this.synced || this.#options.unshareNet === true;
  }
}

const encode = (text: string) => new TextEncoder().encode(text);

function unwritable(storage: string, cause: unknown): RbsError {
  return new RbsError(
    `The session's storage ${storage} cannot be written (${sentence(cause)}): make room or fix its permissions.`,
    { cause, culprit: "caller" },
  );
}

/**
 * Makes the session's directories, and the developer's output base as a mount point.
 *
 * @param own Where the session may write, as opened before; undefined before its first program.
 */
function prepare(
  storage: Beneath,
  storageOutputBase: string,
  controlDirectory: string,
  outputBase: string | undefined,
  own: readonly Beneath[] | undefined,
): void {
  try {
    if (storageOutputBase.includes("/")) storage.clearWay(dirname(storageOutputBase));
    storage.clearWay(`${storageOutputBase}/server`, 0o700);
    makeControlFolder(controlDirectory);
    const probe = `${basename(controlDirectory)}/probe`;
    storage.writeNew(probe, encode("a disk that is full lets files be made, but not be written\n"), 0o600, 0);
    storage.remove(probe);
  } catch (cause) {
    throw unwritable(dirname(controlDirectory), cause);
  }
  if (outputBase === undefined) return;
  try {
    // The output base mostly exists. LocalOutputBase finds out whether it can be written.
    openOrMake(outputBase, true, (folder) => {
      if (own && !folder.isIn(own)) throw new Error("it leads out of the folders in which the session may write");
    })![Symbol.dispose]();
  } catch (cause) {
    throw new RbsError(`The output base ${outputBase} cannot be used (${sentence(cause)}): fix its permissions.`, {
      cause,
      culprit: "caller",
    });
  }
}
