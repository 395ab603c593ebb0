import { createHash } from "node:crypto";
import { Pace } from "../../proto/pace.ts";
import { BatchEncoder, type TreeRecord } from "../../proto/tree/batch.ts";
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
  /** Of the small file at hand, which the encoder copies. */
  readonly #content = new Uint8Array(PIECE_BYTES);

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
    const proof = known && !isRaw(host) ? info : undefined;
    if (size > PIECE_BYTES && !isRaw(host)) return this.#large(host, entry, offset, proof);
    let content: Uint8Array;
    if (proof) {
      using file = open(host, path);
      content = readExactly(file, this.#content.subarray(0, size), path);
      if (!looks(file, proof)) throw changed(path);
    } else {
      content = contentOf(host, path);
      if (content.length !== size || !sameDigest(digestOf(content), digest)) throw changed(path);
    }
    return this.#pieces(entry, offset, (at, length) => content.subarray(at, at + length));
  }

  /**
   * Reads a large file through one descriptor: for its digest, and then to send it.
   *
   * @param proof How it looks with the digest that is wanted, if that is known: then it is looked at, and read once.
   */
  async *#large(host: string, entry: Entry, offset: number, proof?: RawInfo): AsyncGenerator<Uint8Array> {
    using file = open(host, `/${entry.path}`);
    const buffer = new Uint8Array(PIECE_BYTES);
    // By the descriptor: a symlink that has just taken its place would lead anywhere.
    if (!proof) await this.#prove(file, entry, buffer);
    else if (!looks(file, proof)) throw changed(`/${entry.path}`);
    file.seekSync(offset, Deno.SeekMode.Start);
    yield* this.#pieces(entry, offset, (at, length) => {
      const piece = readExactly(file, buffer.subarray(0, length), `/${entry.path}`);
      if (proof && at + length === entry.size && !looks(file, proof)) throw changed(`/${entry.path}`);
      return piece;
    });
  }

  async #prove(file: Deno.FsFile, entry: Entry, buffer: Uint8Array): Promise<void> {
    const sum = createHash("sha256");
    let size = 0;
    for (let n = file.readSync(buffer); n !== null && size <= entry.size; n = file.readSync(buffer)) {
      sum.update(buffer.subarray(0, n));
      size += n;
      if (this.#pace.due) await this.#pace.rest();
    }
    if (size !== entry.size || !sameDigest(sum.digest(), entry.digest!)) throw changed(`/${entry.path}`);
  }

  /** The records of a file from `offset` on. @param take Gets its bytes, in their order; they are lent. */
  *#pieces(entry: Entry, offset: number, take: (at: number, length: number) => Uint8Array): Generator<Uint8Array> {
    let at = offset, first = true;
    do {
      const content = take(at, Math.min(PIECE_BYTES, entry.size - at));
      at += content.length;
      const record: TreeRecord = { content, more: at < entry.size };
      if (first) Object.assign(record, { entry, offset });
      first = false;
      const batch = this.encoder.add(record);
      if (batch) yield batch;
    } while (at < entry.size);
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
function readExactly(file: Deno.FsFile, buffer: Uint8Array, path: string): Uint8Array {
  for (let filled = 0; filled < buffer.length;) {
    const n = file.readSync(buffer.subarray(filled));
    if (n === null) throw changed(path);
    filled += n;
  }
  return buffer;
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
