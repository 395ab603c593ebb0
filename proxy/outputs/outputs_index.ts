/**
 * The index of the outputs on this machine that are known to equal the agent's, so that a comparison costs one stat per
 * file. A file that was touched since has another stat, and is compared again.
 *
 *     magic line, then records, then SHA-256 of all before it
 *     record = kind (1 byte) + length of path (2 bytes) + path [+ digest (32) + size, mtime, inode (8 each)]
 *
 * Numbers are little endian. The index also lists symlinks and directories that were copied here. The file is removed
 * while outputs change. If it is missing or damaged, what is here is unknown: see {@link HomeIndex.lost}.
 */
import { Buffer } from "node:buffer";
import { createHash } from "node:crypto";
import { dirname } from "node:path";
import { decodeName, encodeName } from "../../proto/tree/names.ts";
import type { RawInfo } from "../../proto/tree/files.ts";
import { OutermostFolders } from "../../proto/tree/outermost.ts";

const MAGIC = Buffer.from("rbs outputs 3\n");
const FILE = 1, LEAF = 2, TREE = 3;
const DIGEST_BYTES = 32;
const FILE_BYTES = DIGEST_BYTES + 3 * 8;

/** A file as it was when it was copied here. */
export interface HomeFile {
  /** SHA-256. */
  digest: Uint8Array;
  size: number;
  mtimeMs: number;
  ino: number;
}

/** The part of a stat that identifies a file's state. */
type Look = Pick<RawInfo, "size" | "mtimeMs" | "ino">;

/** Files directly in the output base are the server's logs, which change with each command. */
function isLog(path: string): boolean {
  return !path.includes("/");
}

/** The index of the outputs on this machine. */
export class HomeIndex {
  readonly #file: string;
  readonly #files = new Map<string, HomeFile>();
  readonly #leaves = new Set<string>();
  readonly #trees = new Set<string>();
  #lost = false;
  #changed = false;

  /** Reads the index from this path, if it is valid. */
  constructor(file: string) {
    this.#file = file;
    try {
      this.#decode(Deno.readFileSync(file));
    } catch {
      this.clear();
      this.#lost = true;
    }
  }

  /** Whether there was no valid index: what is here is unknown until {@link found} is called. */
  get lost(): boolean {
    return this.#lost;
  }

  /** Everything that is here was looked for and added to the index. */
  found(): void {
    this.#lost = false;
    this.#changed = true;
  }

  /** Files and symlinks that were copied here, except those in {@link trees}. */
  *leaves(): Generator<string> {
    const outermost = new OutermostFolders(this.#trees);
    for (const paths of [this.#files.keys(), this.#leaves]) {
      for (const path of paths) if (outermost.of(path) === undefined) yield path;
    }
  }

  /** Directories that were copied here as a whole. */
  get trees(): ReadonlySet<string> {
    return this.#trees;
  }

  /** Whether exactly this path was copied here. */
  has(path: string): boolean {
    return this.#files.has(path) || this.#leaves.has(path) || this.#trees.has(path);
  }

  /** Adds a symlink, a file of unknown content, or a directory that was copied as a whole. */
  add(path: string, what: "leaf" | "tree"): void {
    const paths = what === "leaf" ? this.#leaves : this.#trees;
    if (paths.has(path) || isLog(path)) return;
    paths.add(path);
    this.#changed = true;
  }

  /** What is known of a file with this stat; undefined if it is not the file that was copied here. */
  get(path: string, info: Look): HomeFile | undefined {
    const file = this.#files.get(path);
    if (!file || file.ino !== info.ino || file.size !== info.size || file.mtimeMs !== info.mtimeMs) return;
    return file;
  }

  /** Sets the digest of a file with this stat. */
  set(path: string, digest: Uint8Array, { size, mtimeMs, ino }: Look): void {
    if (isLog(path)) return;
    this.#files.set(path, { digest, size, mtimeMs, ino });
    this.#changed = true;
  }

  /** Removes a path and, if it was copied as a whole, everything below. */
  delete(path: string): void {
    const isTree = this.#trees.has(path);
    for (const paths of [this.#files, this.#leaves, this.#trees]) {
      if (paths.delete(path)) this.#changed = true;
      if (isTree) { for (const below of paths.keys()) if (below.startsWith(`${path}/`)) paths.delete(below); }
    }
  }

  /** Removes all outputs. @param folder Only those below this directory. */
  clear(folder = ""): void {
    for (const paths of [this.#files, this.#leaves, this.#trees]) {
      for (const path of paths.keys()) if (folder === "" || path.startsWith(`${folder}/`)) paths.delete(path);
    }
    this.#changed = true;
  }

  /** Removes the index file before outputs change: if this process is killed, the state is unknown. */
  begin(): void {
    this.#changed = true;
    try {
      Deno.removeSync(this.#file);
    } catch { /* there is none */ }
  }

  /**
   * Writes the index if it has changed, completely or not at all. Errors are ignored: without the index, the next
   * command only takes longer.
   */
  save(): void {
    if (!this.#changed) return;
    const fresh = `${this.#file}.new`;
    try {
      Deno.mkdirSync(dirname(this.#file), { recursive: true, mode: 0o700 });
      Deno.writeFileSync(fresh, this.#encode(), { mode: 0o600 });
      Deno.renameSync(fresh, this.#file);
      this.#changed = false;
    } catch { /* a full disk, most of the time */ }
  }

  #encode(): Uint8Array {
    const parts: Uint8Array[] = [MAGIC];
    const head = (kind: number, path: string, more: number) => {
      const name = encodeName(path);
      const record = Buffer.allocUnsafe(3 + name.length + more);
      record[0] = kind;
      record.writeUInt16LE(name.length, 1);
      record.set(name, 3);
      parts.push(record);
      return record;
    };
    for (const leaf of this.#leaves) head(LEAF, leaf, 0);
    for (const tree of this.#trees) head(TREE, tree, 0);
    for (const [path, { digest, size, mtimeMs, ino }] of this.#files) {
      const record = head(FILE, path, FILE_BYTES);
      const at = record.length - FILE_BYTES;
      record.set(digest, at);
      record.writeDoubleLE(size, at + DIGEST_BYTES);
      record.writeDoubleLE(mtimeMs, at + DIGEST_BYTES + 8);
      record.writeDoubleLE(ino, at + DIGEST_BYTES + 16);
    }
    const body = Buffer.concat(parts);
    return Buffer.concat([body, createHash("sha256").update(body).digest()]);
  }

  #decode(bytes: Uint8Array): void {
    const all = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    const body = all.subarray(0, -DIGEST_BYTES);
    if (!createHash("sha256").update(body).digest().equals(all.subarray(-DIGEST_BYTES))) throw new Error("corrupt");
    if (!body.subarray(0, MAGIC.length).equals(MAGIC)) throw new Error("another version");
    for (let at = MAGIC.length; at < body.length;) {
      const kind = body[at];
      const length = body.readUInt16LE(at + 1);
      const path = decodeName(body.subarray(at + 3, at += 3 + length));
      if (kind === LEAF) this.#leaves.add(path);
      else if (kind === TREE) this.#trees.add(path);
      else {
        this.#files.set(path, {
          digest: body.subarray(at, at + DIGEST_BYTES),
          size: body.readDoubleLE(at + DIGEST_BYTES),
          mtimeMs: body.readDoubleLE(at + DIGEST_BYTES + 8),
          ino: body.readDoubleLE(at + DIGEST_BYTES + 16),
        });
        at += FILE_BYTES;
      }
    }
  }
}
