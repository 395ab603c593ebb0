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

/**
 * Reads files of a session as batches. What is given away lies in the session's own storage, behind no symlink, and is
 * what the caller knows already by its digest: not a byte is sent before that is proven.
 */
export class SessionFiles {
  readonly #paths: DeveloperPaths;
  readonly #pace: Pace;
  /** Folders of this machine that are ones. */
  readonly #real = new Set<string>();
  readonly encoder = new BatchEncoder();

  /** @param signal Aborted when nobody wants the files any more. */
  constructor(paths: DeveloperPaths, signal?: AbortSignal) {
    this.#paths = paths;
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
    if (size > PIECE_BYTES && !isRaw(host)) return this.#large(host, entry, offset);
    const content = contentOf(host, path);
    if (content.length !== size || !sameDigest(digestOf(content), digest)) throw changed(path);
    return this.#pieces(entry, offset, (at, length) => content.subarray(at, at + length));
  }

  /** Reads a large file twice, through one descriptor: for its digest, and then to send it. */
  async *#large(host: string, entry: Entry, offset: number): AsyncGenerator<Uint8Array> {
    using file = open(host, `/${entry.path}`);
    const buffer = new Uint8Array(PIECE_BYTES), sum = createHash("sha256");
    let size = 0;
    for (let n = file.readSync(buffer); n !== null && size <= entry.size; n = file.readSync(buffer)) {
      sum.update(buffer.subarray(0, n));
      size += n;
      if (this.#pace.due) await this.#pace.rest();
    }
    if (size !== entry.size || !sameDigest(sum.digest(), entry.digest!)) throw changed(`/${entry.path}`);
    file.seekSync(offset, Deno.SeekMode.Start);
    yield* this.#pieces(entry, offset, (_, length) => {
      let filled = 0;
      while (filled < length) {
        const n = file.readSync(buffer.subarray(filled, length));
        if (n === null) throw changed(`/${entry.path}`);
        filled += n;
      }
      return buffer.subarray(0, length);
    });
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

function changed(path: string): NotThere {
  return new NotThere(`${shown(path)} is another file by now`);
}

function isGone(e: unknown): boolean {
  return e instanceof Deno.errors.NotFound || e instanceof Deno.errors.NotADirectory;
}

function shown(path: string): string {
  return JSON.stringify(path.slice(0, 200));
}
