/**
 * Changes a tree as records say, and nothing outside of it: whoever sends the records is not trusted.
 *
 * - A path is relative, without "..", and every folder on its way is looked at and must be one: what would be written
 *   through a symlink is refused.
 * - A file is written to a staging folder that nobody else sees, its digest is checked, and only then it is renamed into
 *   place: there is never half of one. Only of a tree that nobody uses yet, small files are written into place.
 */
import { Buffer } from "node:buffer";
import { createHash, type Hash, randomBytes } from "node:crypto";
import { RbsError, sentence } from "../errors.ts";
import { Pace } from "../pace.ts";
import type { TreeRecord } from "./batch.ts";
import { type Entry, sameDigest } from "./entry.ts";
import { checkPath, isRaw, TreeError } from "./names.ts";
import {
  chmodSync,
  copyFileSync,
  lstatSync,
  mkdirSync,
  type RawInfo,
  readdirSync,
  removeSync,
  renameSync,
  symlinkSync,
} from "./raw_names.ts";
import { digestFile, digestOf, PIECE_BYTES } from "./read.ts";

/** Larger files are copied with other work between the pieces. Bytes. */
const LONG_BYTES = 4 << 20;
/** Larger files are kept when their sender is cut off, so that it can go on. Bytes. */
const RESUMABLE_BYTES = 16 << 20;
const PARTIAL = /^partial-([0-9a-f]{64})$/;
/** How long something is kept in the staging folder that nobody goes on with, in milliseconds. */
const STAGED_LIFE_MS = 7 * 24 * 3600_000;

/** What is there of a large file whose sender was cut off. */
export interface PartialContent {
  /** SHA-256 of the whole file. */
  digest: Uint8Array;
  /** Bytes from its beginning. */
  received: number;
}

/** See {@link TreeWriter}. */
export interface WriterOptions {
  root: string;
  staging: string;
  signal?: AbortSignal;
  digests?: "required" | "optional";
}

/** How a record is applied. */
export interface ApplyOptions {
  /**
   * Nobody uses the tree yet: a small file may be written where it belongs, which saves the renaming. One that was cut off
   * by a kill stands there then, and its digest tells.
   *
   * @default false
   */
  unused?: boolean;
}

/** A file that is being received. */
interface Receiving {
  entry: Entry;
  file: Deno.FsFile;
  staged: string;
  sum: Hash;
  size: number;
}

/** See the file's head. */
export class TreeWriter {
  readonly #root: string;
  readonly #staging: string;
  readonly #prefix = randomBytes(6).toString("hex");
  #count = 0;
  /** Folders that were looked at and are ones. */
  readonly #real = new Set<string>();
  /** Modes that folders get when nothing more is written into them. */
  readonly #modes = new Map<string, number>();
  /** The staging folder's path in the tree, if it lies there: nothing can be put into it or in its place. */
  readonly #closed?: string;
  readonly #signal?: AbortSignal;
  readonly #digestRequired: boolean;
  #receiving?: Receiving;
  /** A record that takes long is under way. */
  #busy = false;

  /**
   * @param options.root Absolute; is made if it is not there. It is trusted, also if a symlink leads to it.
   * @param options.staging Absolute, on the root's file system, seen by nobody else; is made if it is not there.
   * @param options.signal Ends a record that takes long: {@link apply} rejects with its reason.
   * @param options.digests Whether each file must have one, or what comes without is taken as it comes. @default required
   */
  constructor({ root, staging, signal, digests }: WriterOptions) {
    this.#root = root;
    this.#staging = staging;
    this.#signal = signal;
    this.#digestRequired = digests !== "optional";
    if (staging.startsWith(`${root}/`)) this.#closed = staging.slice(root.length + 1);
    try {
      Deno.mkdirSync(root, { recursive: true });
      Deno.mkdirSync(staging, { recursive: true, mode: 0o700 });
      if (!Deno.lstatSync(staging).isDirectory) throw new Error("it is no folder");
      this.#clean();
    } catch (e) {
      throw unwritable(staging, e);
    }
  }

  /** Removes what others left behind when they were killed. */
  #clean(): void {
    for (const { name } of Deno.readDirSync(this.#staging)) {
      const path = `${this.#staging}/${name}`;
      const changed = Deno.lstatSync(path).ctime?.getTime() ?? 0;
      if (Date.now() - changed > STAGED_LIFE_MS) discard(path);
    }
  }

  /**
   * Makes one change. Throws a {@link TreeError} for what no honest sender asks for, and an RbsError if the disk does not
   * take it; nothing of the file in question is in place then.
   *
   * @returns undefined when it is done, as it is for nearly every record. For a large file that is gone on with, or copied,
   * a promise, which rejects with the same errors: wait for it before anything else is asked of the writer.
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
   * Puts a file in place of which all content is there: other threads digest and write it, and other records may be
   * applied meanwhile. Rejects as {@link apply} throws.
   *
   * @param content Is lent until the promise is settled.
   */
  async place(entry: Entry, content: Uint8Array<ArrayBuffer>): Promise<void> {
    this.#check(entry.path);
    const staged = this.#stagedName();
    try {
      const [digest, written] = await Promise.allSettled([
        crypto.subtle.digest("SHA-256", content),
        writeNew(staged, content, entry.mode & 0o777),
      ]);
      if (digest.status === "rejected") throw digest.reason;
      if (written.status === "rejected") throw written.reason;
      this.#prove(entry, content.length, () => new Uint8Array(digest.value));
      this.#parentAgain(entry.path);
      this.#finish(staged, entry, entry.mode > 0o777);
    } catch (e) {
      discard(staged);
      throw this.#explained(entry.path, e);
    }
  }

  /**
   * Forgets which folders were looked at: somebody else may have put a symlink in the place of one. Call it before each
   * batch of records; within one a folder is looked at once.
   */
  doubt(): void {
    this.#real.clear();
  }

  /** Ends: folders get their modes, and what was not received to its end is removed, or kept to be resumed. */
  close(): void {
    this.#abandon();
    this.doubt();
    for (const [path, mode] of [...this.#modes].sort(([a], [b]) => b.length - a.length)) {
      try {
        if (this.#hasParent(path) && this.#look(path)?.kind === "directory") chmodSync(this.#full(path), mode);
      } catch { /* removed since */ }
    }
    this.#modes.clear();
  }

  /** What is kept of large files. */
  partials(): PartialContent[] {
    const partials: PartialContent[] = [];
    for (const { name } of Deno.readDirSync(this.#staging)) {
      const digest = PARTIAL.exec(name)?.[1];
      if (digest === undefined) continue;
      const received = Deno.lstatSync(`${this.#staging}/${name}`).size;
      partials.push({ digest: Buffer.from(digest, "hex"), received });
    }
    return partials;
  }

  #full(path: string): string {
    return `${this.#root}/${path}`;
  }

  /** Throws unless something may be changed at `path`. */
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

  /** Has the disk's errors explained. */
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

  // --- folders on the way

  /** Makes sure that the folder of `path` is there, is one, and can be written. */
  #parent(path: string): void {
    const parent = path.slice(0, Math.max(0, path.lastIndexOf("/")));
    if (this.#real.has(parent)) return;
    if (parent !== "") this.#parent(parent);
    // Of the root, it sees what is behind a symlink.
    const info = this.#look(parent);
    if (!info) mkdirSync(this.#full(parent));
    else if (info.kind !== "directory") {
      throw new TreeError(`${shown(path)} lies in ${shown(parent)}, which is no folder`);
    } else this.#unlock(parent, info);
    this.#real.add(parent);
  }

  /** The same when it may be long since these folders were looked at. */
  #parentAgain(path: string): void {
    for (let slash = path.indexOf("/"); slash >= 0; slash = path.indexOf("/", slash + 1)) {
      this.#real.delete(path.slice(0, slash));
    }
    this.#real.delete("");
    this.#parent(path);
  }

  /** Lets its owner write into a folder until the end. */
  #unlock(folder: string, { mode }: RawInfo): void {
    if ((mode & 0o300) === 0o300) return;
    if (!this.#modes.has(folder)) this.#modes.set(folder, mode & 0o7777);
    chmodSync(this.#full(folder), mode & 0o7777 | 0o700);
  }

  /** Whether the folder of `path` is there, without a symlink on the way. */
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
    try {
      return lstatSync(this.#full(path));
    } catch (e) {
      if (e instanceof Deno.errors.NotFound || e instanceof Deno.errors.NotADirectory) return undefined;
      throw e;
    }
  }

  /** Forgets what was known at and below `path`. */
  #forget(path: string): void {
    const below = `${path}/`;
    if (this.#real.delete(path)) {
      for (const known of this.#real) if (known.startsWith(below)) this.#real.delete(known);
    }
    for (const known of this.#modes.keys()) if (known === path || known.startsWith(below)) this.#modes.delete(known);
  }

  // --- changes

  #remove(path: string): void {
    // What is in a folder that is not there needs no removing. Nor does what a symlink leads to.
    if (!this.#hasParent(path)) return;
    this.#parent(path);
    this.#removeAt(path);
  }

  /** Removes what is at `path`, whose folder was looked at. */
  #removeAt(path: string): void {
    this.#forget(path);
    const full = this.#full(path);
    const info = this.#look(path);
    if (!info) return;
    if (info.kind !== "directory") return removeSync(full);
    try {
      removeSync(full, { recursive: true });
    } catch (e) {
      if (!(e instanceof Deno.errors.PermissionDenied)) throw e;
      makeWritable(full);
      removeSync(full, { recursive: true });
    }
  }

  #directory(entry: Entry): void {
    const { path, mode } = entry;
    this.#parent(path);
    const info = this.#look(path);
    if (info && info.kind !== "directory") this.#removeAt(path);
    if (info?.kind !== "directory") mkdirSync(this.#full(path));
    // Until the end, so that files can be made in it.
    const now = mode | 0o700;
    if (now !== (info?.kind === "directory" ? info.mode & 0o7777 : -1)) chmodSync(this.#full(path), now);
    if (now === mode) this.#modes.delete(path);
    else this.#modes.set(path, mode);
    this.#real.add(path);
  }

  #symlink(entry: Entry): void {
    this.#parent(entry.path);
    const staged = this.#stagedName();
    symlinkSync(entry.target!, staged);
    this.#place(staged, entry.path);
  }

  #small(entry: Entry, record: TreeRecord, unused: boolean): void {
    const content = record.content ?? new Uint8Array();
    this.#prove(entry, content.length, () => digestOf(content), record.digest);
    this.#parent(entry.path);
    if (unused && this.#inPlace(entry, content)) return;
    const staged = this.#stagedName();
    try {
      // The mode is kept whatever the umask.
      Deno.writeFileSync(staged, content, { createNew: true, mode: entry.mode & 0o777 });
      this.#finish(staged, entry, entry.mode > 0o777);
    } catch (e) {
      discard(staged);
      throw e;
    }
  }

  /** Writes a small file where it belongs. @returns false if something is there */
  #inPlace(entry: Entry, content: Uint8Array): boolean {
    const { path, mode } = entry;
    if (isRaw(path)) return false;
    const full = this.#full(path);
    try {
      Deno.writeFileSync(full, content, { createNew: true, mode: mode & 0o777 });
    } catch (e) {
      if (e instanceof Deno.errors.AlreadyExists) return false;
      // Half of it, perhaps.
      discard(full);
      throw e;
    }
    this.#attributes(full, entry, mode > 0o777);
    return true;
  }

  #copy(entry: Entry, from: string, digest: Uint8Array | undefined): Promise<void> | undefined {
    this.#check(from);
    const info = this.#hasParent(from) ? this.#look(from) : undefined;
    if (info?.kind !== "file") throw new TreeError(`${shown(from)} cannot be copied, since it is no file`);
    // What cannot be right is not copied first.
    if (info.size !== entry.size) throw wrongSize(entry, info.size);
    this.#parent(entry.path);
    const staged = this.#stagedName();
    // Bash copies what Deno cannot name, in one go: it is rare.
    if (info.size > LONG_BYTES && !isRaw(from)) return this.#copyLarge(entry, this.#full(from), staged, digest);
    try {
      copyFileSync(this.#full(from), staged);
      this.#prove(entry, Deno.lstatSync(staged).size, () => digestFile(staged), digest);
      this.#finish(staged, entry, true);
    } catch (e) {
      discard(staged);
      throw e;
    }
  }

  async #copyLarge(entry: Entry, from: string, staged: string, digest: Uint8Array | undefined): Promise<void> {
    try {
      // By the system, which may share the blocks; not on this thread.
      await Deno.copyFile(from, staged);
      this.#signal?.throwIfAborted();
      const sum = createHash("sha256");
      let size: number;
      {
        using file = Deno.openSync(staged);
        size = await this.#digest(file, sum);
      }
      this.#prove(entry, size, () => sum.digest(), digest);
      this.#parentAgain(entry.path);
      this.#finish(staged, entry, true);
    } catch (e) {
      discard(staged);
      throw e;
    }
  }

  /** Adds the rest of a file to a digest, in slices. @returns its bytes */
  async #digest(file: Deno.FsFile, sum: Hash): Promise<number> {
    const pace = new Pace(this.#signal);
    const buffer = new Uint8Array(PIECE_BYTES);
    let size = 0;
    for (let n = file.readSync(buffer); n !== null; n = file.readSync(buffer)) {
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
      if (!resumable || sizeOf(staged) < offset) {
        throw new TreeError(`nothing is here of ${shown(entry.path)} that could be gone on with`);
      }
    } else discard(staged);
    const file = Deno.openSync(staged, { read: true, write: true, create: true, mode: 0o600 });
    this.#receiving = { entry, file, staged, sum, size: offset };
    if (offset > 0) return this.#resume(record);
    this.#continue(record);
  }

  /** Reads what was kept of a large file, so that its digest can go on, and then its next part. */
  async #resume(record: TreeRecord): Promise<void> {
    const { file, sum, size } = this.#receiving!;
    try {
      file.truncateSync(size);
      await this.#digest(file, sum);
    } catch (e) {
      // Whoever was cut off in the middle of it comes again.
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
      for (let at = 0; at < content.length;) at += file.writeSync(content.subarray(at));
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
        this.#finish(staged, entry, true);
      } catch (e) {
        discard(staged);
        throw e;
      }
    });
  }

  /** Throws unless a file is what it was said to be. @param digestOf Makes the digest of what came. */
  #prove(entry: Entry, size: number, digestOf: () => Uint8Array, said = entry.digest): void {
    if (size !== entry.size) throw wrongSize(entry, size);
    if (!said && !this.#digestRequired) return;
    const digest = digestOf();
    if (!said || !sameDigest(said, digest) || (entry.digest && !sameDigest(entry.digest, digest))) {
      throw new TreeError(`${shown(entry.path)} has not the content that its digest says`);
    }
  }

  /** Gives a staged file its attributes, and puts it in place. */
  #finish(staged: string, entry: Entry, chmod: boolean): void {
    this.#attributes(staged, entry, chmod);
    this.#place(staged, entry.path);
  }

  /** Gives a file its time and, if it has not got it yet, its mode. */
  #attributes(file: string, entry: Entry, chmod: boolean): void {
    if (chmod) Deno.chmodSync(file, entry.mode);
    // Of seconds with a fraction, Deno loses a millisecond now and then.
    const time = new Date(entry.mtimeMs);
    Deno.utimeSync(file, time, time);
  }

  /** Renames what is staged to `path`, whose folder was looked at, over whatever is there. */
  #place(staged: string, path: string): void {
    const full = this.#full(path);
    try {
      if (this.#real.has(path)) this.#removeAt(path);
      try {
        renameSync(staged, full);
      } catch (e) {
        if (this.#look(path)?.kind !== "directory") throw e;
        this.#removeAt(path);
        renameSync(staged, full);
      }
    } catch (e) {
      discard(staged);
      throw e;
    }
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
    discard(receiving.staged);
    this.#receiving = undefined;
  }
}

function wrongSize({ path, size }: Entry, found: number): TreeError {
  return new TreeError(`${shown(path)} has ${found} bytes instead of ${size}`);
}

/** The error of a disk that does not take something. */
function unwritable(path: string, cause: unknown): RbsError {
  const full = /No space left|os error 28\b|os error 122\b/.test(sentence(cause));
  return new RbsError(
    full
      ? `The disk of ${path} is full: make room there.`
      : `${path} cannot be written (${sentence(cause)}): mend its rights.`,
    { cause, culprit: "caller" },
  );
}

/** Gives the owner of a folder, and of each folder in it, the right to remove what is there. */
function makeWritable(folder: string): void {
  chmodSync(folder, 0o700);
  for (const name of readdirSync(folder)) {
    const path = `${folder}/${name}`;
    if (lstatSync(path).kind === "directory") makeWritable(path);
  }
}

/** Writes a new file in another thread. Deno.writeFile would copy the content first. */
async function writeNew(path: string, content: Uint8Array, mode: number): Promise<void> {
  using file = Deno.openSync(path, { write: true, createNew: true, mode });
  for (let at = 0; at < content.length;) at += await file.write(content.subarray(at));
}

function sizeOf(file: string): number {
  try {
    return Deno.lstatSync(file).size;
  } catch {
    return 0;
  }
}

function discard(file: string): void {
  try {
    Deno.removeSync(file);
  } catch { /* it was not there, or is in place */ }
}

function shown(path: string): string {
  return JSON.stringify(path.length > 200 ? `${path.slice(0, 200)}…` : path);
}
