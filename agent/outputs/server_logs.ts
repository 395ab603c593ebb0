/**
 * The Bazel server's own log and the profile of its last command, for the developer who asks where they are. The server
 * goes on writing them, so that copies are given out.
 *
 *     java.log           -> java.log.HOST.USER.log.java.DATE.PID
 *     command.profile.gz -> command-ID.profile.gz               (a file itself before Bazel 8)
 */
import { type Files, lookFor } from "../../proto/tree/files.ts";
import { isServerLog } from "../../proto/bazel/server_logs.ts";
import { type Found, found } from "./output_tree.ts";

/** By which of them the present ones are found. */
const PRESENT = ["java.log", "command.profile.gz"];
/** Larger ones are not copied. Bytes. */
const MAX_BYTES = 256 << 20;

/** See the file's head. */
export class ServerLogs {
  readonly #options: { outputBase: string; files: Files; storage(): string };

  /**
   * @param options.outputBase By the developer's name, absolute.
   * @param options.files The session's, and
   * @param options.storage where the output base is in them.
   */
  constructor(options: { outputBase: string; files: Files; storage(): string }) {
    this.#options = options;
  }

  /** Copies the present ones. @param more Names of others. @returns them by the developer's names */
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
          // It was put aside by the server in this moment, or the disk is full: there is none.
        }
      }
    }
    return [...entries.values()];
  }

  /** Where the copy of one is in the storage, by its path on the developer's machine; undefined: it is none. */
  storagePath(path: string): string | undefined {
    const { outputBase } = this.#options;
    const name = path.startsWith(`${outputBase}/`) ? path.slice(outputBase.length + 1) : "";
    return isServerLog(name) ? this.#copyOf(name) : undefined;
  }

  #copyOf(name: string): string {
    return `${this.#options.storage()}/rbs/logs/${name}`;
  }
}
