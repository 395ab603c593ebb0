import { createHash } from "node:crypto";
import type { Files, OpenFile, RawInfo } from "../../proto/tree/files.ts";
import { Pace } from "../../proto/base/time_slice.ts";

/** What stays the same as long as a file's content does. */
export interface Stat {
  ino: number;
  size: number;
  /** Milliseconds. */
  mtimeMs: number;
  /** Milliseconds. */
  ctimeMs: number;
}

interface Known extends Stat {
  digest: Uint8Array;
  /** The file was changed in the second in which it was read: it may have been changed once more in it. */
  racy: boolean;
}

const CHUNK_BYTES = 1 << 20;
/** A file that grew by so much since it was looked at is still being written. Bytes. */
const MAX_GROWTH = 64 << 20;
/** The kernel's clock for files is behind ours by a tick of its own, more on a busy machine. Milliseconds. */
const TICK_MS = 100;
/** Digests of outputs that are long gone are forgotten all together. */
const MAX_KNOWN = 1_000_000;

/** SHA-256 of files, computed anew only where a file may have changed. */
export class DigestCache {
  readonly #files: Files;
  readonly #known = new Map<string, Known>();

  /** @param files What the paths are of. */
  constructor(files: Files) {
    this.#files = files;
  }

  /** The digest of a file, if it was made when the file looked as it looks now. */
  known(path: string, stat: Stat): Uint8Array | undefined {
    const known = this.#known.get(path);
    return known && !known.racy && isSame(known, stat) ? known.digest : undefined;
  }

  /**
   * The digest of a file, or undefined if it is gone or goes on changing.
   *
   * @param stat As it was just looked at; afterwards as it was when the digest was made.
   */
  async digest(path: string, stat: Stat): Promise<Uint8Array | undefined> {
    const known = this.known(path, stat);
    if (known) return known;
    for (let attempt = 0; attempt < 3; attempt++) {
      const before = Date.now() - TICK_MS;
      const found = await digestOf(this.#files, path, stat.size);
      if (!found) break;
      const { digest, info } = found;
      const now = { ino: info.ino, size: info.size, mtimeMs: info.mtimeMs, ctimeMs: info.ctimeMs };
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

/** The digest of a file and what it looked like afterwards, by one descriptor. */
async function digestOf(
  files: Files,
  path: string,
  size: number,
): Promise<{ digest: Uint8Array; info: RawInfo } | undefined> {
  const hash = createHash("sha256");
  const pace = new Pace();
  let file: OpenFile;
  try {
    file = files.open(path);
  } catch {
    return undefined;
  }
  using _ = file;
  let bytes = 0;
  for (let read = file.read(buffer); read > 0; read = file.read(buffer)) {
    hash.update(buffer.subarray(0, read));
    // Something writes it as fast as it is read, perhaps.
    if ((bytes += read) > size + MAX_GROWTH) return undefined;
    if (pace.due) await pace.rest();
  }
  return { digest: hash.digest(), info: file.stat() };
}
