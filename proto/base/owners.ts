import { dirname } from "node:path";

/** The user id shown for owners outside of this user namespace. */
const OVERFLOW_UID = 65534;
const STICKY = 0o1000;

/**
 * Why another user may control what is at `path`: the path or a parent belongs to a user other than this one or root,
 * or others may write in a parent and so replace it. The text follows the path's name: "belongs to …". Undefined if
 * nobody else controls it. Parents that this program has no Deno permission to read are skipped. Throws Deno's errors
 * if the path itself cannot be read.
 *
 * @param path Absolute; symlinks are followed.
 */
export function foreignHand(path: string): string | undefined {
  const real = Deno.realPathSync(path);
  const owner = foreignOwner(Deno.statSync(real).uid);
  if (owner !== undefined) return `belongs to ${owner}`;
  for (let at = dirname(real);; at = dirname(at)) {
    const found = look(at);
    if (found === undefined) return undefined;
    const { mode, uid, gid } = found;
    const owner = uid === OVERFLOW_UID ? undefined : foreignOwner(uid);
    if (owner !== undefined) return `lies in ${at}, which belongs to ${owner}`;
    // Many systems give each user a group with the same number. In a sticky directory users cannot replace others'
    // files.
    const others = gid === uid ? 0o002 : 0o022;
    if (((mode ?? 0) & others) !== 0 && ((mode ?? 0) & STICKY) === 0) {
      return `lies in ${at}, which other users can write (mode ${(mode! & 0o7777).toString(8)})`;
    }
    if (at === "/") return undefined;
  }
}

function look(folder: string): Deno.FileInfo | undefined {
  try {
    return Deno.statSync(folder);
  } catch (e) {
    if (e instanceof Deno.errors.NotCapable) return undefined;
    throw e;
  }
}

/**
 * Names the owner of a file unless it is this user or root. Also undefined while this program does not know its user:
 * it has no Deno permission to ask, and has made no file yet.
 */
export function foreignOwner(uid: number | null): string | undefined {
  const own = ownUid();
  return uid === null || uid === 0 || own === undefined || uid === own ? undefined : `another user (uid ${uid})`;
}

let known: number | undefined;

/** Learns this program's user from a file that it has just made. */
export function learnOwnUid(file: string): void {
  known ??= Deno.lstatSync(file).uid ?? undefined;
}

function ownUid(): number | undefined {
  if (known !== undefined) return known;
  try {
    return known = Deno.uid() ?? undefined;
  } catch (e) {
    if (e instanceof Deno.errors.NotCapable) return undefined;
    throw e;
  }
}
