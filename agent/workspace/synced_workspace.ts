/**
 * The developer's files as a synced session has them: trees below the folder that the session sees as `/`, what is known
 * of them, and a generation that changes with them.
 *
 * What is known is right as long as nobody else writes there; so it is proven by a look at all files when an agent begins.
 */
import { join } from "node:path";
import { sentence } from "../../proto/errors.ts";
import { Pace } from "../../proto/pace.ts";
import { randomToken } from "../../proto/state.ts";
import type { TreeRecord } from "../../proto/tree/batch.ts";
import type { Entry } from "../../proto/tree/entry.ts";
import { readIndex, writeIndex } from "../../proto/tree/index_file.ts";
import { TreeError } from "../../proto/tree/names.ts";
import { digestFile } from "../../proto/tree/read.ts";
import { type ScannedEntry, scanTree } from "../../proto/tree/scan.ts";
import { type PartialContent, TreeWriter } from "../../proto/tree/writer.ts";
import type { DeveloperPaths } from "./developer_paths.ts";

/** How long after a change what is known is written down, in milliseconds. */
const SAVE_MS = 2_000;

/** Parts of a {@link SyncedWorkspace}. */
export interface SyncedWorkspaceOptions {
  /** The session's own folder. */
  storageDirectory: string;
  paths: DeveloperPaths;
  /** By the developer's name: top-level symlinks that lead below it are Bazel's own, and no part of a tree. */
  outputBase: string;
  log(line: string): void;
}

interface Root {
  path: string;
  single: boolean;
  readOnly: boolean;
  entries: Map<string, ScannedEntry>;
  /** Looked at since this agent began. */
  proven: boolean;
}

/** See the file's head. */
export class SyncedWorkspace {
  readonly #options: SyncedWorkspaceOptions;
  readonly #staging: string;
  readonly #indexFile: string;
  readonly #life = randomToken().slice(0, 12);
  #changes = 0;
  #roots?: Map<string, Root>;
  #applying?: Applying;
  #saving?: ReturnType<typeof setTimeout>;

  constructor(options: SyncedWorkspaceOptions) {
    this.#options = options;
    this.#staging = join(options.storageDirectory, "staging");
    this.#indexFile = join(options.storageDirectory, "workspace.index");
  }

  /** Stands for all roots as they are now. Another agent's, or another state's, is another. */
  get generation(): string {
    return `${this.#life}.${this.#changes}`;
  }

  /** What is here of large files that were cut off. */
  partials(): PartialContent[] {
    return this.#writer().partials();
  }

  /** Everything in a root, sorted, files with their digests. Undefined: nothing is there. @param path Absolute. */
  async manifest(path: string, signal: AbortSignal): Promise<Entry[]> {
    const root = this.#root(path);
    if (!root.proven) await this.#prove(root, signal);
    return [...root.entries.values()].sort((a, b) => a.path < b.path ? -1 : 1);
  }

  /** Begins a change of roots; one that was begun before is over. Call its `end`, however it goes. */
  begin(): Applying {
    this.#applying?.replaced.abort();
    const writer = this.#writer();
    const applying: Applying = {
      replaced: new AbortController(),
      files: 0,
      bytes: 0,
      change: (path, options) => this.#change(applying, writer, path, options),
      end: () => {
        if (this.#applying === applying) this.#applying = undefined;
        writer.close();
      },
    };
    return this.#applying = applying;
  }

  #change(
    applying: Applying,
    writer: TreeWriter,
    path: string,
    { single, readOnly }: { single: boolean; readOnly: boolean },
  ): (record: TreeRecord) => void {
    const root = this.#root(path);
    root.single = single;
    root.readOnly = readOnly;
    const slash = path.lastIndexOf("/");
    const prefix = single ? path.slice(1, slash + 1) : `${path.slice(1)}/`;
    const only = single ? path.slice(slash + 1) : undefined;
    const own = (name: string) => {
      if (only !== undefined && name !== only) {
        throw new TreeError(`${JSON.stringify(name)} is not the root's only file`);
      }
      return prefix + name;
    };
    let receiving: Entry | undefined;
    return (record) => {
      if (applying.replaced.signal.aborted) throw new TreeError("another change of the workspace has begun");
      this.#changed();
      const { entry, remove } = record;
      writer.apply({
        ...record,
        entry: entry && { ...entry, path: own(entry.path) },
        remove: remove === undefined ? undefined : own(remove),
        copyFrom: record.copyFrom === undefined ? undefined : own(record.copyFrom),
      });
      if (remove !== undefined) return forget(root.entries, remove);
      receiving = entry ?? receiving;
      if (!receiving) return;
      applying.bytes += record.content?.length ?? 0;
      if (record.more) {
        // Until it is whole, what was there stands; but whose it is, nobody knows if the sender is cut off.
        return;
      }
      applying.files++;
      const before = root.entries.get(receiving.path);
      if (before?.kind === "directory" && receiving.kind !== "directory") forget(root.entries, receiving.path);
      const digest = receiving.kind === "file" ? receiving.digest ?? record.digest : undefined;
      root.entries.set(receiving.path, { ...receiving, digest, ino: 0, ctimeMs: 0, racy: false });
      receiving = undefined;
    };
  }

  /** Writes down what is known, so that the next agent need not read every file. */
  save(): void {
    clearTimeout(this.#saving);
    this.#saving = undefined;
    if (!this.#roots) return;
    try {
      for (const _ of writeIndex(this.#indexFile, { generation: "", roots: this.#indexed() })) { /* at once */ }
    } catch (e) {
      this.#options.log(`what is known of the workspace cannot be written down: ${sentence(e)}`);
    }
  }

  #indexed() {
    return [...this.#roots!.values()].map((root) => ({ ...root, entries: [...root.entries.values()] }));
  }

  #changed(): void {
    this.#changes++;
    this.#saving ??= setTimeout(() => this.#saveInSlices(), SAVE_MS);
    Deno.unrefTimer(this.#saving as unknown as number);
  }

  async #saveInSlices(): Promise<void> {
    this.#saving = undefined;
    const pace = new Pace();
    try {
      for (const _ of writeIndex(this.#indexFile, { generation: "", roots: this.#indexed() })) {
        if (pace.due) await pace.rest();
      }
    } catch (e) {
      this.#options.log(`what is known of the workspace cannot be written down: ${sentence(e)}`);
    }
  }

  /** Writes below the folder that the session sees as `/`, which proves each folder on the way to a root as well. */
  #writer(): TreeWriter {
    return new TreeWriter({ root: this.#options.paths.root, staging: this.#staging });
  }

  #root(path: string): Root {
    if (!this.#roots) {
      this.#roots = new Map();
      for (const root of readIndex(this.#indexFile)?.roots ?? []) {
        this.#roots.set(root.path, { ...root, proven: false });
      }
    }
    let root = this.#roots.get(path);
    if (!root) {
      root = { path, single: false, readOnly: false, entries: new Map(), proven: false };
      this.#roots.set(path, root);
    }
    return root;
  }

  /** Looks at all of a root. Digests that are known are kept for files that look the same. */
  async #prove(root: Root, signal: AbortSignal): Promise<void> {
    const { paths } = this.#options;
    const host = paths.root + root.path;
    const known = root.entries;
    const single = isFile(host);
    const name = root.path.slice(root.path.lastIndexOf("/") + 1);
    const found = await scanTree(single ? paths.root + root.path.slice(0, -name.length - 1) : host, {
      under: single ? name : undefined,
      skip: (path, kind, target) => kind === "symlink" && !path.includes("/") && this.#isConvenience(target!),
      signal,
    });
    const pace = new Pace(signal);
    const at = single ? host.slice(0, -name.length - 1) : host;
    for (const entry of found.values()) {
      if (entry.kind !== "file") continue;
      const before = known.get(entry.path);
      // Files have the developer's own times here, so that whoever changed one has changed its time.
      const same = before?.digest && before.size === entry.size && before.mtimeMs === entry.mtimeMs;
      try {
        entry.digest = same ? before.digest : digestFile(`${at}/${entry.path}`);
      } catch {
        found.delete(entry.path);
      }
      if (pace.due) await pace.rest();
    }
    root.entries = found;
    root.single = single;
    root.proven = true;
  }

  #isConvenience(target: string): boolean {
    return target.startsWith(`${this.#options.outputBase}/`);
  }
}

/** A change of roots in progress. */
export interface Applying {
  /** Aborted when another one has begun. */
  replaced: AbortController;
  files: number;
  bytes: number;
  /** What takes the records of a root. It throws TreeErrors and RbsErrors. */
  change(path: string, options: { single: boolean; readOnly: boolean }): (record: TreeRecord) => void;
  /** Leaves everything consistent. */
  end(): void;
}

/** Forgets a path and all below it. */
function forget(entries: Map<string, ScannedEntry>, path: string): void {
  const before = entries.get(path);
  entries.delete(path);
  if (before && before.kind !== "directory") return;
  const below = `${path}/`;
  for (const known of entries.keys()) if (known.startsWith(below)) entries.delete(known);
}

function isFile(path: string): boolean {
  try {
    return Deno.lstatSync(path).isFile;
  } catch {
    return false;
  }
}
