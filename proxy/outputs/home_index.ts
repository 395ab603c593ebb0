/**
 * What of the outputs on this machine is known to be the agent's, so that comparing costs a stat per file. A file that
 * was touched since looks different, and is looked at again.
 *
 *     magic line, then records, then SHA-256 of all before it
 *     record = kind (1 byte) + length of path (2 bytes) + path [+ digest (32) + size, mtime, inode (8 each)]
 *
 * Numbers are little endian. The file is a cache: one that is not as it should be is ignored.
 */
import { Buffer } from "node:buffer";
import { createHash } from "node:crypto";
import { dirname } from "node:path";
import { decodeName, encodeName } from "../../proto/tree/names.ts";
import type { RawInfo } from "../../proto/tree/files.ts";

const MAGIC = Buffer.from("rbs outputs 1\n");
const FILE = 1, LINK = 2;
const DIGEST_BYTES = 32;
const FILE_BYTES = DIGEST_BYTES + 3 * 8;

/** A file as it was when it was brought home. */
export interface HomeFile {
  /** SHA-256. */
  digest: Uint8Array;
  size: number;
  mtimeMs: number;
  ino: number;
}

/** How a file looks. */
type Look = Pick<RawInfo, "size" | "mtimeMs" | "ino">;

/** See the file's head. */
export class HomeIndex {
  readonly #file: string;
  readonly #files = new Map<string, HomeFile>();
  readonly #links = new Set<string>();
  #changed = false;

  /** Reads the index of this path, if there is a good one. */
  constructor(file: string) {
    this.#file = file;
    try {
      this.#decode(Deno.readFileSync(file));
    } catch {
      this.#files.clear();
      this.#links.clear();
    }
  }

  /** The convenience symlinks that were made here. Absolute paths. */
  get links(): ReadonlySet<string> {
    return this.#links;
  }

  /** What is known of a file that looks like `info` now; undefined if it is not the one that was brought home. */
  get(path: string, info: Look): HomeFile | undefined {
    const file = this.#files.get(path);
    if (!file || file.ino !== info.ino || file.size !== info.size || file.mtimeMs !== info.mtimeMs) return;
    return file;
  }

  /** Says what a file that looks like `info` now contains. */
  set(path: string, digest: Uint8Array, { size, mtimeMs, ino }: Look): void {
    this.#files.set(path, { digest, size, mtimeMs, ino });
    this.#changed = true;
  }

  /** Forgets a file. */
  delete(path: string): void {
    if (this.#files.delete(path)) this.#changed = true;
  }

  /** Notes that a convenience symlink was made, or is gone. */
  setLink(path: string, made: boolean): void {
    if (this.#links.has(path) === made) return;
    if (made) this.#links.add(path);
    else this.#links.delete(path);
    this.#changed = true;
  }

  /** Forgets everything. */
  clear(): void {
    this.#changed ||= this.#files.size + this.#links.size > 0;
    this.#files.clear();
    this.#links.clear();
  }

  /** Writes what changed, whole or not at all. Without the index the next command only takes longer: no error. */
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
    for (const link of this.#links) head(LINK, link, 0);
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
      if (kind === LINK) this.#links.add(path);
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
