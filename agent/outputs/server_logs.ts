/**
 * Copies the Bazel server's log and the profile of its last command for a developer who asks where they are. The server
 * continues to write them, so copies are sent.
 *
 *     java.log           -> java.log.HOST.USER.log.java.DATE.PID
 *     command.profile.gz -> command-ID.profile.gz               (a file itself before Bazel 8)
 */
import { type Files, lookFor } from "../../proto/tree/files.ts";
import { isServerLog } from "../../proto/bazel/server_logs.ts";
import { type Found, found } from "./output_tree.ts";

/** The names that lead to the present files. */
const PRESENT = ["java.log", "command.profile.gz"];
/** Larger files are not copied. Bytes. */
const MAX_BYTES = 256 << 20;

/** The logs of one session's server. */
export class ServerLogs {
  readonly #options: { outputBase: string; files: Files; storage(): string };

  /**
   * @param options.outputBase The developer's absolute path.
   * @param options.files The session's files.
   * @param options.storage The output base's path in `files`.
   */
  constructor(options: { outputBase: string; files: Files; storage(): string }) {
    this.#options = options;
  }

  /**
   * Copies the present logs. @param more Names of others.
   * @returns the copies, with the developer's paths
   */
  copy(more: Iterable<string> = []): Found[] {
    const { outputBase, files } = this.#options;
    const storage = this.#options.storage();
    const entries = new Map<string, Found>();
    const waiting = [...PRESENT, ...more];
    for (let name = waiting.pop(); name !== undefined; name = waiting.pop()) {
      if (entries.has(name) || !isServerLog(name)) continue;
      const path = `${outputBase}/${name}`;
      const info = lookFor(files, `${storage}/${name}`);
      if (info?.kind === "symlink") {
        const target = info.target!.replace(`${outputBase}/`, "");
        if (!isServerLog(target) || target === name) continue;
        entries.set(name, found(path, "symlink", info, target));
        waiting.push(target);
      } else if (info?.kind === "file" && info.size <= MAX_BYTES) {
        const here = this.#copyOf(name);
        try {
          files.makeWay(here.slice(0, here.lastIndexOf("/")), 0o700);
          if (lookFor(files, here)) files.remove(here, { recursive: true });
          files.copy(`${storage}/${name}`, here);
          files.utime(here, info.mtimeMs);
          entries.set(name, { ...found(path, "file", files.lstat(here)), here });
        } catch {
          // The server has just moved it, or the disk is full: no copy.
        }
      }
    }
    return [...entries.values()];
  }

  /**
   * Where the copy of a log is in the storage, by the developer's path; undefined if the path is not that of a log.
   */
  storagePath(path: string): string | undefined {
    const { outputBase } = this.#options;
    const name = path.startsWith(`${outputBase}/`) ? path.slice(outputBase.length + 1) : "";
    return isServerLog(name) ? this.#copyOf(name) : undefined;
  }

  #copyOf(name: string): string {
    return `${this.#options.storage()}/rbs/logs/${name}`;
  }
}
