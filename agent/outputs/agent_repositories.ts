import { type Files, lookFor } from "../../proto/tree/files.ts";
import { isRaw } from "../../proto/tree/names.ts";

/** Where {@link AgentRepositories} are looked for. */
export interface AgentRepositoriesOptions {
  /** By the developer's name, absolute. */
  outputBase: string;
  /** What the session's files are read with. */
  files: Files;
  /** Where something of the developer's is in it. */
  storagePath(path: string): string | undefined;
  /** Whether the developer has what is at a path outside of the output base: it was sent from there. */
  isDevelopers(path: string): boolean;
}

/**
 * External repositories that lie outside of the output base, in a folder that only the agent has: Bazel 8.3 keeps them in
 * a cache and makes `external/NAME` a symlink to there. To the developer such a repository is a folder in `external`.
 */
export class AgentRepositories {
  readonly #options: AgentRepositoriesOptions;

  constructor(options: AgentRepositoriesOptions) {
    this.#options = options;
  }

  /**
   * The folder behind `external/NAME`; undefined: the repository is where Bazel used to make it, or the developer has it.
   *
   * @param path A path of the developer's that is, or lies in, a repository.
   * @returns the repository's path, the folder that it leads to, and where that is in the storage
   */
  find(path: string): { repository: string; folder: string; here: string } | undefined {
    const { outputBase, files, storagePath, isDevelopers } = this.#options;
    const external = `${outputBase}/external/`;
    if (!path.startsWith(external)) return undefined;
    const [name] = path.slice(external.length).split("/");
    const repository = external + name;
    try {
      const { kind, target } = lookFor(files, storagePath(repository)!) ?? {};
      if (kind !== "symlink" || !target?.startsWith("/") || isRaw(target)) return undefined;
      if (target.startsWith(`${outputBase}/`) || isDevelopers(target)) return undefined;
      const here = storagePath(target);
      // What a program of the session has put behind a link is no repository.
      return here !== undefined && files.look(here).kind === "directory"
        ? { repository, folder: target, here }
        : undefined;
    } catch {
      return undefined;
    }
  }

  /** All of them. */
  *all(): Generator<{ repository: string; folder: string; here: string }> {
    const { outputBase, files, storagePath } = this.#options;
    let names: string[] = [];
    try {
      names = files.names(storagePath(`${outputBase}/external`)!);
    } catch {
      // No repository was fetched yet.
    }
    for (const name of names) {
      const found = isRaw(name) ? undefined : this.find(`${outputBase}/external/${name}`);
      if (found) yield found;
    }
  }

  /** Where something in such a repository is in the storage; undefined: it is in none. */
  storagePath(path: string): string | undefined {
    const found = this.find(path);
    return found && found.here + path.slice(found.repository.length);
  }
}
