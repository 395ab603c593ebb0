import { createHash } from "node:crypto";
import { lstat } from "../../proto/tree/looks.ts";
import { Pace } from "../../proto/pace.ts";

/** What stays the same as long as a file's content does. */
export interface Stat {
  ino: number;
  size: number;
  /** Milliseconds. */
  mtimeMs: number;
  /** Whole seconds, in milliseconds: Deno knows no more of it. */
  ctimeMs: number;
}

interface Known extends Stat {
  digest: Uint8Array;
  /** The file was changed in the second in which it was read: it may have been changed once more in it. */
  racy: boolean;
}

const CHUNK_BYTES = 1 << 20;
/** The kernel's clock for files is behind ours by a tick of its own, more on a busy machine. Milliseconds. */
const TICK_MS = 100;
/** Digests of outputs that are long gone are forgotten all together. */
const MAX_KNOWN = 1_000_000;

/** SHA-256 of files, computed anew only where a file may have changed. */
export class DigestCache {
  readonly #known = new Map<string, Known>();

  /** The digest of a file, if it was made when the file looked as it looks now. */
  known(path: string, stat: Stat): Uint8Array | undefined {
    const known = this.#known.get(path);
    return known && !known.racy && isSame(known, stat) ? known.digest : undefined;
  }

  /**
   * The digest of a file, or undefined if it is gone or goes on changing.
   *
   * @param path Where it is here.
   * @param stat As it was just looked at; afterwards as it was when the digest was made.
   */
  async digest(path: string, stat: Stat): Promise<Uint8Array | undefined> {
    const known = this.known(path, stat);
    if (known) return known;
    for (let attempt = 0; attempt < 3; attempt++) {
      const before = Date.now() - TICK_MS;
      const digest = await digestOf(path);
      const info = lstat(path);
      if (!digest || !info?.isFile) break;
      const now = {
        ino: info.ino!,
        size: info.size,
        mtimeMs: info.mtime!.getTime(),
        ctimeMs: info.ctime!.getTime(),
      };
      if (isSame(now, stat)) {
        if (this.#known.size >= MAX_KNOWN) this.#known.clear();
        this.#known.set(path, { ...now, digest, racy: before < now.ctimeMs + 1000 });
        return digest;
      }
      Object.assign(stat, now);
    }
    this.#known.delete(path);
    return undefined;
  }
}

function isSame(a: Stat, b: Stat): boolean {
  return a.ino === b.ino && a.size === b.size && a.mtimeMs === b.mtimeMs && a.ctimeMs === b.ctimeMs;
}

/** Filled and emptied without a pause: all use the same. */
const buffer = new Uint8Array(CHUNK_BYTES);

async function digestOf(path: string): Promise<Uint8Array | undefined> {
  const hash = createHash("sha256");
  const pace = new Pace();
  try {
    using file = Deno.openSync(path);
    for (let read = file.readSync(buffer); read !== null; read = file.readSync(buffer)) {
      hash.update(buffer.subarray(0, read));
      if (pace.due) await pace.rest();
    }
    return hash.digest();
  } catch {
    return undefined;
  }
}
