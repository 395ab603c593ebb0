import { createHash } from "node:crypto";
import { Pace } from "../../proto/pace.ts";
import { BatchEncoder, MAX_CONTENT_BYTES } from "../../proto/tree/batch.ts";
import { type Entry, sameDigest } from "../../proto/tree/entry.ts";
import { isRaw } from "../../proto/tree/names.ts";
import { lstatSync, type RawInfo, readFileSync } from "../../proto/tree/raw_names.ts";
import { digestOf, PIECE_BYTES } from "../../proto/tree/read.ts";
import type { DeveloperPaths } from "./developer_paths.ts";

/** A file that the proxy wants. */
export interface WantedFile {
  /** The developer's name for it: absolute. */
  path: string;
  /** SHA-256 of the content that is wanted. */
  digest: Uint8Array;
  /** How many bytes of its beginning are there already. */
  offset: number;
}

/** The content that was asked for is not there any more, or never was. */
export class NotThere extends Error {
  override readonly name = "NotThere";
}

/** Digests that were made already. */
export interface KnownDigests {
  /** The digest of a file of this machine, if it was made when the file looked so. */
  known(path: string, look: Pick<RawInfo, "ino" | "size" | "mtimeMs" | "ctimeMs">): Uint8Array | undefined;
}

/**
 * Reads files of a session as batches. What is given away lies in the session's own storage, behind no symlink, and is
 * what the caller knows already by its digest: not a byte is sent before that is proven.
 */
export class SessionFiles {
  readonly #paths: DeveloperPaths;
  readonly #pace: Pace;
  readonly #digests?: KnownDigests;
  /** Folders of this machine that are ones. */
  readonly #real = new Set<string>();
  readonly encoder = new BatchEncoder();

  /** @param options.signal Aborted when nobody wants the files any more. */
  constructor(paths: DeveloperPaths, { signal, digests }: { signal?: AbortSignal; digests?: KnownDigests } = {}) {
    this.#paths = paths;
    this.#digests = digests;
    this.#pace = new Pace(signal);
  }

  /** Encoded FileBatches, many small files in each. Throws {@link NotThere}, after the batches of the files before. */
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
    const host = this.#locate(path);
    const info = this.#look(host);
    if (info?.kind !== "file") throw new NotThere(`${shown(path)} is no file`);
    const { size, mtimeMs } = info;
    if (offset > size) throw changed(path);
    const entry: Entry = { path: path.slice(1), kind: "file", mode: info.mode & 0o7777, size, mtimeMs, digest };
    const known = this.#digests?.known(host, info);
    if (known && !sameDigest(known, digest)) throw changed(path);
    if (isRaw(host) || (!known && size <= PIECE_BYTES)) {
      const content = contentOf(host, path);
      if (content.length !== size || !sameDigest(digestOf(content), digest)) throw changed(path);
      return this.#parts(entry, offset, (into, at) => into.set(content.subarray(at, at + into.length)));
    }
    return known ? this.#known(host, entry, offset, info) : this.#unknown(host, entry, offset);
  }

  /** Reads a file whose digest is known, as long as it looks as it did. */
  *#known(host: string, entry: Entry, offset: number, look: RawInfo): Generator<Uint8Array> {
    const path = `/${entry.path}`;
    using file = open(host, path);
    // By the descriptor: a symlink that has just taken its place would lead anywhere.
    const check = () => {
      if (!looks(file, look)) throw changed(path);
    };
    if (offset > 0) file.seekSync(offset, Deno.SeekMode.Start);
    yield* this.#parts(entry, offset, (into, at) => {
      const isLast = at + into.length === entry.size;
      // What goes out before the last look is known to be of this file.
      if (at === offset && !isLast) check();
      readExactly(file, into, path);
      if (isLast) check();
    });
  }

  /** Reads a large file through one descriptor: for its digest, and then to send it. */
  async *#unknown(host: string, entry: Entry, offset: number): AsyncGenerator<Uint8Array> {
    const path = `/${entry.path}`;
    using file = open(host, path);
    await this.#prove(file, entry);
    file.seekSync(offset, Deno.SeekMode.Start);
    yield* this.#parts(entry, offset, (into) => readExactly(file, into, path));
  }

  async #prove(file: Deno.FsFile, entry: Entry): Promise<void> {
    const buffer = new Uint8Array(PIECE_BYTES);
    const sum = createHash("sha256");
    let size = 0;
    for (let n = file.readSync(buffer); n !== null && size <= entry.size; n = file.readSync(buffer)) {
      sum.update(buffer.subarray(0, n));
      size += n;
      if (this.#pace.due) await this.#pace.rest();
    }
    if (size !== entry.size || !sameDigest(sum.digest(), entry.digest!)) throw changed(`/${entry.path}`);
  }

  /**
   * The records of a file from `offset` on: one for all of it, which is the least work for who gets it, unless it is large
   * or takes its time on the way.
   *
   * @param read Fills memory with the file's bytes from `at` on. It is asked for them in their order.
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

  /** Where a file is here. */
  #locate(path: string): string {
    const kept = this.#paths.locate(path);
    if (!kept || kept.relative === "") throw new NotThere(`${shown(path)} is no file of this session`);
    const { base, relative } = kept;
    for (let slash = relative.indexOf("/"); slash >= 0; slash = relative.indexOf("/", slash + 1)) {
      const folder = `${base}/${relative.slice(0, slash)}`;
      if (this.#real.has(folder)) continue;
      if (this.#look(folder)?.kind !== "directory") throw new NotThere(`${shown(path)} is in no folder`);
      this.#real.add(folder);
    }
    return `${base}/${relative}`;
  }

  #look(host: string): RawInfo | undefined {
    try {
      return lstatSync(host);
    } catch (e) {
      if (isGone(e)) return undefined;
      throw e;
    }
  }
}

function contentOf(host: string, path: string): Uint8Array {
  try {
    return readFileSync(host);
  } catch (e) {
    throw isGone(e) ? changed(path) : e;
  }
}

function open(host: string, path: string): Deno.FsFile {
  try {
    return Deno.openSync(host);
  } catch (e) {
    throw isGone(e) ? changed(path) : e;
  }
}

/** Whether an open file looks as it looked before: then it is the one, and was the same all the time. */
function looks(file: Deno.FsFile, { ino, size, mtimeMs, ctimeMs }: RawInfo): boolean {
  const now = file.statSync();
  return now.isFile && now.ino === ino && now.size === size && now.mtime?.getTime() === mtimeMs &&
    now.ctime?.getTime() === ctimeMs;
}

/** Fills a buffer. */
function readExactly(file: Deno.FsFile, buffer: Uint8Array, path: string): void {
  for (let filled = 0; filled < buffer.length;) {
    const n = file.readSync(buffer.subarray(filled));
    if (n === null) throw changed(path);
    filled += n;
  }
}

function changed(path: string): NotThere {
  return new NotThere(`${shown(path)} is another file by now`);
}

function isGone(e: unknown): boolean {
  return e instanceof Deno.errors.NotFound || e instanceof Deno.errors.NotADirectory;
}

function shown(path: string): string {
  return JSON.stringify(path.slice(0, 200));
}
