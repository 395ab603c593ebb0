import { join } from "node:path";
import { systemFolderOf } from "../../proto/system_folders.ts";
import { syncedRoot } from "../storage_folder.ts";

/** Where a synced session keeps what stands at the developer's absolute paths. */
export class DeveloperPaths {
  readonly #outputBase: string;
  readonly #storageOutputBase: () => string;
  /** What the session sees as `/`. Absolute, on this machine. */
  readonly root: string;

  /**
   * @param options.storageDirectory The session's own folder.
   * @param options.outputBase By the developer's name.
   * @param options.storageOutputBase Where it is here; asked for when it is needed.
   */
  constructor(options: { storageDirectory: string; outputBase: string; storageOutputBase: () => string }) {
    this.root = syncedRoot(options.storageDirectory);
    this.#outputBase = options.outputBase;
    this.#storageOutputBase = options.storageOutputBase;
  }

  /** The session's output base here. */
  get storageOutputBase(): string {
    return this.#storageOutputBase();
  }

  /** Where `path` (absolute, without "..") is kept here; undefined: it is this machine's own, and none of the session's. */
  hostPath(path: string): string | undefined {
    const inside = path === this.#outputBase
      ? ""
      : path.startsWith(`${this.#outputBase}/`)
      ? path.slice(this.#outputBase.length + 1)
      : undefined;
    if (inside !== undefined) return join(this.storageOutputBase, inside);
    return this.refusal(path) === undefined ? this.root + path : undefined;
  }

  /** Why a root cannot be had in the session: one sentence, or undefined if it can. */
  refusal(path: string): string | undefined {
    if (
      !path.startsWith("/") || path === "/" ||
      path.split("/").some((name, i) => i > 0 && (name === "" || name === "." || name === ".."))
    ) {
      return `${JSON.stringify(path)} is no absolute path below /.`;
    }
    const folder = systemFolderOf(path);
    if (folder !== undefined) {
      return `${path} cannot be sent to the agent, where ${folder} is the machine's own: have it installed there, or move it.`;
    }
    if (path === this.#outputBase || path.startsWith(`${this.#outputBase}/`)) {
      return `${path} lies in the output base, which the agent has its own of.`;
    }
    return undefined;
  }
}
