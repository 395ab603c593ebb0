/** Files, folders and symlinks of a tree, and how they are written on the wire (TreeEntry of proto/rbs/v1/tree.proto). */
import { Buffer } from "node:buffer";
import { WireError } from "../relay/wire.ts";
import { checkPath, decodeName, encodeName, TreeError } from "./names.ts";
import { WireReader, WireWriter } from "./wire_codec.ts";

/** What an entry is. Nothing else travels. */
export type EntryKind = "file" | "directory" | "symlink";

/** A file, folder or symlink. */
export interface Entry {
  /** Relative to the tree's root; see names.ts for bytes that are not UTF-8. */
  path: string;
  kind: EntryKind;
  /** Permission bits (0o7777) of files and folders; 0 of symlinks. */
  mode: number;
  /** Of files, in bytes; else 0. */
  size: number;
  /** Of files, in whole milliseconds since 1970; else 0. */
  mtimeMs: number;
  /** Of symlinks: where they lead, as it stands there. */
  target?: string;
  /** Of files: SHA-256, where it is known. */
  digest?: Uint8Array;
}

const KINDS: readonly EntryKind[] = ["file", "directory", "symlink"];
/** The longest target of a symlink, in bytes. */
const MAX_TARGET_BYTES = 4096;

/** Writes an entry's fields. */
export function writeEntry(out: WireWriter, entry: Entry): void {
  out.text(1, entry.path);
  out.varint(2, KINDS.indexOf(entry.kind) + 1);
  out.varint(3, entry.mode);
  out.varint(4, entry.size);
  // sint64: zigzag.
  const { mtimeMs } = entry;
  out.varint(5, mtimeMs >= 0 ? mtimeMs * 2 : -mtimeMs * 2 - 1);
  if (entry.target !== undefined) out.text(6, entry.target);
  if (entry.digest) out.bytes(7, entry.digest);
}

/** An encoded TreeEntry. */
export function encodeEntry(entry: Entry): Uint8Array {
  const out = new WireWriter(128);
  writeEntry(out, entry);
  return out.finish();
}

/**
 * Decodes a TreeEntry and checks all of it. Throws a {@link TreeError}.
 *
 * @param options.absolute The path begins with "/", as in an Outputs message.
 */
export function decodeEntry(bytes: Uint8Array, options: { absolute?: boolean } = {}): Entry {
  const entry: Entry = { path: "", kind: "file", mode: 0, size: 0, mtimeMs: 0 };
  let kind = 0;
  try {
    const reader = new WireReader(bytes);
    while (reader.next()) {
      switch (reader.field) {
        case 1:
          entry.path = decodeName(reader.bytes());
          break;
        case 2:
          kind = reader.varint();
          break;
        case 3:
          entry.mode = reader.varint();
          break;
        case 4:
          entry.size = reader.varint();
          break;
        case 5: {
          const value = reader.varint();
          entry.mtimeMs = value % 2 === 0 ? value / 2 : -(value + 1) / 2;
          break;
        }
        case 6:
          entry.target = decodeName(reader.bytes());
          break;
        case 7:
          entry.digest = Buffer.from(reader.bytes());
          break;
        default:
          reader.skip();
      }
    }
  } catch (e) {
    if (e instanceof WireError) throw new TreeError(`an entry is malformed (${e.message})`);
    throw e;
  }
  if (options.absolute) {
    if (!entry.path.startsWith("/")) throw new TreeError(`the path ${JSON.stringify(entry.path)} is not absolute`);
    checkPath(entry.path.slice(1));
  } else checkPath(entry.path);
  const known = KINDS[kind - 1];
  if (!known) throw new TreeError(`${JSON.stringify(entry.path)} is neither file nor folder nor symlink`);
  entry.kind = known;
  if (entry.mode > 0o7777) throw new TreeError(`the mode of ${JSON.stringify(entry.path)} is none`);
  if (entry.size > Number.MAX_SAFE_INTEGER) throw new TreeError(`the size of ${JSON.stringify(entry.path)} is none`);
  if (Math.abs(entry.mtimeMs) > 8.64e15) throw new TreeError(`the time of ${JSON.stringify(entry.path)} is none`);
  if (entry.digest && entry.digest.length !== 32) {
    throw new TreeError(`the digest of ${JSON.stringify(entry.path)} is none`);
  }
  if (known === "symlink") {
    const { target } = entry;
    if (!target || target.includes("\0") || encodeName(target).length > MAX_TARGET_BYTES) {
      throw new TreeError(`the symlink ${JSON.stringify(entry.path)} leads to no path`);
    }
  } else if (entry.target !== undefined) {
    throw new TreeError(`${JSON.stringify(entry.path)} is no symlink, but has a target`);
  }
  return entry;
}

/** Whether two entries are the same; files by size, mode, mtime and, if both have one, digest. */
export function sameEntry(a: Entry, b: Entry): boolean {
  if (a.kind !== b.kind) return false;
  if (a.kind === "symlink") return a.target === b.target;
  if (a.mode !== b.mode) return false;
  if (a.kind === "directory") return true;
  return a.size === b.size && a.mtimeMs === b.mtimeMs && (!a.digest || !b.digest || sameDigest(a.digest, b.digest));
}

/** Whether two digests are the same. */
export function sameDigest(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && Buffer.compare(a, b) === 0;
}
