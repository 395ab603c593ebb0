/**
 * Finds tools that a command misses at the agent but that exist here: in a directory of the PATH below the developer's
 * home (pyenv's, asdf's, `~/.local/bin`), which is not synced. The shell's message alone sounds as if the tool was not
 * installed.
 */
import { Buffer } from "node:buffer";
import { shown } from "../outputs/allowed_paths.ts";
import { isAtOrIn } from "../../proto/base/absolute_path.ts";

/** Messages of shells, env(1) and Bazel. Names contain no slash: tools called by a path are not looked for. */
const NOT_FOUND =
  /(?:^|[\s:"'‘`(])(\w[\w.+-]{0,63})["'’`]?: (?:command not found|not found|No such file or directory)|"(\w[\w.+-]{0,63})": executable file not found/gm;
/** The pattern matches only text with one of these. */
const SIGNS = ["not found", "No such file"].map((sign) => Buffer.from(sign));
/** Maximum number of tools per command. */
const MAX_TOOLS = 20;
/** Maximum bytes examined of one piece of output. */
const MAX_TEXT = 1 << 20;

/** Where {@link MissingTools} look. Paths are absolute. */
export interface ToolPlace {
  /** The developer's PATH. */
  searchPath: string;
  /** The developer's home directory. */
  home: string;
  /** Directories that the agent also has. */
  synced: readonly string[];
  /** Whether a path exists on this machine. */
  exists(path: string): boolean;
}

/** The missing tools of one command. */
export class MissingTools {
  readonly #names = new Set<string>();

  /** Reads the command's output. */
  read(text: Uint8Array): void {
    const bytes = Buffer.from(text.buffer, text.byteOffset, Math.min(text.length, MAX_TEXT));
    if (this.#names.size >= MAX_TOOLS || !SIGNS.some((sign) => bytes.includes(sign))) return;
    for (const [, name, other] of bytes.toString().matchAll(NOT_FOUND)) {
      if (this.#names.size < MAX_TOOLS) this.#names.add(name ?? other);
    }
  }

  /** A sentence about the tools that only this machine has, if any. */
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
