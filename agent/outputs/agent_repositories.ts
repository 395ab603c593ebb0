import { type Files, lookFor } from "../../proto/tree/files.ts";
import { isRaw } from "../../proto/tree/names.ts";

/** Options of {@link AgentRepositories}. */
export interface AgentRepositoriesOptions {
  /** The developer's absolute path. */
  outputBase: string;
  /** The session's files. */
  files: Files;
  /** Where a developer's path is in `files`. */
  storagePath(path: string): string | undefined;
  /** Whether a path outside the output base was sent from the developer's machine. */
  isDevelopers(path: string): boolean;
}

/**
 * External repositories outside the output base, in a directory that only the agent has: Bazel 8.3 keeps repositories
 * in a cache, and makes `external/NAME` a symlink to it. The developer gets such a repository as a directory in
 * `external`.
 */
export class AgentRepositories {
  readonly #options: AgentRepositoriesOptions;

  constructor(options: AgentRepositoriesOptions) {
    this.#options = options;
  }

  /**
   * The directory behind `external/NAME`. Undefined if the repository is where older Bazels make it, or the developer
   * has it.
   *
   * @param path A developer's path that is or is in a repository.
   * @returns the repository's path, the directory that it leads to, and where that is in the storage
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
      // A program of the session may have put something else behind the link.
      return here !== undefined && files.look(here).kind === "directory"
        ? { repository, folder: target, here }
        : undefined;
    } catch {
      return undefined;
    }
  }

  /** All such repositories. */
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

  /** Where a path in such a repository is in the storage; undefined if it is in none. */
  storagePath(path: string): string | undefined {
    const found = this.find(path);
    return found && found.here + path.slice(found.repository.length);
  }
}
