import { createHash } from "node:crypto";
import { Pace } from "../../proto/base/time_slice.ts";
import { BatchEncoder, MAX_CONTENT_BYTES } from "../../proto/tree/batch.ts";
import { type Entry, sameDigest } from "../../proto/tree/entry.ts";
import { type Files, isGone, type OpenFile, type RawInfo } from "../../proto/tree/files.ts";
import { digestOf, PIECE_BYTES } from "../../proto/tree/read.ts";
import type { DeveloperPaths } from "./developer_paths.ts";

/** A file that the proxy requests. */
export interface WantedFile {
  /** The developer's absolute path. */
  path: string;
  /** SHA-256 of the requested content. */
  digest: Uint8Array;
  /** Number of bytes from the start that the proxy already has. */
  offset: number;
}

/** The requested content no longer exists, or never did. */
export class NotThere extends Error {
  override readonly name = "NotThere";
}

/** Digests that were computed before. */
export interface KnownDigests {
  /** The digest of a file in the storage, if it was computed for a file with this stat. */
  known(path: string, look: Pick<RawInfo, "ino" | "size" | "mtimeMs" | "ctimeMs">): Uint8Array | undefined;
}

/**
 * Reads files of a session as batches. Only files in the session's storage and not behind a symlink are sent, and only
 * if they have the digest that the caller named: that is checked before the first byte is sent.
 */
export class SessionFiles {
  readonly #storage: Files;
  readonly #paths: DeveloperPaths;
  readonly #pace: Pace;
  readonly #digests?: KnownDigests;
  readonly #elsewhere?: (path: string) => string | undefined;
  readonly encoder = new BatchEncoder();

  /**
   * @param storage The session's own directory.
   * @param options.elsewhere Where a repository's file is in the storage, if its path does not say.
   * @param options.signal Aborted when the files are no longer needed.
   */
  constructor(
    storage: Files,
    paths: DeveloperPaths,
    { signal, digests, elsewhere }: {
      signal?: AbortSignal;
      digests?: KnownDigests;
      elsewhere?: (path: string) => string | undefined;
    } = {},
  ) {
    this.#storage = storage;
    this.#paths = paths;
    this.#digests = digests;
    this.#elsewhere = elsewhere;
    this.#pace = new Pace(signal);
  }

  /**
   * Yields encoded FileBatches, each with many small files. Throws {@link NotThere} after the batches of the files
   * before.
   */
  async *read(files: Iterable<WantedFile>): AsyncGenerator<Uint8Array> {
    let missing: NotThere | undefined;
    for (const file of files) {
      if (this.#pace.due) await this.#pace.rest();
      try {
        yield* this.#read(file);
      } catch (e) {
        if (!(e instanceof NotThere)) throw e;
        missing = e;
        break;
      }
    }
    const last = this.encoder.flush();
    if (last) yield last;
    if (missing) throw missing;
  }

  #read(wanted: WantedFile): Iterable<Uint8Array> | AsyncIterable<Uint8Array> {
    const { path, digest, offset } = wanted;
    const here = this.#locate(path);
    const file = this.#open(here, path);
    let lent = false;
    try {
      // Through the descriptor: the name may belong to another file from now on.
      const info = file.stat();
      const { size, mtimeMs } = info;
      if (offset > size) throw changed(path);
      const entry: Entry = { path: path.slice(1), kind: "file", mode: info.mode & 0o7777, size, mtimeMs, digest };
      const known = this.#digests?.known(here, info);
      if (known && !sameDigest(known, digest)) throw changed(path);
      if (!known && size <= PIECE_BYTES) {
        const content = new Uint8Array(size);
        readExactly(file, content, path);
        if (!sameDigest(digestOf(content), digest)) throw changed(path);
        return this.#parts(entry, offset, (into, at) => into.set(content.subarray(at, at + into.length)));
      }
      lent = true;
      return known ? this.#known(file, entry, offset, info) : this.#unknown(file, entry, offset);
    } finally {
      if (!lent) file.close();
    }
  }

  /** Sends a file of known digest as long as its stat is unchanged. Closes the file. */
  *#known(file: OpenFile, entry: Entry, offset: number, look: RawInfo): Generator<Uint8Array> {
    using _ = file;
    const path = `/${entry.path}`;
    const check = () => {
      if (!isSame(file.stat(), look)) throw changed(path);
    };
    if (offset > 0) file.seek(offset);
    yield* this.#parts(entry, offset, (into, at) => {
      const isLast = at + into.length === entry.size;
      // Parts are sent before the last check, so the file is checked before the first part, too.
      if (at === offset && !isLast) check();
      readExactly(file, into, path);
      if (isLast) check();
    });
  }

  /** Reads a large file twice through one descriptor: for its digest, then to send it. Closes the file. */
  async *#unknown(file: OpenFile, entry: Entry, offset: number): AsyncGenerator<Uint8Array> {
    using _ = file;
    await this.#prove(file, entry);
    file.seek(offset);
    yield* this.#parts(entry, offset, (into) => readExactly(file, into, `/${entry.path}`));
  }

  async #prove(file: OpenFile, entry: Entry): Promise<void> {
    const buffer = new Uint8Array(PIECE_BYTES);
    const sum = createHash("sha256");
    let size = 0;
    for (let n = file.read(buffer); n > 0 && size <= entry.size; n = file.read(buffer)) {
      sum.update(buffer.subarray(0, n));
      size += n;
      if (this.#pace.due) await this.#pace.rest();
    }
    if (size !== entry.size || !sameDigest(sum.digest(), entry.digest!)) throw changed(`/${entry.path}`);
  }

  /**
   * The records of a file from `offset` on. One record for the whole file is the least work for the receiver; it is
   * split if it is large or the link is slow.
   *
   * @param read Fills a buffer with the file's bytes from `at` on. Called in order.
   */
  *#parts(entry: Entry, offset: number, read: (into: Uint8Array, at: number) => void): Generator<Uint8Array> {
    const { size } = entry;
    const most = size - offset > MAX_CONTENT_BYTES || this.encoder.compress ? PIECE_BYTES : MAX_CONTENT_BYTES;
    let at = offset;
    do {
      const start = at;
      const content = { length: Math.min(most, size - at), read: (into: Uint8Array) => read(into, start) };
      at += content.length;
      const beginning = start === offset ? { entry, offset } : {};
      const batch = this.encoder.add({ ...beginning, content, more: at < size });
      if (batch) yield batch;
    } while (at < size);
  }

  /** Where a file is in the storage. */
  #locate(path: string): string {
    const elsewhere = this.#elsewhere?.(path);
    if (elsewhere !== undefined) return elsewhere;
    const kept = this.#paths.locate(path);
    if (!kept || kept.relative === "") throw new NotThere(`${shown(path)} is no file of this session`);
    return `${kept.base}/${kept.relative}`;
  }

  #open(here: string, path: string): OpenFile {
    try {
      return this.#storage.open(here);
    } catch (e) {
      if (isGone(e) || e instanceof Deno.errors.InvalidData || e instanceof Deno.errors.IsADirectory) {
        throw new NotThere(`${shown(path)} is no file`);
      }
      throw e;
    }
  }
}

/** Whether an open file has the same stat as before, so has not changed in between. */
function isSame(now: RawInfo, { size, mtimeMs, ctimeMs }: RawInfo): boolean {
  return now.size === size && now.mtimeMs === mtimeMs && now.ctimeMs === ctimeMs;
}

/** Fills the whole buffer. */
function readExactly(file: OpenFile, buffer: Uint8Array, path: string): void {
  for (let filled = 0; filled < buffer.length;) {
    const n = file.read(buffer.subarray(filled) as Uint8Array<ArrayBuffer>);
    if (n === 0) throw changed(path);
    filled += n;
  }
}

function changed(path: string): NotThere {
  return new NotThere(`${shown(path)} is another file by now`);
}

function shown(path: string): string {
  return JSON.stringify(path.slice(0, 200));
}
