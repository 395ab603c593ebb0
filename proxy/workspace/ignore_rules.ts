/** What is not synced: `.git`, what `.rbsignore` names, and the links that Bazel makes in a workspace. */
import ignore, { type Ignore } from "ignore";
import { isAbsolute, resolve } from "node:path";
import { RbsError, sentence } from "../../proto/base/errors.ts";
import type { EntryKind } from "../../proto/tree/entry.ts";

/** Lies in the workspace's root, in the syntax of gitignore. `!.git` cancels the default rule. */
export const IGNORE_FILE = ".rbsignore";
const MAX_IGNORE_FILE_BYTES = 1 << 20;

/** The ignore rules of one workspace. Immutable: {@link IgnoreRules.load} makes new ones. */
export class IgnoreRules {
  readonly #workspace: string;
  readonly #outputBase: string;
  readonly #stamp: string;
  readonly #text: string;
  #rules?: Ignore;

  private constructor(workspace: string, outputBase: string, stamp: string, text: string) {
    this.#workspace = workspace;
    this.#outputBase = outputBase;
    this.#stamp = stamp;
    this.#text = text;
    this.begin();
  }

  /**
   * Reads the workspace's rules. Throws an {@link RbsError} if the file exists but cannot be read: without its rules,
   * files would be sent that the user excluded.
   *
   * @param workspace Absolute path.
   * @param outputBase Absolute path.
   * @param previous Returned if the file has not changed since.
   */
  static load(workspace: string, outputBase: string, previous?: IgnoreRules): IgnoreRules {
    const path = `${workspace}/${IGNORE_FILE}`;
    const refuse = (why: string, cause?: unknown) =>
      new RbsError(`${path} ${why}: fix or remove it. Nothing was synced.`, { cause, culprit: "caller" });
    let stamp = "", text = "";
    try {
      const { isFile, mtime, ctime, size, ino } = Deno.statSync(path);
      if (!isFile) throw refuse("is not a file");
      if (size > MAX_IGNORE_FILE_BYTES) throw refuse(`is larger than ${MAX_IGNORE_FILE_BYTES} bytes`);
      stamp = [mtime?.getTime(), ctime?.getTime(), size, ino].join();
      // A file that changed within the resolution of its timestamps may change again without a new timestamp.
      if (Date.now() - (ctime ?? mtime ?? new Date()).getTime() < 3_000) stamp += `,${performance.now()}`;
      if (previous && previous.#stamp === stamp) return previous;
      text = new TextDecoder("utf-8", { fatal: true }).decode(Deno.readFileSync(path));
    } catch (e) {
      if (e instanceof RbsError) throw e;
      if (e instanceof TypeError) throw refuse("is not UTF-8", e);
      if (!(e instanceof Deno.errors.NotFound)) throw refuse(`cannot be read (${sentence(e)})`, e);
    }
    return new IgnoreRules(workspace, outputBase, stamp, text);
  }

  /** Whether these rules equal others of the same workspace. */
  same(others: IgnoreRules): boolean {
    return this.#text === others.#text;
  }

  /** Call it before and after a scan: the library caches every path that it was asked about. */
  begin(): void {
    // Most workspaces have no rules; the default rule needs no library.
    this.#rules = this.#text === "" ? undefined : ignore({ ignorecase: false }).add(".git").add(this.#text);
  }

  /**
   * Whether an entry, with everything below it, is not synced.
   * @param path Relative to the workspace; no directory above it may be ignored.
   */
  skips(path: string, kind: EntryKind, target?: string): boolean {
    if (this.#rules) {
      if (this.#rules.ignores(kind === "directory" ? `${path}/` : path)) return true;
    } else if (path.endsWith(".git") && (path.length === 4 || path.at(-5) === "/")) return true;
    return this.isConvenience(path, kind, target);
  }

  /**
   * Whether an entry is one of Bazel's convenience symlinks: `bazel-*` into an execroot, or those of --symlink_prefix.
   */
  isConvenience(path: string, kind: EntryKind, target: string | undefined): boolean {
    if (kind !== "symlink" || target === undefined || path.includes("/")) return false;
    const absolute = isAbsolute(target) ? target : resolve(this.#workspace, target);
    return absolute === this.#outputBase || absolute.startsWith(`${this.#outputBase}/`) ||
      (path.startsWith("bazel-") && /\/execroot(\/|$)/.test(absolute));
  }
}
