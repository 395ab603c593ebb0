import { createHash } from "node:crypto";
import type { Files, OpenFile, RawInfo } from "../../proto/tree/files.ts";
import { Pace } from "../../proto/base/time_slice.ts";

/** The part of a stat that stays the same while a file's content does. */
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
  /** The file changed in the second in which it was read, and may have changed again in it. */
  racy: boolean;
}

const CHUNK_BYTES = 1 << 20;
/** A file that grows by this much while it is read is still being written. Bytes. */
const MAX_GROWTH = 64 << 20;
/** The kernel's clock for files lags behind ours by a tick, more on a busy machine. Milliseconds. */
const TICK_MS = 100;
/** At this number all digests are forgotten, to drop those of removed outputs. */
const MAX_KNOWN = 1_000_000;

/** SHA-256 of files, computed again only when a file may have changed. */
export class DigestCache {
  readonly #files: Files;
  readonly #known = new Map<string, Known>();

  /** @param files The files to which the paths refer. */
  constructor(files: Files) {
    this.#files = files;
  }

  /** The digest of a file, if it was computed for this stat. */
  known(path: string, stat: Stat): Uint8Array | undefined {
    const known = this.#known.get(path);
    return known && !known.racy && isSame(known, stat) ? known.digest : undefined;
  }

  /**
   * The digest of a file; undefined if the file is gone or keeps changing.
   *
   * @param stat The present stat; updated to the one for which the digest was computed.
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

/** Shared, since each use is synchronous. */
const buffer = new Uint8Array(CHUNK_BYTES);

/** The digest of a file and its stat afterwards, through one descriptor. */
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
    // The file may grow as fast as it is read.
    if ((bytes += read) > size + MAX_GROWTH) return undefined;
    if (pace.due) await pace.rest();
  }
  return { digest: hash.digest(), info: file.stat() };
}
