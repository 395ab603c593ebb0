import { dirname } from "node:path";

/** Owner of what nobody in this user namespace owns. */
const OVERFLOW_UID = 65534;
const STICKY = 0o1000;

/**
 * Why what is at `path` may be another user's work: somebody else than this user and root owns it, or one of the folders
 * above it, or may write there and so put something else in its place. To be read behind the path's name: "belongs to …".
 * Undefined: it is in nobody else's hands. Folders above it that this program has no permission of Deno's to look at
 * are left out. Throws what Deno throws when it cannot look at the path itself.
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
    // A group of its own is how many systems make a user's files; in a sticky folder all have their own.
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
 * Names the owner of a file if it is neither this user nor root. Undefined as well while this program does not know which
 * user it is: it has no permission of Deno's to ask, and has made no file to see it by.
 */
export function foreignOwner(uid: number | null): string | undefined {
  const own = ownUid();
  return uid === null || uid === 0 || own === undefined || uid === own ? undefined : `another user (uid ${uid})`;
}

let known: number | undefined;

/** Tells which user this program is by a file that it has just made. */
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
