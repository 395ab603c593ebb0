/** Files, directories and symlinks of a tree, and their encoding (TreeEntry of proto/contract/rbs/v1/tree.proto). */
import { WireError } from "../base/protobuf_fields.ts";
import { checkPath, isLonger, TreeError } from "./names.ts";
import { WireReader, WireWriter } from "./wire_codec.ts";

/** The kinds of entries. Nothing else is sent. */
export type EntryKind = "file" | "directory" | "symlink";

/** A file, directory or symlink. */
export interface Entry {
  /** Relative to the tree's root. See names.ts for bytes that are not UTF-8. */
  path: string;
  kind: EntryKind;
  /** Permission bits (0o7777) of files and directories; 0 for symlinks. */
  mode: number;
  /** Size of a file in bytes; otherwise 0. */
  size: number;
  /** Modification time of a file in whole milliseconds since 1970; otherwise 0. */
  mtimeMs: number;
  /** Target of a symlink, unresolved. */
  target?: string;
  /** SHA-256 of a file, if known. */
  digest?: Uint8Array;
}

const KINDS: readonly EntryKind[] = ["file", "directory", "symlink"];
/** Maximum length of a symlink's target, in bytes. */
const MAX_TARGET_BYTES = 4095;
/** No file system has later times (the year 144,000), and they lose bits in a double when encoded. */
const MAX_MTIME_MS = 2 ** 52;
const DIGEST_BYTES = 32;

/** Writes an entry's fields. */
export function writeEntry(out: WireWriter, entry: Entry): void {
  out.text(1, entry.path);
  out.varint(2, KINDS.indexOf(entry.kind) + 1);
  out.varint(3, entry.mode);
  out.varint(4, entry.size);
  // sint64 is zigzag-encoded.
  const { mtimeMs } = entry;
  out.varint(5, mtimeMs >= 0 ? mtimeMs * 2 : -mtimeMs * 2 - 1);
  if (entry.target !== undefined) out.text(6, entry.target);
  if (entry.digest) out.bytes(7, entry.digest);
}

const single = new WireWriter(1024);

/** Encodes a TreeEntry. Throws a {@link TreeError} for a path or target that names.ts cannot encode. */
export function encodeEntry(entry: Entry): Uint8Array {
  // Discards what an earlier error left.
  single.cut(0);
  writeEntry(single, entry);
  return single.take();
}

/**
 * Decodes and validates a TreeEntry. Throws a {@link TreeError}.
 *
 * @param options.absolute The path must begin with "/", as in an Outputs message.
 */
export function decodeEntry(bytes: Uint8Array, options: { absolute?: boolean } = {}): Entry {
  let path = "", kind = 0, mode = 0, size = 0, mtimeMs = 0;
  let target: string | undefined, digest: Uint8Array | undefined;
  try {
    const reader = new WireReader(bytes);
    while (reader.next()) {
      switch (reader.field) {
        case 1:
          path = reader.text();
          break;
        case 2:
          kind = reader.varint();
          break;
        case 3:
          mode = reader.varint();
          break;
        case 4:
          size = reader.varint();
          break;
        case 5: {
          const value = reader.varint();
          mtimeMs = value % 2 === 0 ? value / 2 : -(value + 1) / 2;
          break;
        }
        case 6:
          target = reader.text();
          break;
        case 7:
          digest = reader.copy();
          break;
        default:
          reader.skip();
      }
    }
  } catch (e) {
    if (e instanceof WireError) throw new TreeError(`an entry is malformed (${e.message})`);
    throw e;
  }
  if (!options.absolute) checkPath(path);
  else if (path.startsWith("/")) checkPath(path.slice(1));
  else throw new TreeError(`the path ${JSON.stringify(path.slice(0, 200))} is not absolute`);
  const wrong = (why: string) => new TreeError(`${JSON.stringify(path.slice(0, 200))} ${why}`);
  if (mode > 0o7777) throw wrong("has a mode that is none");
  if (size > Number.MAX_SAFE_INTEGER) throw wrong("has a size that is none");
  if (Math.abs(mtimeMs) > MAX_MTIME_MS) throw wrong("has a time that is none");
  if (digest && digest.length !== DIGEST_BYTES) throw wrong("has a digest that is none");
  switch (KINDS[kind - 1]) {
    case "file":
      if (target !== undefined) throw wrong("is a file, but has a symlink's target");
      return digest ? { path, kind: "file", mode, size, mtimeMs, digest } : { path, kind: "file", mode, size, mtimeMs };
    case "directory":
      if (target !== undefined) throw wrong("is a folder, but has a symlink's target");
      return { path, kind: "directory", mode, size: 0, mtimeMs: 0 };
    case "symlink":
      if (!target || target.includes("\0") || isLonger(target, MAX_TARGET_BYTES)) {
        throw wrong("is a symlink that leads to no path");
      }
      return { path, kind: "symlink", mode: 0, size: 0, mtimeMs: 0, target };
    default:
      throw wrong("is neither file nor folder nor symlink");
  }
}

/** Whether two entries are equal. Files are compared by size, mode, mtime and, if both have one, digest. */
export function sameEntry(a: Entry, b: Entry): boolean {
  if (a.kind !== b.kind) return false;
  if (a.kind === "symlink") return a.target === b.target;
  if (a.mode !== b.mode) return false;
  if (a.kind === "directory") return true;
  return a.size === b.size && a.mtimeMs === b.mtimeMs && (!a.digest || !b.digest || sameDigest(a.digest, b.digest));
}

/** Whether two digests are equal. */
export function sameDigest(a: Uint8Array, b: Uint8Array): boolean {
  if (a.length !== b.length) return false;
  for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) return false;
  return true;
}
