/**
 * Agents under another operating-system user than the orchestrator's, which is root then: what gets out of a session is
 * that user, to whom keys, store and state directory are closed by the kernel, and not by a namespace alone.
 */
import { dirname } from "node:path";
import { isAtOrIn } from "../../proto/absolute_path.ts";
import { RbsError, sentence } from "../../proto/errors.ts";

/** An operating-system user. */
export interface AgentUser {
  readonly name: string;
  readonly uid: number;
  readonly gid: number;
  /** The home folder, which need not exist. Absolute. */
  readonly home: string;
}

const PASSWD = "/etc/passwd";
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
    return { name, uid: Number(uid), gid: Number(gid), home: home || "/" };
  }
  return undefined;
}

/**
 * Lets a user pass through the storage root, which has to exist. Throws an RbsError where that cannot do: who is no root
 * cannot start processes of another user, and into the state directory nobody else may see.
 */
export function openStorageRoot(user: AgentUser, { storageRoot, stateDir }: { storageRoot: string; stateDir: string }) {
  if (Deno.uid() !== 0) {
    throw unusable(
      `Only root starts agents as another user (${user.name}): leave --agent-user out, or start it as root.`,
    );
  }
  if (isAtOrIn(Deno.realPathSync(storageRoot), Deno.realPathSync(stateDir))) {
    throw unusable(
      `With --agent-user, agents cannot get at storage in the state directory, which is closed to ${user.name}: name a ` +
        `--storage-root elsewhere.`,
    );
  }
  Deno.chmodSync(storageRoot, PASSABLE);
  for (let at = dirname(Deno.realPathSync(storageRoot));; at = dirname(at)) {
    if (!passable(at, user)) {
      throw unusable(
        `${user.name} cannot pass through ${at} to the storage root ${storageRoot}: run \`chmod o+x\` on it, or name ` +
          `another with --storage-root.`,
      );
    }
    if (at === "/") return;
  }
}

/** Folders at which Deno does not let this program look count as passable: agents say what is wrong with them. */
function passable(folder: string, { uid, gid }: AgentUser): boolean {
  try {
    const info = Deno.statSync(folder);
    const shift = info.uid === uid ? 6 : info.gid === gid ? 3 : 0;
    return ((info.mode ?? 0) >> shift & 1) === 1;
  } catch (e) {
    if (e instanceof Deno.errors.NotCapable) return true;
    throw e;
  }
}

/**
 * Makes a session's storage directory, if need be; for another user, if there is one. What is above it stays root's, so
 * that nobody can put something else in its place. Throws what the disk throws.
 */
export function makeStorage(directory: string, user?: AgentUser): void {
  if (!user) return Deno.mkdirSync(directory, { recursive: true, mode: 0o700 });
  const parent = dirname(directory);
  Deno.mkdirSync(parent, { recursive: true });
  Deno.chmodSync(parent, PASSABLE);
  try {
    Deno.mkdirSync(directory, { mode: 0o700 });
  } catch (e) {
    if (!(e instanceof Deno.errors.AlreadyExists)) throw e;
  }
  const { uid, isDirectory } = Deno.lstatSync(directory);
  if (uid === user.uid) return;
  // Ours, and empty: it was made just now, or by an orchestrator that ended before the next line.
  if (uid !== 0 || !isDirectory || !Deno.readDirSync(directory)[Symbol.iterator]().next().done) {
    throw new Error(`it belongs to uid ${uid}, and agents run as ${user.name}`);
  }
  Deno.chownSync(directory, user.uid, user.gid);
}

function unusable(message: string, cause?: unknown): RbsError {
  return new RbsError(message, { culprit: "caller", cause });
}
