import { createHash } from "node:crypto";
import { BatchEncoder, type TreeRecord } from "../../proto/tree/batch.ts";
import { sameDigest } from "../../proto/tree/entry.ts";
import { isRaw } from "../../proto/tree/names.ts";
import { lstatSync, readFileSync } from "../../proto/tree/raw_names.ts";
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
 * Reads files of a session as batches. Only regular files that lie in the session's own storage, by no symlink's help,
 * are read. Throws {@link NotThere}.
 */
export class SessionFiles {
  readonly #paths: DeveloperPaths;
  #within?: string[];
  readonly encoder = new BatchEncoder();

  constructor(paths: DeveloperPaths) {
    this.#paths = paths;
  }

  /** Encoded FileBatches of a file: none while it joins a batch that is not full. */
  *read({ path, digest, offset }: WantedFile): Generator<Uint8Array> {
    const host = this.#locate(path);
    const info = lstatSync(host);
    if (info.kind !== "file") throw new NotThere(`${path} is no file`);
    const entry = {
      path: path.slice(1),
      kind: "file" as const,
      mode: info.mode & 0o7777,
      size: info.size,
      mtimeMs: info.mtimeMs,
      digest,
    };
    const changed = () => new NotThere(`${path} is another file by now`);
    const add = (record: TreeRecord) => this.encoder.add(record);
    if (isRaw(path) || info.size <= PIECE_BYTES) {
      const content = readFileSync(host);
      if (content.length !== info.size || !sameDigest(digestOf(content), digest)) throw changed();
      const batch = add({ entry, content: content.subarray(offset), offset });
      if (batch) yield batch;
      return;
    }
    using file = Deno.openSync(host);
    const sum = createHash("sha256");
    let at = 0;
    const next = () => {
      const piece = new Uint8Array(PIECE_BYTES);
      const n = file.readSync(piece);
      if (n === null) return undefined;
      sum.update(piece.subarray(0, n));
      at += n;
      return piece.subarray(0, n);
    };
    // What is there already is read for its digest's sake.
    let piece = next();
    while (piece && at <= offset && offset > 0) piece = next();
    if (piece && offset > 0) piece = piece.subarray(piece.length - (at - offset));
    let first = true;
    while (true) {
      const following = piece && at < info.size ? next() : undefined;
      // The last part is sent when the digest is right.
      if (!following && (at !== info.size || !sameDigest(sum.digest(), digest))) throw changed();
      const more = following !== undefined;
      const content = piece ?? new Uint8Array();
      const batch = add(first ? { entry, content, offset, more } : { content, more });
      if (batch) yield batch;
      first = false;
      if (!more) return;
      piece = following;
    }
  }

  /** Where a file is here. */
  #locate(path: string): string {
    const host = this.#paths.hostPath(path);
    if (host === undefined) throw new NotThere(`${path} is no file of this session`);
    if (isRaw(path)) return host;
    try {
      this.#within ??= [this.#paths.root, this.#paths.storageOutputBase].map((folder) => Deno.realPathSync(folder));
      const parent = Deno.realPathSync(host.slice(0, host.lastIndexOf("/")));
      if (this.#within.some((folder) => parent === folder || parent.startsWith(`${folder}/`))) return host;
    } catch (e) {
      if (!(e instanceof Deno.errors.NotFound)) throw e;
      throw new NotThere(`${path} is not there`);
    }
    throw new NotThere(`${path} leads out of the session's storage`);
  }
}
