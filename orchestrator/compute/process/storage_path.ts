import { createHash } from "node:crypto";
import { dirname, join } from "node:path";
import type { SessionKey } from "../../store/session.ts";

/** A file name's longest length on Linux, in bytes. */
const NAME_MAX = 255;

/**
 * A user id as one path component, different for different ids: bytes other than letters, digits and `._@+-` become
 * `%XX`, as does a first dot.
 */
export function safeComponent(userId: string): string {
  const escaped = Array.from(new TextEncoder().encode(userId), (byte, at) => {
    const character = String.fromCharCode(byte);
    const plain = /[A-Za-z0-9_@+-]/.test(character) || (character === "." && at > 0);
    return plain ? character : "%" + byte.toString(16).toUpperCase().padStart(2, "0");
  }).join("");
  if (escaped.length <= NAME_MAX) return escaped;
  // "%%" never comes out of the above, so a shortened name cannot be another user's.
  return escaped.slice(0, 150) + "%%" + createHash("sha256").update(userId).digest("hex");
}

/** A session's own folder: `<storage root>/<user>/<repo hash>-<server id>`, or without the latter where there is none. */
export function storageDirectory(root: string, { userId, repoHash, serverId }: SessionKey): string {
  return join(root, safeComponent(userId), serverId === "" ? repoHash : `${repoHash}-${serverId}`);
}

/** Where the class-data archives of a session's user are. No session's: its name has no dot at its beginning. */
export function classArchiveDirectory(storageDirectory: string): string {
  return join(dirname(storageDirectory), ".classes");
}
