/**
 * Tools that a command does not find at the agent, and that are here: in a folder of the PATH below the developer's home
 * (pyenv's, asdf's, `~/.local/bin`), which stays on this machine. The message of the shell alone sounds as if the tool
 * was not installed.
 */
import { Buffer } from "node:buffer";
import { shown } from "../outputs/allowed_paths.ts";
import { isAtOrIn } from "../../proto/base/absolute_path.ts";

/** How a shell, env(1) and Bazel say it. Names have no slash: what is called by its path is not looked for. */
const NOT_FOUND =
  /(?:^|[\s:"'‘`(])(\w[\w.+-]{0,63})["'’`]?: (?:command not found|not found|No such file or directory)|"(\w[\w.+-]{0,63})": executable file not found/gm;
/** Without one of these, there is nothing to look for. */
const SIGNS = ["not found", "No such file"].map((sign) => Buffer.from(sign));
/** More tools of one command are not looked for. */
const MAX_TOOLS = 20;
/** More of one piece of output is not looked at. Bytes. */
const MAX_TEXT = 1 << 20;

/** What {@link MissingTools} go by. Paths are absolute. */
export interface ToolPlace {
  /** The developer's PATH. */
  searchPath: string;
  /** The developer's home folder. */
  home: string;
  /** Folders that the agent has as well. */
  synced: readonly string[];
  /** Whether there is something at a path of this machine. */
  exists(path: string): boolean;
}

/** See the file's head. For one command. */
export class MissingTools {
  readonly #names = new Set<string>();

  /** Takes what the command printed. */
  read(text: Uint8Array): void {
    const bytes = Buffer.from(text.buffer, text.byteOffset, Math.min(text.length, MAX_TEXT));
    if (this.#names.size >= MAX_TOOLS || !SIGNS.some((sign) => bytes.includes(sign))) return;
    for (const [, name, other] of bytes.toString().matchAll(NOT_FOUND)) {
      if (this.#names.size < MAX_TOOLS) this.#names.add(name ?? other);
    }
  }

  /** A sentence on the tools that are here alone, if there are any. */
  warning({ searchPath, home, synced, exists }: ToolPlace): string | undefined {
    if (this.#names.size === 0) return undefined;
    const folders = new Set(
      searchPath.split(":").filter((folder) =>
        home.length > 1 && folder.startsWith(`${home}/`) && !synced.some((root) => isAtOrIn(folder, root))
      ),
    );
    const found = [...this.#names].flatMap((name) => {
      const folder = [...folders].find((folder) => exists(`${folder}/${name}`));
      return folder === undefined ? [] : [`${name} in ${shown(folder)}`];
    });
    if (found.length === 0) return undefined;
    return `Only this machine has ${found.join(", ")}: the build server's machine has nothing of your PATH below ${
      shown(home)
    }; install it there, or have the workspace bring its own.`;
  }
}
