/**
 * Agents under another operating-system user than the orchestrator's, which is root then: what gets out of a session is
 * that user, to whom keys, store and state directory are closed by the kernel, and not by a namespace alone.
 */
import { dirname } from "node:path";
import { isAtOrIn } from "../../../proto/base/absolute_path.ts";
import { RbsError, sentence } from "../../../proto/base/errors.ts";
import { realPath } from "../../../proto/base/real_path.ts";

/** An operating-system user. */
export interface AgentUser {
  readonly name: string;
  readonly uid: number;
  readonly gid: number;
  /** The home folder, which need not exist. Absolute. */
  readonly home: string;
}

const PASSWD = "/etc/passwd";
/** Where programs of the system are: a PATH. */
export const PATHS = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/** Larger ones mean something else to some system calls. */
const MAX_ID = 2 ** 31 - 1;
const STICKY = 0o1000;
/** Folders on the way to a session's storage: everybody may pass, and nobody look. */
const PASSABLE = 0o711;

/**
 * Looks a user up. Throws an RbsError when there is none, or when it is root.
 *
 * @param name A name of /etc/passwd (passwd(5)), or `uid:gid` of a user who does not stand there.
 */
export function findAgentUser(name: string, passwd = () => Deno.readTextFileSync(PASSWD)): AgentUser {
  const [, uid, gid] = /^(\d{1,10}):(\d{1,10})$/.exec(name) ?? [];
  const user = uid !== undefined ? { name, uid: Number(uid), gid: Number(gid), home: "/" } : named(name, passwd);
  if (!user) {
    throw unusable(`There is no user ${JSON.stringify(name)} in ${PASSWD}: make one, or say uid:gid.`);
  }
  if (user.uid > MAX_ID || user.gid > MAX_ID) {
    throw unusable(`Agents cannot run as ${name}: numbers of users and groups end at ${MAX_ID}.`);
  }
  if (user.uid === 0 || user.gid === 0) {
    throw unusable(`Agents cannot run as ${name}, who is root: name an ordinary user with --agent-user.`);
  }
  return user;
}

function named(name: string, passwd: () => string): AgentUser | undefined {
  let text: string;
  try {
    text = passwd();
  } catch (cause) {
    throw unusable(`${PASSWD} cannot be read (${sentence(cause)}): say uid:gid with --agent-user.`, cause);
  }
  for (const line of text.split("\n")) {
    const [found, , uid, gid, , home] = line.split(":");
    if (found !== name || !/^\d+$/.test(uid) || !/^\d+$/.test(gid)) continue;
    return { name, uid: Number(uid), gid: Number(gid), home: home?.startsWith("/") ? home.trimEnd() : "/" };
  }
  return undefined;
}

/** What {@link openStorageRoot} looks at. Absolute paths. */
export interface AgentUserPlaces {
  readonly storageRoot: string;
  readonly stateDir: string;
  /** The file of an SQLite store. */
  readonly storeFile?: string;
}

/**
 * Lets a user pass through the storage root, which has to exist. Throws an RbsError where that cannot do: who is no root
 * cannot start processes of another user; into the state directory nobody else may see; and where that user, or another
 * one, can put something else in the place of a folder, root would work there by their leave.
 */
export function openStorageRoot(user: AgentUser, { storageRoot, stateDir, storeFile }: AgentUserPlaces): void {
  if (Deno.uid() !== 0) {
    throw unusable(
      `Only root starts agents as another user (${user.name}): leave --agent-user out, or start it as root.`,
    );
  }
  const [storage, state] = [storageRoot, stateDir, ...storeFile === undefined ? [] : [dirname(storeFile)]].map(
    withoutSymlinks,
  );
  if (isAtOrIn(storage, state)) {
    throw unusable(
      `With --agent-user, agents cannot get at storage in the state directory, which is closed to ${user.name}: name a ` +
        `--storage-root elsewhere.`,
    );
  }
  if (isAtOrIn(state, storage)) {
    throw unusable(
      `The state directory ${stateDir} lies in the storage root ${storageRoot}, through which ${user.name} passes: name a ` +
        `--storage-root elsewhere.`,
    );
  }
  for (const place of [storage, state, ...storeFile === undefined ? [] : [dirname(storeFile)]]) {
    for (const found of look([...above(place), place])) refuseForeign(place, found);
  }
  const isClosed = ({ mode, gid }: Found) => ((mode >> (gid === user.gid ? 3 : 0)) & 1) === 0;
  const closed = look(above(storage)).find(isClosed)?.path;
  if (closed !== undefined) throw unusable(impassable(user, closed, storageRoot));
  if (!isClosed(look([storage])[0])) return;
  // One that was made just now. Another may be somebody's for whom it was closed.
  if (!Deno.readDirSync(storage)[Symbol.iterator]().next().done) throw unusable(impassable(user, storage, storageRoot));
  Deno.chmodSync(storage, PASSABLE);
}

/**
 * Looks at what there is on the way to a place that root is about to make: see {@link openStorageRoot}, which looks at all
 * of it afterwards. Throws an RbsError.
 */
export function checkWay(place: string): void {
  // Who is not root makes folders of their own only, and is refused then.
  if (Deno.uid() !== 0) return;
  for (const folder of above(place)) {
    let found: Found;
    try {
      [found] = look([folder]);
    } catch {
      // It is to be made, with all below it.
      return;
    }
    if (found.isLink) {
      throw unusable(`${place} leads through the symlink ${folder}: with --agent-user, name its target.`);
    }
    refuseForeign(place, found);
  }
}

/** What is worked on is named without symlinks: whoever owns one on the way could change where it leads. */
function withoutSymlinks(path: string): string {
  const real = realPath(path);
  if (real === path) return path;
  throw unusable(`${path} leads through a symlink: with --agent-user, name ${real} itself.`);
}

/** Throws an RbsError where somebody else could put something in the place of what root works on. */
function refuseForeign(place: string, { path, uid, mode }: Found): void {
  // In a sticky folder others make files of their own, which in a place of ours is enough.
  const isOpen = (mode & 0o022) !== 0 && ((mode & STICKY) === 0 || path === place);
  if (uid === 0 && !isOpen) return;
  throw unusable(
    `${place} ${path === place ? "is a folder" : `lies in ${path}`}, which ${
      uid === 0 ? "others can write" : `belongs to uid ${uid}`
    }: with --agent-user, storage, state directory and store have to lie where only root can put something else in ` +
      `their place.`,
  );
}

function impassable(user: AgentUser, folder: string, storageRoot: string): string {
  return `${user.name} cannot pass through ${folder} to the storage of sessions in ${storageRoot}: run \`chmod o+x\` on it, ` +
    `or name another with --storage-root.`;
}

/** The folders above a path, the root first. */
function above(path: string): string[] {
  const parent = dirname(path);
  return parent === path ? [] : [...above(parent), parent];
}

interface Found {
  path: string;
  uid: number;
  gid: number;
  mode: number;
  isLink: boolean;
}

/** By `stat`, since Deno would want the right to read all that is in them. Throws an RbsError where that cannot do. */
function look(paths: readonly string[]): Found[] {
  const { success, stdout, stderr } = new Deno.Command("stat", {
    args: ["--format=%u %g %f", "--", ...paths],
    env: { LC_ALL: "C" },
  }).outputSync();
  const lines = new TextDecoder().decode(stdout).trim().split("\n");
  if (!success || lines.length !== paths.length) {
    throw unusable(
      `The folders above ${paths.at(-1)} cannot be looked at (${new TextDecoder().decode(stderr).trim()}).`,
    );
  }
  return lines.map((line, i) => {
    const [uid, gid, hex] = line.split(" ");
    const mode = parseInt(hex, 16);
    return { path: paths[i], uid: Number(uid), gid: Number(gid), mode, isLink: (mode & 0o170000) === 0o120000 };
  });
}

/**
 * Makes a session's storage directory, if need be; for another user, if there is one. What is above it is root's, so that
 * nobody can put something else in its place. Throws what the disk throws, and an Error when something is another's.
 */
export function makeStorage(directory: string, user?: AgentUser): void {
  if (!user) return Deno.mkdirSync(directory, { recursive: true, mode: 0o700 });
  const parent = dirname(directory);
  makeFolder(parent, PASSABLE);
  checkOwn(parent);
  // The umask may have taken something away.
  Deno.chmodSync(parent, PASSABLE);
  makeFolder(directory, 0o700);
  const { uid, isDirectory } = Deno.lstatSync(directory);
  if (uid === user.uid && isDirectory) return;
  // Ours, and empty: it was made just now, or by an orchestrator that ended before the next line.
  if (uid !== 0 || !isDirectory || !Deno.readDirSync(directory)[Symbol.iterator]().next().done) {
    throw new Error(`it belongs to uid ${uid}, and agents run as ${user.name}`);
  }
  Deno.chownSync(directory, user.uid, user.gid);
}

function makeFolder(path: string, mode: number): void {
  try {
    Deno.mkdirSync(path, { mode });
  } catch (e) {
    if (!(e instanceof Deno.errors.AlreadyExists)) throw e;
  }
}

/** Throws where others could put something else in the place of what is in a folder. */
function checkOwn(folder: string): void {
  const { uid, mode, isDirectory } = Deno.lstatSync(folder);
  if (uid === 0 && isDirectory && ((mode ?? 0) & 0o022) === 0) return;
  throw new Error(`${folder} is not root's alone: remove it, or name another --storage-root`);
}

/**
 * Removes a storage directory. What another user has left there that user removes, however deep it is; root the empty
 * folder. Rejects with what the disk says.
 *
 * @param patienceMs How long that user's removal may take, in milliseconds. @default one minute
 */
export async function removeStorage(directory: string, user?: AgentUser, patienceMs = 60_000): Promise<void> {
  if (!user) return await Deno.remove(directory, { recursive: true });
  checkOwn(dirname(directory));
  const rm = new Deno.Command("rm", {
    args: ["-rf", "--", directory],
    // That user can read its environment, and may not be allowed into our working directory.
    ...{ uid: user.uid, gid: user.gid, cwd: "/", clearEnv: true, env: { PATH: PATHS, LC_ALL: "C" } },
    ...{ stdin: "null", stdout: "null", stderr: "null" },
  }).spawn();
  // That user can stop it (SIGSTOP); root ends it then.
  const timer = setTimeout(() => rm.kill("SIGKILL"), patienceMs);
  await rm.status.finally(() => clearTimeout(timer));
  await Deno.remove(directory);
}

function unusable(message: string, cause?: unknown): RbsError {
  return new RbsError(message, { culprit: "caller", cause });
}
