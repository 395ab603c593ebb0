/**
 * Finds inputs that a command misses at the agent because `.rbsignore` excludes them. Bazel's own message sounds as if
 * they were missing in the workspace.
 */
import { Buffer } from "node:buffer";
import { shown } from "../outputs/allowed_paths.ts";

/** Bazel's messages: for an input, for a target that would be a source file, for a package's directory. */
const MISSING = /(missing input file|no such target|no such package) '(?:@{0,2}\/\/)?([^'\n]{1,1000})'/g;
/** The pattern matches only text with one of these. */
const SIGNS = ["missing input file", "no such target", "no such package"].map((sign) => Buffer.from(sign));
/** Maximum number of inputs per command. */
const MAX_INPUTS = 20;
/** Maximum bytes examined of one piece of output. */
const MAX_TEXT = 1 << 20;

/** The missing inputs of one command. */
export class MissingInputs {
  readonly #paths = new Set<string>();

  /** Reads the command's output. */
  read(text: Uint8Array): void {
    const bytes = Buffer.from(text.buffer, text.byteOffset, Math.min(text.length, MAX_TEXT));
    if (this.#paths.size >= MAX_INPUTS || !SIGNS.some((sign) => bytes.includes(sign))) return;
    for (const [, , label] of bytes.toString().matchAll(MISSING)) {
      const path = label.replace(/^:/, "").replace(":", "/");
      // The text comes from the agent and may be anything.
      const isWithin = path.split("/").every((name) => name !== "" && name !== "." && name !== "..");
      if (isWithin && this.#paths.size < MAX_INPUTS) this.#paths.add(path);
    }
  }

  /**
   * A sentence about the missing inputs that are ignored, if any.
   *
   * @param staysHome Whether a path, relative to the workspace, is ignored.
   */
  warning(staysHome: (path: string) => boolean): string | undefined {
    const home = [...this.#paths].filter(staysHome);
    if (home.length === 0) return undefined;
    return `${home.map(shown).join(", ")} ${
      home.length === 1 ? "stays" : "stay"
    } on this machine because of .rbsignore: remove the rule, or add one with "!" for what the build needs.`;
  }
}
