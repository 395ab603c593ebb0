import { isAbsolutePath, isAtOrIn, isIn } from "../../proto/base/absolute_path.ts";
import { systemFolderOf } from "../../proto/base/system_folders.ts";
import { SYNCED_ROOT } from "../namespace/storage_folder.ts";

/** Where a developer's path is stored on this machine. */
export interface KeptPath {
  /** The storage's directory that contains it, relative to the storage. */
  base: string;
  /** The path in `base`, relative; empty for `base` itself. */
  relative: string;
}

/** Maps the developer's absolute paths to places in a synced session's storage. */
export class DeveloperPaths {
  readonly #outputBase: string;
  readonly #storageOutputBase: () => string;
  /** The directory that the session sees as `/`, relative to its storage. */
  readonly root = SYNCED_ROOT;

  /**
   * @param options.outputBase The developer's path of the output base.
   * @param options.storageOutputBase Its place in the storage, relative. Called when needed.
   */
  constructor(options: { outputBase: string; storageOutputBase: () => string }) {
    this.#outputBase = options.outputBase;
    this.#storageOutputBase = options.storageOutputBase;
  }

  /**
   * Where `path` is stored. Undefined if it belongs to this machine and not to the session, or is not a valid path.
   */
  locate(path: string): KeptPath | undefined {
    if (path === this.#outputBase) return { base: this.#storageOutputBase(), relative: "" };
    if (isIn(path, this.#outputBase)) {
      return isAbsolutePath(path)
        ? { base: this.#storageOutputBase(), relative: path.slice(this.#outputBase.length + 1) }
        : undefined;
    }
    return this.refusal(path) === undefined ? { base: this.root, relative: path.slice(1) } : undefined;
  }

  /** The same as one path, relative to the storage. It may be, or be behind, a symlink. */
  storagePath(path: string): string | undefined {
    const kept = this.locate(path);
    return kept && (kept.relative === "" ? kept.base : `${kept.base}/${kept.relative}`);
  }

  /** Why the session cannot have a root, as one sentence; undefined if it can. */
  refusal(path: string): string | undefined {
    if (path === "/") return "All of / cannot be sent to the agent: name the folder in it that is used.";
    if (!isAbsolutePath(path)) return `${JSON.stringify(path)} is no absolute path without "." and "..".`;
    const folder = systemFolderOf(path);
    if (folder !== undefined) {
      return `${path} cannot be sent to the agent, where ${folder} is the machine's own: have it installed there, or move it.`;
    }
    if (isAtOrIn(path, this.#outputBase)) {
      return `${path} lies in the output base, which the agent has its own of.`;
    }
    return undefined;
  }
}
