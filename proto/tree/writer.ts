/**
 * Changes a tree as records say, and nothing outside of it. The sender of the records is not trusted.
 *
 * - A path is relative and without "..". Each directory on the way is checked: what would be written through a symlink
 *   is refused.
 * - A file is written to a private staging directory, its digest is checked, and only then is it renamed into place: no
 *   file is ever half-written. Only in a tree that is not in use yet, small files are written in place.
 * - Long runs of zeros become holes.
 */
import { Buffer } from "node:buffer";
import { createHash, type Hash, randomBytes } from "node:crypto";
import { isDiskFull, RbsError, sentence } from "../base/errors.ts";
import { Pace } from "../base/time_slice.ts";
import type { TreeRecord } from "./batch.ts";
import { type Entry, sameDigest } from "./entry.ts";
import { checkPath, TreeError } from "./names.ts";
import { type Files, type KeptFiles, lookFor, type OpenFile, type RawInfo } from "./files.ts";
import { digestFile, digestOf, PIECE_BYTES } from "./read.ts";
import { writeSparse, writeSparseLarge } from "./sparse.ts";

/** Larger files are copied in slices, with other work between them. Bytes. */
const LONG_BYTES = 4 << 20;
/** Larger files are kept when their sender is cut off, so that the transfer can be resumed. Bytes. */
const RESUMABLE_BYTES = 16 << 20;
const PARTIAL = /^partial-([0-9a-f]{64})$/;
/** How long files stay in the staging directory, in milliseconds. */
const STAGED_LIFE_MS = 7 * 24 * 3600_000;

/** The part of a large file that was received before its sender was cut off. */
export interface PartialContent {
  /** SHA-256 of the whole file. */
  digest: Uint8Array;
  /** Number of bytes from the start. */
  received: number;
}

/** Options of {@link TreeWriter}; its constructor describes them. */
export interface WriterOptions {
  files: Files;
  root: string;
  staging: string;
  signal?: AbortSignal;
  digests?: "required" | "optional";
}

/** Options of {@link TreeWriter.apply}. */
export interface ApplyOptions {
  /**
   * The tree is not in use yet: small files may be written in place, which saves the rename. A file that a kill cut
   * short then stays there, and its digest shows that.
   *
   * @default false
   */
  unused?: boolean;
}

/** A file that is being received. */
interface Receiving {
  entry: Entry;
  file: OpenFile;
  staged: string;
  sum: Hash;
  size: number;
}

/** Writes the records of an untrusted sender into one tree. */
export class TreeWriter {
  readonly #files: KeptFiles;
  readonly #root: string;
  readonly #staging: string;
  readonly #prefix = randomBytes(6).toString("hex");
  #count = 0;
  /** Paths that were checked to be directories. */
  readonly #real = new Set<string>();
  /** Modes that directories get at the end. */
  readonly #modes = new Map<string, number>();
  /** The staging directory's path in the tree, if it is there: nothing may be written into it or replace it. */
  readonly #closed?: string;
  readonly #signal?: AbortSignal;
  readonly #digestRequired: boolean;
  #receiving?: Receiving;
  /** A record whose work is asynchronous is in progress. */
  #busy = false;

  /**
   * @param options.files The file operations for the paths.
   * @param options.root Created if missing.
   * @param options.staging Private directory on the root's file system. Created if missing.
   * @param options.signal Aborts long work: {@link apply} then rejects with the signal's reason.
   * @param options.digests Whether every file must have a digest, or a file without one is accepted. @default required
   */
  constructor({ files, root, staging, signal, digests }: WriterOptions) {
    this.#files = files.keeping();
    this.#root = root;
    this.#staging = staging;
    this.#signal = signal;
    this.#digestRequired = digests !== "optional";
    if (staging.startsWith(`${root}/`)) this.#closed = staging.slice(root.length + 1);
    try {
      this.#files.makeWay(root);
      this.#files.makeWay(staging, 0o700);
      if (this.#files.lstat(staging).kind !== "directory") throw new Error("it is no folder");
      this.#clean();
    } catch (e) {
      this.#files[Symbol.dispose]();
      throw unwritable(staging, e);
    }
  }

  /** Removes what writers that were killed left behind. */
  #clean(): void {
    for (const name of this.#files.names(this.#staging)) {
      const path = `${this.#staging}/${name}`;
      const changed = lookFor(this.#files, path)?.ctimeMs ?? 0;
      if (Date.now() - changed > STAGED_LIFE_MS) this.#discard(path);
    }
  }

  /**
   * Applies one record. Throws a {@link TreeError} for a record that no honest sender sends, and an RbsError if the
   * disk refuses it; nothing of the file is then in place.
   *
   * @returns undefined when the record is applied, as for nearly every record. A promise for a large file that is
   * resumed or copied; it rejects with the same errors. Await it before any other call.
   */
  apply(record: TreeRecord, options: ApplyOptions = {}): Promise<void> | undefined {
    const { entry, remove } = record;
    if (this.#busy) throw new TypeError("The writer was given a record before the last one was in place: wait for it.");
    if (this.#receiving && (entry || remove !== undefined)) {
      throw new TreeError(`the file ${shown(this.#receiving.entry.path)} was not sent to its end`);
    }
    if (remove !== undefined) {
      this.#check(remove);
      return this.#guard(remove, () => this.#remove(remove));
    }
    if (!entry) return void this.#continue(record);
    this.#check(entry.path);
    return this.#guard(entry.path, () => {
      if (entry.kind === "directory") this.#directory(entry);
      else if (entry.kind === "symlink") this.#symlink(entry);
      else if (record.copyFrom !== undefined) return this.#copy(entry, record.copyFrom, record.digest);
      else if (record.more || record.offset) return this.#begin(entry, record);
      else this.#small(entry, record, options.unused === true);
    });
  }

  /**
   * Puts a file with complete content in place. Other threads compute the digest and write it; other records may be
   * applied meanwhile. Rejects with the errors of {@link apply}.
   *
   * @param content Must not change until the promise is settled.
   */
  async place(entry: Entry, content: Uint8Array<ArrayBuffer>): Promise<void> {
    this.#check(entry.path);
    const staged = this.#stagedName();
    try {
      const [digest, written] = await Promise.allSettled([
        crypto.subtle.digest("SHA-256", content),
        this.#writeNew(staged, content, entry.mode & 0o777, entry.mtimeMs),
      ]);
      if (digest.status === "rejected") throw digest.reason;
      if (written.status === "rejected") throw written.reason;
      this.#prove(entry, content.length, () => new Uint8Array(digest.value));
      this.#parentAgain(entry.path);
      if (entry.mode > 0o777) this.#files.chmod(staged, entry.mode);
      this.#place(staged, entry.path);
    } catch (e) {
      this.#discard(staged);
      throw this.#explained(entry.path, e);
    }
  }

  /**
   * Forgets which directories were checked, since another program may have replaced one by a symlink. Call it before
   * each batch of records; within a batch, each directory is checked once.
   */
  doubt(): void {
    this.#real.clear();
    this.#files.doubt();
  }

  /** Ends the writer: directories get their modes; an incomplete file is removed, or kept for resumption. */
  close(): void {
    this.#abandon();
    this.doubt();
    for (const [path, mode] of [...this.#modes].sort(([a], [b]) => b.length - a.length)) {
      try {
        if (this.#hasParent(path) && this.#look(path)?.kind === "directory") this.#files.chmod(this.#full(path), mode);
      } catch { /* removed since */ }
    }
    this.#modes.clear();
    this.doubt();
  }

  /** The large files that are kept for resumption. */
  partials(): PartialContent[] {
    const partials: PartialContent[] = [];
    for (const name of this.#files.names(this.#staging)) {
      const digest = PARTIAL.exec(name)?.[1];
      if (digest === undefined) continue;
      const received = this.#files.lstat(`${this.#staging}/${name}`).size;
      partials.push({ digest: Buffer.from(digest, "hex"), received });
    }
    return partials;
  }

  #full(path: string): string {
    return path === "" ? this.#root : `${this.#root}/${path}`;
  }

  /** Throws unless `path` may be changed. */
  #check(path: string): void {
    checkPath(path);
    const closed = this.#closed;
    if (closed !== undefined && (`${path}/`.startsWith(`${closed}/`) || closed.startsWith(`${path}/`))) {
      throw new TreeError(`${shown(path)} is where files are received`);
    }
  }

  #stagedName(): string {
    return `${this.#staging}/${this.#prefix}-${this.#count++}`;
  }

  /** Runs a change, and converts disk errors to RbsErrors. */
  #guard(path: string, change: () => Promise<void> | void): Promise<void> | undefined {
    try {
      const long = change();
      return long ? this.#wait(path, long) : undefined;
    } catch (e) {
      throw this.#explained(path, e);
    }
  }

  async #wait(path: string, long: Promise<void>): Promise<void> {
    this.#busy = true;
    try {
      await long;
    } catch (e) {
      throw this.#signal?.aborted ? e : this.#explained(path, e);
    } finally {
      this.#busy = false;
    }
  }

  #explained(path: string, e: unknown): unknown {
    return e instanceof TreeError || e instanceof RbsError ? e : unwritable(this.#full(path), e);
  }

  // --- parent directories

  /** Ensures that the parent of `path` exists, is a directory and is writable. */
  #parent(path: string): void {
    const parent = path.slice(0, Math.max(0, path.lastIndexOf("/")));
    if (this.#real.has(parent)) return;
    if (parent !== "") this.#parent(parent);
    const info = this.#look(parent);
    if (!info) this.#files.mkdir(this.#full(parent));
    else if (info.kind !== "directory") {
      throw new TreeError(`${shown(path)} lies in ${shown(parent)}, which is no folder`);
    } else this.#unlock(parent, info);
    this.#real.add(parent);
  }

  /** Like {@link #parent}, but checks the parents again, since the last check may be long ago. */
  #parentAgain(path: string): void {
    for (let slash = path.indexOf("/"); slash >= 0; slash = path.indexOf("/", slash + 1)) {
      this.#real.delete(path.slice(0, slash));
    }
    this.#real.delete("");
    this.#parent(path);
  }

  /** Makes a directory writable for its owner until the end. */
  #unlock(folder: string, { mode }: RawInfo): void {
    if ((mode & 0o300) === 0o300) return;
    if (!this.#modes.has(folder)) this.#modes.set(folder, mode & 0o7777);
    this.#files.chmod(this.#full(folder), mode & 0o7777 | 0o700);
  }

  /** Whether the parent of `path` exists and no symlink is on the way. */
  #hasParent(path: string): boolean {
    for (let slash = path.indexOf("/"); slash >= 0; slash = path.indexOf("/", slash + 1)) {
      const folder = path.slice(0, slash);
      if (this.#real.has(folder)) continue;
      const info = this.#look(folder);
      if (info?.kind !== "directory") return false;
      this.#unlock(folder, info);
    }
    return true;
  }

  #look(path: string): RawInfo | undefined {
    return lookFor(this.#files, this.#full(path));
  }

  /** Forgets what was known of `path` and everything below. */
  #forget(path: string): void {
    const below = `${path}/`;
    if (this.#real.delete(path)) {
      for (const known of this.#real) if (known.startsWith(below)) this.#real.delete(known);
    }
    for (const known of this.#modes.keys()) if (known === path || known.startsWith(below)) this.#modes.delete(known);
  }

  // --- changes

  #remove(path: string): void {
    // If the parent is missing or behind a symlink, there is nothing to remove.
    if (!this.#hasParent(path)) return;
    this.#parent(path);
    this.#removeAt(path);
  }

  /** Removes what is at `path`. Its parent must be checked. */
  #removeAt(path: string): void {
    this.#forget(path);
    const full = this.#full(path);
    const info = this.#look(path);
    if (!info) return;
    if (info.kind !== "directory") return this.#files.remove(full);
    try {
      this.#files.remove(full, { recursive: true });
    } catch (e) {
      if (!(e instanceof Deno.errors.PermissionDenied)) throw e;
      this.#makeWritable(full);
      this.#files.remove(full, { recursive: true });
    }
  }

  #directory(entry: Entry): void {
    const { path, mode } = entry;
    this.#parent(path);
    const info = this.#look(path);
    if (info && info.kind !== "directory") this.#removeAt(path);
    if (info?.kind !== "directory") this.#files.mkdir(this.#full(path));
    // The owner's bits are set until the end, so that files can be created in it.
    const now = mode | 0o700;
    if (now !== (info?.kind === "directory" ? info.mode & 0o7777 : -1)) this.#files.chmod(this.#full(path), now);
    if (now === mode) this.#modes.delete(path);
    else this.#modes.set(path, mode);
    this.#real.add(path);
  }

  #symlink(entry: Entry): void {
    this.#parent(entry.path);
    const staged = this.#stagedName();
    this.#files.symlink(entry.target!, staged);
    this.#place(staged, entry.path);
  }

  #small(entry: Entry, record: TreeRecord, unused: boolean): void {
    const content = record.content ?? new Uint8Array();
    this.#prove(entry, content.length, () => digestOf(content), record.digest);
    this.#parent(entry.path);
    if (unused && this.#inPlace(entry, content)) return;
    const staged = this.#stagedName();
    try {
      this.#files.writeNew(staged, own(content), entry.mode & 0o777, entry.mtimeMs);
      if (entry.mode > 0o777) this.#files.chmod(staged, entry.mode);
      this.#place(staged, entry.path);
    } catch (e) {
      this.#discard(staged);
      throw e;
    }
  }

  /**
   * Writes a small file in place.
   * @returns false if something is there
   */
  #inPlace({ path, mode, mtimeMs }: Entry, content: Uint8Array): boolean {
    const full = this.#full(path);
    try {
      this.#files.writeNew(full, own(content), mode & 0o777, mtimeMs);
      if (mode > 0o777) this.#files.chmod(full, mode);
    } catch (e) {
      if (e instanceof Deno.errors.AlreadyExists) return false;
      throw e;
    }
    return true;
  }

  #copy(entry: Entry, from: string, digest: Uint8Array | undefined): Promise<void> | undefined {
    this.#check(from);
    const info = this.#hasParent(from) ? this.#look(from) : undefined;
    if (info?.kind !== "file") throw new TreeError(`${shown(from)} cannot be copied, since it is no file`);
    // Refused before the copy, since the size cannot match.
    if (info.size !== entry.size) throw wrongSize(entry, info.size);
    this.#parent(entry.path);
    const staged = this.#stagedName();
    if (info.size > LONG_BYTES) return this.#copyLarge(entry, this.#full(from), staged, digest);
    try {
      this.#files.copy(this.#full(from), staged);
      this.#prove(entry, this.#files.lstat(staged).size, () => digestFile(this.#files, staged), digest);
      this.#finish(staged, entry);
    } catch (e) {
      this.#discard(staged);
      throw e;
    }
  }

  async #copyLarge(entry: Entry, from: string, staged: string, digest: Uint8Array | undefined): Promise<void> {
    try {
      await this.#files.copyLarge(from, staged);
      this.#signal?.throwIfAborted();
      const sum = createHash("sha256");
      let size: number;
      {
        using file = this.#files.open(staged);
        size = await this.#digest(file, sum);
      }
      this.#prove(entry, size, () => sum.digest(), digest);
      this.#parentAgain(entry.path);
      this.#finish(staged, entry);
    } catch (e) {
      this.#discard(staged);
      throw e;
    }
  }

  /**
   * Adds the rest of a file to a digest, in slices.
   * @returns the number of bytes
   */
  async #digest(file: OpenFile, sum: Hash): Promise<number> {
    const pace = new Pace(this.#signal);
    const buffer = new Uint8Array(PIECE_BYTES);
    let size = 0;
    for (let n = file.read(buffer); n > 0; n = file.read(buffer)) {
      sum.update(buffer.subarray(0, n));
      size += n;
      if (pace.due) await pace.rest();
    }
    return size;
  }

  #begin(entry: Entry, record: TreeRecord): Promise<void> | undefined {
    const { offset = 0 } = record;
    this.#parent(entry.path);
    const resumable = entry.digest !== undefined && entry.size > RESUMABLE_BYTES;
    const staged = resumable
      ? `${this.#staging}/partial-${Buffer.from(entry.digest!).toString("hex")}`
      : this.#stagedName();
    const sum = createHash("sha256");
    if (offset > 0) {
      if (!resumable || (lookFor(this.#files, staged)?.size ?? 0) < offset) {
        throw new TreeError(`nothing is here of ${shown(entry.path)} that could be gone on with`);
      }
    } else this.#discard(staged);
    const file = offset > 0 ? this.#files.update(staged) : this.#files.create(staged, 0o600);
    this.#receiving = { entry, file, staged, sum, size: offset };
    if (offset > 0) return this.#resume(record);
    this.#continue(record);
  }

  /** Digests the received part of a large file, then continues with its next part. */
  async #resume(record: TreeRecord): Promise<void> {
    const { file, sum, size } = this.#receiving!;
    try {
      file.truncate(size);
      await this.#digest(file, sum);
    } catch (e) {
      // A sender that was cut off may resume again.
      if (this.#signal?.aborted) this.#abandon();
      else this.#discardReceiving();
      throw e;
    }
    this.#continue(record);
  }

  #continue(record: TreeRecord): void {
    const receiving = this.#receiving;
    if (!receiving) throw new TreeError("a part of a file came without its beginning");
    const { entry, file, staged, sum } = receiving;
    const content = record.content ?? new Uint8Array();
    if (record.offset && record.offset !== receiving.size) {
      throw new TreeError(`a part of ${shown(entry.path)} does not go on where the one before ended`);
    }
    if (receiving.size + content.length > entry.size) {
      this.#discardReceiving();
      throw new TreeError(`${shown(entry.path)} is longer than it was said to be`);
    }
    try {
      writeSparse(file, own(content), receiving.size);
    } catch (e) {
      this.#discardReceiving();
      throw unwritable(this.#full(entry.path), e);
    }
    sum.update(content);
    receiving.size += content.length;
    if (record.more) return;
    file.close();
    this.#receiving = undefined;
    this.#guard(entry.path, () => {
      try {
        this.#prove(entry, receiving.size, () => sum.digest(), record.digest);
        this.#parentAgain(entry.path);
        this.#finish(staged, entry);
      } catch (e) {
        this.#discard(staged);
        throw e;
      }
    });
  }

  /**
   * Throws unless a file has the announced size and digest. @param digestOf Computes the digest of what was received.
   */
  #prove(entry: Entry, size: number, digestOf: () => Uint8Array, said = entry.digest): void {
    if (size !== entry.size) throw wrongSize(entry, size);
    if (!said && !this.#digestRequired) return;
    const digest = digestOf();
    if (!said || !sameDigest(said, digest) || (entry.digest && !sameDigest(entry.digest, digest))) {
      throw new TreeError(`${shown(entry.path)} has not the content that its digest says`);
    }
  }

  /** Sets a staged file's attributes, and puts it in place. */
  #finish(staged: string, entry: Entry): void {
    this.#files.chmod(staged, entry.mode);
    this.#files.utime(staged, entry.mtimeMs);
    this.#place(staged, entry.path);
  }

  /** Renames a staged file to `path`, replacing what is there. Its parent must be checked. */
  #place(staged: string, path: string): void {
    const full = this.#full(path);
    try {
      if (this.#real.has(path)) this.#removeAt(path);
      try {
        this.#files.rename(staged, full);
      } catch (e) {
        if (this.#look(path)?.kind !== "directory") throw e;
        this.#removeAt(path);
        this.#files.rename(staged, full);
      }
    } catch (e) {
      this.#discard(staged);
      throw e;
    }
  }

  /** Writes a new file in another thread. */
  async #writeNew(path: string, content: Uint8Array<ArrayBuffer>, mode: number, mtimeMs: number): Promise<void> {
    using file = this.#files.create(path, mode);
    await writeSparseLarge(file, content, 0);
    file.utime(mtimeMs);
  }

  /** Gives the owner write permission for a directory and all directories below, so that they can be removed. */
  #makeWritable(folder: string): void {
    this.#files.chmod(folder, 0o700);
    for (const name of this.#files.names(folder)) {
      const path = `${folder}/${name}`;
      if (this.#files.lstat(path).kind === "directory") this.#makeWritable(path);
    }
  }

  #discard(staged: string): void {
    try {
      this.#files.remove(staged);
    } catch { /* it was not there, or is in place */ }
  }

  #abandon(): void {
    const receiving = this.#receiving;
    if (!receiving) return;
    if (!PARTIAL.test(receiving.staged.slice(this.#staging.length + 1))) return this.#discardReceiving();
    receiving.file.close();
    this.#receiving = undefined;
  }

  #discardReceiving(): void {
    const receiving = this.#receiving;
    if (!receiving) return;
    receiving.file.close();
    this.#discard(receiving.staged);
    this.#receiving = undefined;
  }
}

function wrongSize({ path, size }: Entry, found: number): TreeError {
  return new TreeError(`${shown(path)} has ${found} bytes instead of ${size}`);
}

/** The error for a disk that refuses a write. */
function unwritable(path: string, cause: unknown): RbsError {
  return new RbsError(
    isDiskFull(cause)
      ? `The disk of ${path} is full: make room there.`
      : `${path} cannot be written (${sentence(cause)}): fix its permissions.`,
    { cause, culprit: "caller" },
  );
}

/** Bytes from the network have memory of their own, never shared. */
function own(bytes: Uint8Array): Uint8Array<ArrayBuffer> {
  return bytes as Uint8Array<ArrayBuffer>;
}

function shown(path: string): string {
  return JSON.stringify(path.length > 200 ? `${path.slice(0, 200)}…` : path);
}
