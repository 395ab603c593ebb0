/**
 * The index file: what a proxy knew of the workspace, for the next proxy. With the index, a new proxy neither reads
 * every file again nor asks the agent what it has.
 *
 *     "RBSINDX1" generation, roots; for each: path, what it is, count, entries (each: length, TreeEntry, inode, ctime, bits)
 *     SHA-256 of all that
 */
import { Buffer } from "node:buffer";
import { createHash } from "node:crypto";
import { dirname } from "node:path";
import { decodeEntry, encodeEntry } from "./entry.ts";
import { type Files, readFile } from "./files.ts";
import { decodeName, encodeName } from "./names.ts";
import type { ScannedEntry } from "./scan.ts";

const MAGIC = Buffer.from("RBSINDX1");
const DIGEST_BYTES = 32;
/** A larger index is not read. Bytes. */
const MAX_BYTES = 2 ** 31 - 1;
/** Bytes beside each entry: inode, ctime, bits. */
const EXTRA_BYTES = 17;

let written = 0;

/** The content of an index file. */
export interface WorkspaceIndex {
  /** The generation in which the agent had exactly these entries; empty if unknown. */
  generation: string;
  roots: { path: string; single: boolean; readOnly: boolean; entries: readonly ScannedEntry[] }[];
}

/**
 * Writes an index completely or not at all. Yields from time to time, so that other work can run. Throws Deno's errors.
 */
export function* writeIndex(files: Files, path: string, index: WorkspaceIndex): Generator<void> {
  const fresh = `${path}.${Deno.pid}-${++written}`;
  if (path.includes("/")) files.makeWay(dirname(path));
  using file = files.create(fresh, 0o600);
  const sum = createHash("sha256");
  let parts: Uint8Array[] = [], bytes = 0;
  const flush = () => {
    const all = Buffer.concat(parts);
    sum.update(all);
    file.write(all);
    parts = [];
    bytes = 0;
  };
  const put = (part: Uint8Array) => {
    parts.push(part);
    if ((bytes += part.length) > 1 << 20) flush();
  };
  const text = (value: Uint8Array) => {
    put(u32(value.length));
    put(value);
  };
  put(MAGIC);
  text(Buffer.from(index.generation));
  put(u32(index.roots.length));
  for (const { path, single, readOnly, entries } of index.roots) {
    text(encodeName(path));
    put(u32((single ? 1 : 0) + (readOnly ? 2 : 0)));
    put(u32(entries.length));
    for (const [i, entry] of entries.entries()) {
      if (i % 1000 === 0) yield;
      const encoded = encodeEntry(entry);
      const record = Buffer.allocUnsafe(4 + encoded.length + EXTRA_BYTES);
      record.writeUInt32LE(encoded.length, 0);
      record.set(encoded, 4);
      record.writeDoubleLE(entry.ino, 4 + encoded.length);
      record.writeDoubleLE(entry.ctimeMs, 12 + encoded.length);
      record[20 + encoded.length] = (entry.racy ? 1 : 0) + (entry.shared ? 2 : 0);
      put(record);
    }
  }
  flush();
  file.write(new Uint8Array(sum.digest()));
  files.rename(fresh, path);
}

/** Reads an index. Undefined if it is missing or damaged: the index only saves work. */
export function readIndex(files: Files, path: string): { generation: string; roots: RestoredRoot[] } | undefined {
  try {
    const { buffer, byteLength } = readFile(files, path, MAX_BYTES);
    const all = Buffer.from(buffer, 0, byteLength);
    const end = all.length - DIGEST_BYTES;
    if (end < MAGIC.length || !all.subarray(0, MAGIC.length).equals(MAGIC)) return undefined;
    if (!createHash("sha256").update(all.subarray(0, end)).digest().equals(all.subarray(end))) return undefined;
    let at = MAGIC.length;
    const number = () => all.readUInt32LE((at += 4) - 4);
    const bytes = () => {
      const length = number();
      return all.subarray(at, at += length);
    };
    const generation = bytes().toString();
    const roots: RestoredRoot[] = [];
    for (let count = number(); count > 0; count--) {
      const rootPath = decodeName(bytes()), bits = number();
      const root: RestoredRoot = {
        path: rootPath,
        single: (bits & 1) !== 0,
        readOnly: (bits & 2) !== 0,
        entries: new Map(),
      };
      for (let entries = number(); entries > 0; entries--) {
        const entry = decodeEntry(bytes());
        const ino = all.readDoubleLE(at), ctimeMs = all.readDoubleLE(at + 8), bits = all[at + 16];
        at += EXTRA_BYTES;
        root.entries.set(entry.path, {
          ...entry,
          ...{ ino, ctimeMs, racy: (bits & 1) !== 0, shared: (bits & 2) !== 0 },
        });
      }
      roots.push(root);
    }
    return { generation, roots };
  } catch {
    return undefined;
  }
}

/** A root as read from an index. */
export interface RestoredRoot {
  path: string;
  single: boolean;
  readOnly: boolean;
  entries: Map<string, ScannedEntry>;
}

function u32(value: number): Uint8Array {
  const bytes = Buffer.allocUnsafe(4);
  bytes.writeUInt32LE(value);
  return bytes;
}
