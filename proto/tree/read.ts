/** Reads files that another program may be writing: a file that changes while it is read is read again. */
import { Buffer } from "node:buffer";
import { createHash, hash } from "node:crypto";
import { RbsError, sentence } from "../base/errors.ts";
import type { Entry } from "./entry.ts";
import type { Files } from "./files.ts";
import { Pace } from "../base/time_slice.ts";
import { lookAt, type ScannedEntry } from "./scan.ts";

/** Files up to this size are read at once, larger ones in pieces of this size. Bytes. */
export const PIECE_BYTES = 512 << 10;
/** How often a file that keeps changing is read. */
const ATTEMPTS = 5;

/** SHA-256 of bytes. */
export function digestOf(bytes: Uint8Array): Uint8Array {
  return hash("sha256", bytes, "buffer") as unknown as Uint8Array;
}

/** SHA-256 of a file, synchronously. Throws Deno's errors. */
export function digestFile(files: Files, path: string): Uint8Array {
  const sum = createHash("sha256");
  for (const piece of piecesOf(files, path, 0)) sum.update(piece);
  return sum.digest();
}

/** The pieces of a file from `offset` on. Each piece is overwritten by the next. */
function* piecesOf(files: Files, path: string, offset: number): Generator<Uint8Array> {
  using file = files.open(path);
  if (offset > 0) file.seek(offset);
  const buffer = new Uint8Array(PIECE_BYTES);
  for (let n = file.read(buffer); n > 0; n = file.read(buffer)) yield buffer.subarray(0, n);
}

/** A small file as it was at one moment. */
export interface StableFile {
  /** Its state at that moment, with its digest. */
  entry: ScannedEntry;
  content: Uint8Array;
}

/**
 * Reads a file of at most {@link PIECE_BYTES}. Undefined if it is gone, is no longer a file or is larger now: look at
 * it again. Throws an RbsError if the file cannot be read or changes on every attempt.
 *
 * @param path Relative to the root.
 */
export function readSmall(files: Files, root: string, path: string): StableFile | undefined {
  const full = `${root}/${path}`;
  for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
    const before = lookAt(files, root, path);
    if (typeof before !== "object" || before.kind !== "file" || before.size > PIECE_BYTES) return undefined;
    let content: Uint8Array;
    try {
      content = readWhole(files, full, before.size);
    } catch (e) {
      if (isSame(before, lookAt(files, root, path))) throw unreadable(root, path, e);
      continue;
    }
    const after = lookAt(files, root, path);
    if (isSame(before, after) && content.length === before.size) {
      after.digest = digestOf(content);
      return { entry: after, content };
    }
  }
  throw restless(root, path);
}

/** Reads `size` bytes of a file, and one more if the file has grown. */
function readWhole(files: Files, path: string, size: number): Uint8Array {
  using file = files.open(path);
  const buffer = new Uint8Array(size + 1);
  let filled = 0;
  while (filled <= size) {
    const n = file.read(filled === 0 ? buffer : buffer.subarray(filled));
    if (n === 0) break;
    filled += n;
    // This is the whole file if a later stat agrees.
    if (filled === size) break;
  }
  return buffer.subarray(0, filled);
}

/**
 * Computes the digest of a large file in pieces, with other work between them. Returns the entry for which the digest
 * is valid; undefined if the file is gone or no longer a file. Throws an RbsError like {@link readSmall}.
 */
export async function digestLarge(
  files: Files,
  root: string,
  path: string,
  options: { signal?: AbortSignal; onBytes?(bytes: number): void } = {},
): Promise<ScannedEntry | undefined> {
  const pace = new Pace(options.signal);
  for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
    const before = lookAt(files, root, path);
    if (typeof before !== "object" || before.kind !== "file") return undefined;
    const sum = createHash("sha256");
    let size = 0;
    try {
      for (const piece of piecesOf(files, `${root}/${path}`, 0)) {
        sum.update(piece);
        size += piece.length;
        // The file may grow faster than it is read.
        if (size > before.size) break;
        options.onBytes?.(piece.length);
        if (pace.due) await pace.rest();
      }
    } catch (e) {
      options.signal?.throwIfAborted();
      if (isSame(before, lookAt(files, root, path))) throw unreadable(root, path, e);
      continue;
    }
    const after = lookAt(files, root, path);
    if (isSame(before, after) && size === before.size) {
      after.digest = sum.digest();
      return after;
    }
  }
  throw restless(root, path);
}

/**
 * Yields the pieces of a large file from `offset` on. The caller may keep them. Throws a {@link FileChanged} when the
 * file no longer matches `entry`, and an RbsError when it cannot be read.
 */
export function* readLarge(files: Files, root: string, entry: ScannedEntry, offset = 0): Generator<Uint8Array> {
  let size = offset;
  try {
    for (const piece of piecesOf(files, `${root}/${entry.path}`, offset)) {
      if ((size += piece.length) > entry.size) break;
      yield Buffer.from(piece);
    }
  } catch (e) {
    if (isSame(entry, lookAt(files, root, entry.path))) throw unreadable(root, entry.path, e);
    throw new FileChanged(`${entry.path} is not what it was`);
  }
  if (size !== entry.size || !isSame(entry, lookAt(files, root, entry.path))) {
    throw new FileChanged(`${entry.path} was changed while it was read`);
  }
}

/** A file has changed since its digest was computed. */
export class FileChanged extends Error {
  override readonly name = "FileChanged";
}

function isSame(before: Entry & { ino: number }, after: ScannedEntry | string | undefined): after is ScannedEntry {
  return typeof after === "object" && after.kind === "file" && after.size === before.size &&
    after.mtimeMs === before.mtimeMs && after.ino === before.ino;
}

function unreadable(root: string, path: string, cause: unknown): RbsError {
  return new RbsError(
    `The file ${root}/${path} cannot be read (${sentence(cause)}): fix its permissions, or name it in .rbsignore.`,
    { cause, culprit: "caller" },
  );
}

function restless(root: string, path: string): RbsError {
  return new RbsError(
    `The file ${root}/${path} changes each time it is read: stop what writes it, or name it in .rbsignore.`,
    { culprit: "caller" },
  );
}
