/** Reads and validates the manifest of a command: the agent's Outputs messages. */
import { OUTPUTS_FIELDS as Field } from "../../proto/contract/outputs_fields.ts";
import type { RbsError } from "../../proto/base/errors.ts";
import { Pace } from "../../proto/base/time_slice.ts";
import { bytesValue, scanFields, textValue, varintValue } from "../../proto/base/protobuf_fields.ts";
import { decodeEntry, type Entry } from "../../proto/tree/entry.ts";
import { decodeName, parent } from "../../proto/tree/names.ts";
import { type AllowedPaths, type Place, refusal, shown } from "./allowed_paths.ts";

/** Maximum size of a manifest, see {@link readManifest}. */
const LIMITS = { entries: 1_000_000, bytes: 256 << 20 };
/** What an empty message counts for, in bytes. */
const PART_BYTES = 256;
/** Maximum number of warnings shown to the developer. */
const MAX_WARNINGS = 20;
const DIGEST_BYTES = 32;
/** Mode bits that are accepted: no setuid files, and nothing that others may write. */
const MODE_MASK = 0o755;
/** Mode bits that are always set, so that the owner can compare and remove what was copied. */
const FILE_MODE = 0o400, FOLDER_MODE = 0o500;

/** An output and where it is written. */
export interface Output {
  readonly place: Place;
  /** Has an absolute path. */
  readonly entry: Entry;
}

/** A complete manifest. */
export interface Manifest {
  /** Empty if the agent sent none. */
  id: Uint8Array;
  /** The outputs are those of the last manifest, and not repeated here. */
  unchanged: boolean;
  /** The command has removed all outputs. */
  cleaned: boolean;
  outputs: Output[];
  /** Outputs of earlier commands that are here and have changed at the agent. */
  home: Output[];
  /** Outputs of earlier commands that no longer exist at the agent. Absolute paths. */
  gone: string[];
  /** What the command has written into the developer's sources. */
  sources: Entry[];
  /** Sources that the command has removed. Absolute paths. */
  sourcesGone: string[];
  /** Whether a path is an output or a directory that contains one. Absolute path. */
  has(path: string): boolean;
  /** Sentences that are safe to print on a terminal. */
  warnings: string[];
}

/** Collects Outputs messages until a command has ended, within the bounds of {@link readManifest}. */
export class ManifestParts implements Iterable<Uint8Array> {
  readonly #parts: Uint8Array[] = [];
  readonly #limit: number;
  #bytes = 0;

  /** @param limit Maximum size of all messages, in bytes. */
  constructor(limit = LIMITS.bytes) {
    this.#limit = limit;
  }

  /** Number of messages. */
  get length(): number {
    return this.#parts.length;
  }

  /** Adds a message. Throws an RbsError when no honest agent would send so many. */
  add(part: Uint8Array): void {
    this.#bytes += part.length + PART_BYTES;
    if (this.#bytes > this.#limit) {
      this.#parts.length = 0;
      throw tooLarge(this.#limit);
    }
    this.#parts.push(part);
  }

  [Symbol.iterator](): Iterator<Uint8Array> {
    return this.#parts.values();
  }
}

function tooLarge(limit: number): RbsError {
  return refusal("a list of outputs", `is larger than ${limit} bytes`);
}

/**
 * Reads a manifest. Throws an RbsError for what no honest agent sends, and a TreeError or WireError for a malformed
 * message.
 *
 * @param parts Encoded Outputs messages.
 * @param isSource Whether the command may write a source at this path.
 * @param limits Maximum number of entries, and of bytes of all messages.
 */
export async function readManifest(
  parts: AsyncIterable<Uint8Array> | Iterable<Uint8Array>,
  allowed: AllowedPaths,
  signal: AbortSignal,
  { limits = LIMITS, isSource = () => false }: { limits?: typeof LIMITS; isSource?(path: string): boolean } = {},
): Promise<Manifest> {
  const kinds = new Map<string, Entry["kind"]>();
  const folders = new Set<string>(["", "/"]);
  const manifest: Manifest = {
    id: new Uint8Array(),
    unchanged: false,
    cleaned: false,
    outputs: [],
    home: [],
    gone: [],
    sources: [],
    sourcesGone: [],
    has: (path) => kinds.has(path) || folders.has(path),
    warnings: [],
  };
  const pace = new Pace(signal);
  let bytes = 0;
  for await (const part of parts) {
    bytes += part.length;
    if (bytes > limits.bytes) throw tooLarge(limits.bytes);
    const encoded: { bytes: Uint8Array; to: Output[] | Entry[] }[] = [];
    scanFields(part, (field) => {
      switch (field.number * 8 + field.wireType) {
        case Field.entries * 8 + 2:
          encoded.push({ bytes: bytesValue(part, field), to: manifest.outputs });
          break;
        case Field.home * 8 + 2:
          encoded.push({ bytes: bytesValue(part, field), to: manifest.home });
          break;
        case Field.sources * 8 + 2:
          encoded.push({ bytes: bytesValue(part, field), to: manifest.sources });
          break;
        case Field.sourcesGone * 8 + 2:
          manifest.sourcesGone.push(decodeName(bytesValue(part, field)));
          break;
        case Field.gone * 8 + 2:
          manifest.gone.push(decodeName(bytesValue(part, field)));
          break;
        case Field.manifest * 8 + 2:
          manifest.id = bytesValue(part, field).slice();
          break;
        case Field.unchanged * 8:
          manifest.unchanged = varintValue(part, field) !== 0;
          break;
        case Field.cleaned * 8:
          manifest.cleaned ||= varintValue(part, field) !== 0;
          break;
        case Field.warnings * 8 + 2:
          if (manifest.warnings.length < MAX_WARNINGS) manifest.warnings.push(shown(textValue(part, field)));
      }
    });
    const { outputs, home, gone, sources, sourcesGone } = manifest;
    const count = [outputs, home, gone, sources, sourcesGone, encoded].reduce((sum, { length }) => sum + length, 0);
    if (count > limits.entries) {
      throw refusal("a list of outputs", `has more than ${limits.entries} entries`);
    }
    for (const { bytes, to } of encoded) {
      if (pace.due) await pace.rest();
      const decoded = decodeEntry(bytes, { absolute: true });
      const entry = to === sources ? decoded : withoutTrust(decoded);
      const { path, kind } = entry;
      if (kinds.has(path)) throw refusal(path, "is there twice");
      kinds.set(path, kind);
      if (kind === "file" && entry.digest?.length !== DIGEST_BYTES) throw refusal(path, "has no digest");
      entry.mode = entry.mode & MODE_MASK | (kind === "directory" ? FOLDER_MODE : FILE_MODE);
      if (to === sources) {
        if (!isSource(path)) throw refusal(path, "is no source that this command may write");
        sources.push(entry);
        continue;
      }
      const place = allowed.place(entry);
      if (to === home && place.where !== "output base") throw refusal(path, "was no output of an earlier command");
      (to as Output[]).push({ place, entry });
    }
  }
  const foreign = manifest.sourcesGone.find((path) => !isSource(path));
  if (foreign !== undefined) throw refusal(foreign, "is no source that this command may remove");
  if (manifest.id.length > 0 && manifest.id.length !== DIGEST_BYTES) {
    throw refusal("a list of outputs", "has an id that is no digest");
  }
  if (manifest.unchanged && manifest.outputs.length > 0) {
    throw refusal("a list of outputs", "is unchanged and has entries");
  }
  // A path must not lead through a file or symlink of the same manifest.
  const wholes = [...manifest.outputs, ...manifest.home]
    // A file that the developer named may lead through bazel-out.
    .filter(({ place }) => place.where !== "named file").map(({ entry }) => entry);
  for (const { path } of [...wholes, ...manifest.sources]) {
    if (pace.due) await pace.rest();
    for (let folder = parent(path); !folders.has(folder); folder = parent(folder)) {
      const kind = kinds.get(folder);
      if (kind && kind !== "directory") throw refusal(path, `leads through a ${kind} of the same command`);
      folders.add(folder);
    }
  }
  return manifest;
}

/**
 * Replaces a runfiles MANIFEST by a symlink to the tool's own manifest, which has the same content. A Bazel server
 * trusts a runfiles tree whose MANIFEST has the content of that manifest (`RunfilesTreeUpdater`), but not if it is a
 * symlink. So a later server on this machine does not execute what the agent has put into the tree.
 */
function withoutTrust(entry: Entry): Entry {
  const [, tree] = entry.kind === "file" ? /\/([^/]+\.runfiles)\/MANIFEST$/s.exec(entry.path) ?? [] : [];
  if (tree === undefined) return entry;
  return { path: entry.path, kind: "symlink", mode: 0, size: 0, mtimeMs: 0, target: `../${tree}_manifest` };
}
