/**
 * Inputs that a command does not find at the agent since `.rbsignore` keeps them at home. Bazel's own message sounds as if
 * they were missing in the workspace.
 */
import { Buffer } from "node:buffer";
import { shown } from "../outputs/allowed_paths.ts";

/** How Bazel says it: of an input, of a target that would be a source file, of a package's folder. */
const MISSING = /(missing input file|no such target|no such package) '(?:@{0,2}\/\/)?([^'\n]{1,1000})'/g;
/** Without one of these, there is nothing to look for. */
const SIGNS = ["missing input file", "no such target", "no such package"].map((sign) => Buffer.from(sign));
/** More inputs of one command are not looked for. */
const MAX_INPUTS = 20;
/** More of one piece of output is not looked at. Bytes. */
const MAX_TEXT = 1 << 20;

/** See the file's head. For one command. */
export class MissingInputs {
  readonly #paths = new Set<string>();

  /** Takes what the command printed. */
  read(text: Uint8Array): void {
    const bytes = Buffer.from(text.buffer, text.byteOffset, Math.min(text.length, MAX_TEXT));
    if (this.#paths.size >= MAX_INPUTS || !SIGNS.some((sign) => bytes.includes(sign))) return;
    for (const [, , label] of bytes.toString().matchAll(MISSING)) {
      const path = label.replace(/^:/, "").replace(":", "/");
      // The agent says it, and may say anything.
      const isWithin = path.split("/").every((name) => name !== "" && name !== "." && name !== "..");
      if (isWithin && this.#paths.size < MAX_INPUTS) this.#paths.add(path);
    }
  }

  /**
   * A sentence on those that stay home, if there are any.
   *
   * @param staysHome Whether rules keep at home what is at a path, relative to the workspace.
   */
  warning(staysHome: (path: string) => boolean): string | undefined {
    const home = [...this.#paths].filter(staysHome);
    if (home.length === 0) return undefined;
    return `${home.map(shown).join(", ")} ${
      home.length === 1 ? "stays" : "stay"
    } on this machine because of .rbsignore: remove the rule, or add one with "!" for what the build needs.`;
  }
}
