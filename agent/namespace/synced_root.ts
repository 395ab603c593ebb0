import { posix } from "node:path";
import { rights, ROOTS_UNSHARE } from "./confined_root.ts";
import { LOOPBACK_UP } from "./session_network.ts";
import type { Beneath } from "../files/beneath.ts";
import { shell } from "./shell.ts";
import { SYNCED_ROOT } from "./storage_folder.ts";
import { SESSIONS_JAVA } from "../../proto/bazel/local_jdk.ts";
import { RbsError, sentence } from "../../proto/base/errors.ts";
import { lookFor } from "../../proto/tree/files.ts";
import { SYSTEM_FOLDERS, systemFolderOf } from "../../proto/base/system_folders.ts";
import { isAtOrIn, isIn } from "../../proto/base/absolute_path.ts";

/** What a synced session sees, beside the system directories of the agent's machine and its own storage. */
export interface SyncedView {
  /** The workspace's absolute path on the developer's machine. */
  workspace: string;
  /** What else of the agent's machine is visible, read-only: absolute paths, and names of programs on the PATH. */
  visible: readonly string[];
  /** What of the agent's machine must not be visible, even in a system directory. Absolute paths. */
  hidden: readonly string[];
  /** The directory of the developer's `--server_javabase`; undefined if the client named none. */
  javabase?: string;
}

/** A mount in a synced session's namespace, whose root is the session's own directory. */
export interface Mount {
  how: "writable" | "read-only" | "devices" | "processes" | "empty" | "unreadable";
  /** Absolute path on the agent's machine; equals `to` for `empty` and `unreadable`. */
  from: string;
  /** Absolute path in the session. */
  to: string;
}

/** Options of {@link prepareSyncedRoot}. Absolute paths. */
export interface SyncedRootOptions extends SyncedView {
  storageDirectory: string;
  /** The storage directory, open. */
  storage: Beneath;
  /** Folders of the agent's machine that it sees, read-only, although they lie in hidden ones. Absolute. @default none */
  readable?: readonly string[];
  controlDirectory: string;
  /** The session's output base in its storage. */
  storageOutputBase: string;
  /** The developer's path of the output base. */
  outputBase?: string;
}

/**
 * Directories that belong to the session, wherever the developer's files are. linux-sandbox needs /tmp to be a mount.
 */
const OWN_FOLDERS = ["/home", "/root", "/tmp", "/var/tmp"];
const OWN_MOUNTS = ["/tmp", "/var/tmp"];

/**
 * Where the session sees its `readable` path of this index: in its `/` itself. A mount point cannot be moved, but what is
 * above it can, in the folders that are the session's, and another put in its place.
 */
export function readableAt(index: number): string {
  return `/.rbs-readable-${index}`;
}

/** Where root's new root is mounted first: a directory of the storage, beside the session's root. */
const MOUNT_POINT = "mount";

/**
 * Makes the root of a synced session: the directory in its storage that is its `/`, with all mount points. What the
 * developer's proxy sends to any other top-level name, now or later, appears there at once.
 *
 * | in the session                            | comes from                                   |
 * |-------------------------------------------|----------------------------------------------|
 * | /usr, /etc, /dev, … (SYSTEM_FOLDERS)      | the agent's machine; read-only               |
 * | the output base                           | `out` in the storage, or `root` if it must   |
 * |                                           | not be a mount                               |
 * | `visible`: install bases, a JDK           | the agent's machine; read-only               |
 * | `hidden`, and the agent's home, as far as | nowhere: empty                               |
 * | they are in one of the above              |                                              |
 * | `javabase`                                | made: it starts the session's own JDK        |
 * | `readable`: class-data archives           | the agent's machine; read-only, see          |
 * |                                           | {@link readableAt}                           |
 * | everything else, /tmp and /home too       | `root` in the storage                        |
 *
 * No program of the session may run meanwhile. Rejects with an RbsError.
 *
 * @returns the mounts in order: the deeper path wins
 */
export async function prepareSyncedRoot(options: SyncedRootOptions): Promise<Mount[]> {
  const { storageDirectory, storage, controlDirectory, storageOutputBase, workspace, outputBase, javabase } = options;
  refuse("workspace", workspace, "move it, to your home folder for example");
  if (outputBase !== undefined) refuse("output base", outputBase, "name another with bazel --output_base");

  const root = `${storageDirectory}/${SYNCED_ROOT}`;
  // Made here, since root cannot create anything where the session's ids apply.
  storage.clearWay(MOUNT_POINT, 0o700);
  const { folders, links, visible, hidden } = await surroundings(options);
  const mounts: Mount[] = [
    ...folders.map(systemMount),
    ...OWN_MOUNTS.map((to): Mount => ({ how: "writable", from: posix.join(root, to), to })),
    { how: "writable", from: controlDirectory, to: controlDirectory },
  ];
  if (outputBase !== undefined && storageOutputBase !== `${root}${outputBase}`) {
    mounts.push({ how: "writable", from: storageOutputBase, to: outputBase });
  }
  const inRoot = (path: string) => systemFolderOf(path) === undefined || OWN_MOUNTS.some((own) => isIn(path, own));
  const isShown = (path: string) => !inRoot(path) || visible.some((shown) => isIn(path, shown.path));
  const own = { path: storageDirectory, isFile: false };
  const covers = [...hidden, own].filter(({ path }) => isShown(path) && !folders.includes(path));
  const covered = covers.map(({ path }) => path);
  for (const { path, isFile } of covers) {
    if (covered.some((hider) => isIn(path, hider))) continue;
    mounts.push({ how: isFile ? "unreadable" : "empty", from: path, to: path });
  }
  for (const { path } of visible) {
    if (inRoot(path) || covered.some((hider) => isIn(path, hider))) {
      mounts.push({ how: "read-only", from: path, to: path });
    }
  }
  for (const [at, path] of (options.readable ?? []).entries()) {
    mounts.push({ how: "read-only", from: path, to: readableAt(at) });
  }
  const isShownElsewhere = (path: string) =>
    [workspace, ...mounts.filter(({ how, to }) => how !== "read-only" && !OWN_MOUNTS.includes(to)).map(({ to }) => to)]
      .some((folder) => isAtOrIn(path, folder)) || visible.some((shown) => isIn(path, shown.path));
  // What the developer's proxy sends is left to the proxy.
  const java = javabase !== undefined && javabase === posix.resolve(javabase) && inRoot(javabase) &&
      !isShownElsewhere(javabase)
    ? `${SYNCED_ROOT}${javabase}/bin/java`
    : undefined;
  mounts.sort((a, b) => depth(a.to) - depth(b.to));

  const isFile = (path: string) => visible.some((shown) => shown.path === path && shown.isFile);
  const points = [...folders, workspace, ...mounts.map(({ to }) => to).filter(inRoot)];
  try {
    for (const path of [...OWN_FOLDERS, ...points.filter((path) => !isFile(path))]) {
      storage.clearWay(SYNCED_ROOT + path);
    }
    for (const path of points.filter(isFile)) makeFile(storage, SYNCED_ROOT + path);
    for (const { path, target } of links) makeLink(storage, SYNCED_ROOT + path, target);
    if (java !== undefined && !lookFor(storage, java)) {
      storage.clearWay(posix.dirname(java));
      storage.writeNew(java, new TextEncoder().encode(SESSIONS_JAVA), 0o755, 0);
    }
    for (const path of OWN_MOUNTS) storage.chmod(SYNCED_ROOT + path, 0o1777);
  } catch (cause) {
    throw new RbsError(
      `The session's root ${root} cannot be made (${sentence(cause)}): make room or fix its permissions.`,
      { cause, culprit: "caller" },
    );
  }
  return mounts;
}

/** Throws an RbsError for a path that the developer cannot have in a session. */
function refuse(what: string, path: string, remedy: string): void {
  const folder = systemFolderOf(path);
  if (folder === undefined) return;
  throw new RbsError(
    `The ${what} ${path} cannot be had in a synced session, where ${folder} is the agent machine's own: ${remedy}.`,
    { culprit: "caller" },
  );
}

/**
 * Whether a path that is there in a synced session is the agent machine's own.
 *
 * @param visible See {@link SyncedView}.
 */
export function isMachines(path: string, visible: readonly string[]): boolean {
  return systemFolderOf(path) !== undefined || visible.some((folder) => isAtOrIn(path, folder));
}

function systemMount(path: string): Mount {
  return { how: path === "/dev" ? "devices" : path === "/proc" ? "processes" : "read-only", from: path, to: path };
}

function depth(path: string): number {
  return path.split("/").filter((part) => part !== "").length;
}

interface Surroundings {
  /** System directories of this machine, and links to outside of them. */
  folders: string[];
  /** System directories that are links into others: /bin to usr/bin. */
  links: { path: string; target: string }[];
  visible: { path: string; isFile: boolean }[];
  hidden: { path: string; isFile: boolean }[];
}

/**
 * Examines the agent's machine. $1: names of top-level directories. $2: how many of the following arguments are to be
 * visible; the rest is hidden. Prints NUL-ended triples. In bash, which has the environment and may read /proc.
 */
const SURROUNDINGS = String.raw`
set -f
tell() { printf '%s\0%s\0%s\0' "$1" "$2" "$3"; }
for name in $1; do
  if [[ -L /$name ]]; then tell link "/$name" "$(readlink -- "/$name")"; elif [[ -d /$name ]]; then tell folder "/$name" ''; fi
done
see() {
  local path=$1
  [[ $path == */* ]] || path=$(type -P -- "$path")
  if [[ -d $path ]]; then tell visible "$(realpath -s -- "$path")" ''
  elif [[ -f $path ]]; then tell visible "$(realpath -s -- "$path")" file; fi
}
hide() {
  if [[ -d $1 ]]; then tell hidden "$(realpath -- "$1")" ''; elif [[ -e $1 ]]; then tell hidden "$(realpath -- "$1")" file; fi
}
for ((i = $2; i > 0; i--)); do see "$3"; set -- "$1" "$2" "${"${@:4}"}"; done
see "$JAVA_HOME"
shift 2
for path; do hide "$path"; done
hide "$HOME"
# Sockets and memory of the people who are logged in.
hide /run/user
hide /dev/shm
`;

async function surroundings({ visible, hidden }: SyncedView): Promise<Surroundings> {
  const { stdout } = await shell(SURROUNDINGS, [
    SYSTEM_FOLDERS.join(" "),
    String(visible.length),
    ...visible,
    ...hidden,
  ]);
  const found: Surroundings = { folders: [], links: [], visible: [], hidden: [] };
  const fields = stdout.split("\0");
  for (let i = 0; i + 2 < fields.length; i += 3) {
    const [what, path, more] = fields.slice(i, i + 3);
    if (path === "/") continue;
    if (what === "hidden") found.hidden.push({ path, isFile: more === "file" });
    else if (what === "visible") found.visible.push({ path, isFile: more === "file" });
    // A link to anywhere else would be dangling in the session.
    else if (what === "link" && systemFolderOf(posix.resolve("/", more))) found.links.push({ path, target: more });
    else found.folders.push(path);
  }
  return found;
}

/** Makes a file that serves as a mount point. */
function makeFile(storage: Beneath, path: string): void {
  storage.clearWay(path.slice(0, path.lastIndexOf("/")));
  const there = lookFor(storage, path);
  if (there?.kind === "file") return;
  if (there) storage.remove(path, { recursive: true });
  storage.create(path, 0o644).close();
}

function makeLink(storage: Beneath, path: string, target: string): void {
  const there = lookFor(storage, path);
  if (there?.target === target) return;
  if (there) storage.remove(path, { recursive: true });
  storage.symlink(target, path);
}

/**
 * The program and arguments that make a namespace of these mounts over `root`, see namespaceCommand.
 *
 * @param options.unshareNet Whether it has its own network. @default false
 * @param options.own Only as root: where it has root's rights, see ownFolders. Undefined: everywhere.
 */
export function syncedNamespaceCommand(
  kind: "bwrap" | "unshare",
  isRoot: boolean,
  { root, mounts, unshareNet = false, own }: {
    root: string;
    mounts: readonly Mount[];
    unshareNet?: boolean;
    own?: readonly string[];
  },
): string[] {
  const { begin, enter } = rights(isRoot ? own : undefined);
  if (kind === "unshare") {
    return [
      ...[...ROOTS_UNSHARE, ...unshareNet ? ["--net", ...LOOPBACK_UP] : [], ...begin],
      ...["bash", "-c", PIVOT, "bash", root, ...mounts.flatMap((m) => [m.how, m.from, m.to]), "--", ...enter],
    ];
  }
  const flags = mounts.flatMap(({ how, from, to }) => {
    switch (how) {
      case "writable":
        return ["--bind", from, to];
      case "read-only":
        return ["--ro-bind", from, to];
      case "devices":
        return ["--dev-bind", from, to];
      case "processes":
        return isRoot ? ["--bind", from, to] : ["--proc", to];
      case "empty":
        return ["--tmpfs", to];
      case "unreadable":
        return ["--ro-bind", "/dev/null", to];
    }
  });
  return [
    ...(isRoot ? [...ROOTS_UNSHARE, ...begin] : []),
    ...["bwrap", "--die-with-parent", ...unshareNet ? ["--unshare-net"] : []],
    ...(isRoot ? [] : ["--unshare-user", "--unshare-pid", "--unshare-ipc"]),
    ...["--bind", root, "/"],
    ...flags,
    "--",
    ...enter,
  ];
}

/** Does as root what bubblewrap does. $1: the root. Then triples of a {@link Mount}, `--`, and the command. */
const PIVOT = String.raw`
read_only() {
  local point
  while read -r _ _ _ _ point _; do
    printf -v point %b "$point"
    [[ $point != "$1" && $point != "$1"/* ]] || mount -o remount,bind,ro -- "$point" || return
  done </proc/self/mountinfo
}
# Beside the root, so that what lies in it by name stays the root's; unbindable, so that no mount holds itself.
new=${"${1%/*}"}/${MOUNT_POINT}
mount --bind -- "$1" "$new" && mount --make-unbindable -- "$new" && cd -- "$new" || exit
shift
while [[ $1 != -- ]]; do
  at=$new$3
  if [[ $1 == empty ]]; then mount -t tmpfs -o mode=755 rbs "$at" || exit
  elif [[ $1 == unreadable ]]; then mount --bind -- /dev/null "$at" && mount -o remount,bind,ro,nodev -- "$at" || exit
  else
    # Only within what was just made empty: all other mount points are there.
    [[ -e $at ]] || mkdir -p -- "$at" || exit
    mount --rbind -- "$2" "$at" || exit
    [[ $1 != read-only ]] || read_only "$at" || exit
  fi
  shift 3
done
shift
pivot_root . . && umount -l . && cd / && exec "$@"
`;
