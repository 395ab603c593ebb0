/** What of the workspace stays home: `.git`, what `.rbsignore` names, and what Bazel itself puts into a workspace. */
import ignore, { type Ignore } from "ignore";
import { isAbsolute, resolve } from "node:path";
import { RbsError, sentence } from "../../proto/base/errors.ts";
import type { EntryKind } from "../../proto/tree/entry.ts";

/** At the workspace's root; gitignore's syntax. `!.git` takes the default rule back. */
export const IGNORE_FILE = ".rbsignore";
const MAX_IGNORE_FILE_BYTES = 1 << 20;

/** See the file's head. Rules never change: {@link IgnoreRules.load} makes new ones. */
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
   * Reads the workspace's rules. Throws an {@link RbsError} if there are some that cannot be read: to go on without them
   * would send what was meant to stay home.
   *
   * @param workspace Absolute.
   * @param outputBase Absolute.
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
      // A file that was changed within the grain of its times may be changed again without a trace in them.
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

  /** Whether these rules say the same as others of the same workspace. */
  same(others: IgnoreRules): boolean {
    return this.#text === others.#text;
  }

  /** Call it around a scan: the library remembers each path that it was asked about. */
  begin(): void {
    // Most workspaces have no rules of their own, and need no library for the default one.
    this.#rules = this.#text === "" ? undefined : ignore({ ignorecase: false }).add(".git").add(this.#text);
  }

  /**
   * Whether an entry, with all below it, stays home.
   * @param path Relative to the workspace; none of the folders above it stays home.
   */
  skips(path: string, kind: EntryKind, target?: string): boolean {
    if (this.#rules) {
      if (this.#rules.ignores(kind === "directory" ? `${path}/` : path)) return true;
    } else if (path.endsWith(".git") && (path.length === 4 || path.at(-5) === "/")) return true;
    return this.isConvenience(path, kind, target);
  }

  /** Whether it is one of Bazel's own links: `bazel-*` into some execroot, or what --symlink_prefix made of them. */
  isConvenience(path: string, kind: EntryKind, target: string | undefined): boolean {
    if (kind !== "symlink" || target === undefined || path.includes("/")) return false;
    const absolute = isAbsolute(target) ? target : resolve(this.#workspace, target);
    return absolute === this.#outputBase || absolute.startsWith(`${this.#outputBase}/`) ||
      (path.startsWith("bazel-") && /\/execroot(\/|$)/.test(absolute));
  }
}
