import { isAbsolutePath, isAtOrIn, isIn } from "../../proto/base/absolute_path.ts";
import { systemFolderOf } from "../../proto/base/system_folders.ts";
import { SYNCED_ROOT } from "../namespace/storage_folder.ts";

/** A path of the developer's as it is kept on this machine. */
export interface KeptPath {
  /** The folder of the storage in which it lies, relative to the storage. */
  base: string;
  /** The path in it, relative; empty for the folder itself. */
  relative: string;
}

/** Where a synced session keeps what stands at the developer's absolute paths. */
export class DeveloperPaths {
  readonly #outputBase: string;
  readonly #storageOutputBase: () => string;
  /** What the session sees as `/`, relative to its storage. */
  readonly root = SYNCED_ROOT;

  /**
   * @param options.outputBase By the developer's name.
   * @param options.storageOutputBase Where it is in the storage, relative; asked for when it is needed.
   */
  constructor(options: { outputBase: string; storageOutputBase: () => string }) {
    this.#outputBase = options.outputBase;
    this.#storageOutputBase = options.storageOutputBase;
  }

  /** Where `path` is kept here; undefined: it is this machine's own and none of the session's, or no path at all. */
  locate(path: string): KeptPath | undefined {
    if (path === this.#outputBase) return { base: this.#storageOutputBase(), relative: "" };
    if (isIn(path, this.#outputBase)) {
      return isAbsolutePath(path)
        ? { base: this.#storageOutputBase(), relative: path.slice(this.#outputBase.length + 1) }
        : undefined;
    }
    return this.refusal(path) === undefined ? { base: this.root, relative: path.slice(1) } : undefined;
  }

  /** The same in one piece: relative to the storage. What stands there may be a symlink, or lie behind one. */
  storagePath(path: string): string | undefined {
    const kept = this.locate(path);
    return kept && (kept.relative === "" ? kept.base : `${kept.base}/${kept.relative}`);
  }

  /** Why a root cannot be had in the session: one sentence, or undefined if it can. */
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
