/**
 * The only places on the laptop that the agent may write to:
 *
 *     <output base>/execroot/…
 *     <output base>/external/REPOSITORY/…
 *     <output base>/java.log, …    the server's logs, and symlinks from one of them to another
 *     <workspace>/bazel-bin, …     symlinks only, and only such as lead below the output base
 *     <workspace>/MODULE.bazel.lock
 *     files that the developer's flags named
 *
 * The agent names the paths, so each is checked before anything is written. Symlinks that the agent made earlier exist
 * only below the output base, where no link is ever followed. Links elsewhere are the developer's own.
 */
import { basename, dirname, join, resolve } from "node:path";
import { ExitCode } from "../../proto/bazel/exit_codes.ts";
import { RbsError } from "../../proto/base/errors.ts";
import { isRepositoryName } from "../../proto/bazel/repository_name.ts";
import { isServerLog } from "../../proto/bazel/server_logs.ts";
import type { Entry } from "../../proto/tree/entry.ts";
import { lookAt } from "./output_folders.ts";
import { isAtOrIn } from "../../proto/base/absolute_path.ts";

/** Entries of an output base that `clean --expunge` keeps: the client's, and those of a local server. */
export const KEPT_NAMES: readonly string[] = ["server", "lock", "install", "local"];

/** KEPT_NAMES, RBS's own directory, and what a local server trusts or reads. */
const RESERVED_NAMES = [...KEPT_NAMES, "rbs", "action_cache", "javalog.properties"];

/** Names of convenience symlinks after their prefix. The name of the workspace's directory is one more. */
const LINK_NAMES = ["bin", "out", "testlogs", "genfiles"];

/** Maximum number of symlinks in the resolution of a path, as in Linux. */
const MAX_LINKS = 40;

/** Where an entry is written. */
export type Place =
  | { where: "output base"; /** Relative to the output base. */ path: string }
  | { where: "named file" | "convenience symlink"; /** Absolute path. */ path: string };

/** Options of {@link AllowedPaths}. */
export interface AllowedPathsOptions {
  /** Absolute, without "." or "..". */
  outputBase: string;
  /** Absolute, without "." or "..". */
  workspace: string;
  /** Absolute paths that the command's flags name. */
  namedFiles?: Iterable<string>;
  /** The command's `--symlink_prefix`. @default "bazel-" */
  symlinkPrefix?: string;
  /** The command leaves convenience symlinks alone, so it makes none. @default false */
  leavesSymlinks?: boolean;
}

/** Characters that have no width, or change the direction of the text. */
const UNSEEN = /[\p{Cf}\u2028\u2029]/u, UNSEEN_ALL = new RegExp(UNSEEN, "gu");
const escaped = (character: string) => `\\u{${character.codePointAt(0)!.toString(16)}}`;

/** A path for display: what could steer a terminal is escaped. */
export function shown(path: string): string {
  const text = path.length > 300 ? `${path.slice(0, 300)}…` : path;
  const isPlain = /^[\w\x20-\x7e\u00a1-\ud7ff]*$/u.test(text) && !UNSEEN.test(text);
  return isPlain ? text : JSON.stringify(text.toWellFormed()).replaceAll(UNSEEN_ALL, escaped);
}

/** The error for a request that no honest agent makes. */
export function refusal(path: string, why: string): RbsError {
  return new RbsError(
    `The agent sent ${
      shown(path)
    }, which ${why}: its outputs were refused; run the command on another agent, and report this one.`,
    { exitCode: ExitCode.INTERNAL_ERROR },
  );
}

/**
 * Whether the entry is not a directory, but is at a path where a Bazel server has only directories and uses them
 * without a check: a local server empties `execroot/WORKSPACE`, and writes in `execroot`, `bazel-out` and directly
 * below, following symlinks. Status files in `bazel-out` may be files, but not symlinks.
 *
 * @param path Path of an output, relative to the output base.
 */
function isGround(path: string, kind: Entry["kind"]): boolean {
  const [first, , third, ...below] = path.split("/", 5);
  if (first !== "execroot" || kind === "directory") return false;
  if (third === undefined || third === "bazel-out" && below.length === 0) return true;
  return third === "bazel-out" && below.length === 1 && kind === "symlink";
}

/**
 * Whether an entry is one of the server's logs or a profile. A server on this machine writes files of these names, so a
 * symlink may lead only to another of them.
 */
function isLog(path: string, { kind, target }: Entry): boolean {
  return isServerLog(path) && (kind === "file" || kind === "symlink" && isServerLog(target!));
}

/** Decides where an agent's entries may be written. */
export class AllowedPaths {
  readonly #outputBase: string;
  /** The output base with its own symlinks resolved. */
  readonly #realOutputBase: string;
  readonly #workspace: string;
  readonly #named: Set<string>;
  readonly #links: Set<string>;
  /** Those of `#links` that have the command's prefix. */
  readonly #prefixed: Set<string>;
  /** Prefix of other convenience symlinks; undefined if there are none. */
  readonly #linkPrefix?: string;

  readonly #leavesSymlinks: boolean;

  constructor(options: AllowedPathsOptions) {
    const { outputBase, workspace, namedFiles = [], symlinkPrefix = "bazel-", leavesSymlinks = false } = options;
    this.#leavesSymlinks = leavesSymlinks;
    this.#outputBase = outputBase;
    this.#realOutputBase = realPath(outputBase);
    this.#workspace = workspace;
    this.#named = new Set(namedFiles);
    this.#named.add(join(workspace, "MODULE.bazel.lock"));
    const names = leavesSymlinks
      ? []
      : [...LINK_NAMES, basename(workspace)].map((name) => resolve(workspace, symlinkPrefix + name));
    // Older Bazels make `bazel-out` with any prefix.
    this.#prefixed = new Set(names);
    const besides = leavesSymlinks ? [] : [join(workspace, "bazel-out")];
    this.#links = new Set([...names, ...besides].filter((path) => !this.#isOutputBase(path)));
    // A prefix like "bazel-" identifies the links; "out/" or "." would not.
    if (/[^/]-$/.test(symlinkPrefix)) this.#linkPrefix = resolve(workspace, symlinkPrefix);
  }

  /** The convenience symlinks that every command with this prefix may make, and `bazel-out`. Absolute paths. */
  get convenienceSymlinks(): Iterable<string> {
    return this.#links;
  }

  /**
   * Whether a command that makes or removes the convenience symlinks removes the one at `path`, if it makes none there.
   * As in Bazel, its target does not matter, and may be in another output base. `bazel-out` beside another prefix may
   * be the developer's own.
   *
   * @param path One of {@link convenienceSymlinks}.
   */
  removes(path: string): boolean {
    const target = lookAt(path)?.target;
    return target !== undefined && (this.#prefixed.has(path) || this.leadsToOutputs(target));
  }

  /** Whether the innermost root that contains a path is the output base. */
  #isOutputBase(path: string): boolean {
    return isAtOrIn(path, this.#outputBase) &&
      !(isAtOrIn(this.#workspace, this.#outputBase) && isAtOrIn(path, this.#workspace));
  }

  /** Where an entry with an absolute path is written. Throws an RbsError with the path if it may not be written. */
  place(entry: Entry): Place {
    const { path, kind } = entry;
    if (this.#named.has(path)) {
      if (kind !== "file") throw refusal(path, `is to be a file and not a ${kind}`);
      return { where: "named file", path };
    }
    // If one root lies in the other, the inner one decides.
    const inWorkspace = isAtOrIn(path, this.#workspace) &&
      !(isAtOrIn(this.#outputBase, this.#workspace) && isAtOrIn(path, this.#outputBase));
    if (!inWorkspace && this.#isOutputBase(path)) {
      const below = path.slice(this.#outputBase.length + 1);
      if (below === "") throw refusal(path, "is the output base itself");
      if (!isLog(below, entry) && this.isKept(below, kind)) throw refusal(path, "is not for outputs");
      if (isGround(below, kind)) throw refusal(path, `is a folder for outputs, and no ${kind}`);
      return { where: "output base", path: below };
    }
    // The developer's own flag may move the links out of the workspace.
    if (kind !== "symlink" || !inWorkspace && !this.#links.has(path)) throw refusal(path, "is not a place for outputs");
    if (this.#leavesSymlinks) throw refusal(path, "is a symlink that this command leaves alone");
    if (!this.leadsToOutputs(entry.target!)) throw refusal(path, "does not lead to an output");
    return { where: "convenience symlink", path };
  }

  /**
   * Whether a path in the output base is not for the agent: it is neither an output nor a file of an external
   * repository. All names by which a Bazel server trusts earlier results (action_cache, external/@REPOSITORY.marker and
   * their later names) and all that the client writes are kept.
   *
   * @param path Relative to the output base.
   */
  isKept(path: string, kind: Entry["kind"] = "file"): boolean {
    const [first, second, ...below] = path.split("/", 3);
    if (second === undefined) return true;
    if (first === "execroot") return false;
    // Repositories are directories or symlinks to them. Other names there hold what a server knows of them.
    return first !== "external" || !isRepositoryName(second) || below.length === 0 && kind === "file";
  }

  /** Whether a convenience symlink may have this target: an absolute path of an output, in normal form. */
  leadsToOutputs(target: string): boolean {
    return resolve("/", target) === target && target !== this.#outputBase && isAtOrIn(target, this.#outputBase) &&
      !this.isKept(`${target.slice(this.#outputBase.length + 1)}/`);
  }

  /**
   * Why a convenience symlink cannot be made at `path`; undefined if it can. The path must be free or a symlink. Bazel
   * replaces any symlink whose name the command gives exactly, and otherwise one that leads to outputs of any output
   * base.
   */
  obstacle(path: string): string | undefined {
    const isExact = this.#links.has(path);
    const isLink = isExact ||
      this.#linkPrefix !== undefined && path.startsWith(this.#linkPrefix) &&
        !path.includes("/", this.#linkPrefix.length);
    if (!isLink) return "this command's --symlink_prefix gives no such name";
    for (let folder = dirname(path); folder !== this.#workspace && folder !== "/"; folder = dirname(folder)) {
      const info = lookAt(folder);
      if (!info || info.kind === "directory") continue;
      // The developer's own links may lead anywhere outside of what the agent writes.
      const real = isAtOrIn(path, this.#workspace) || info.kind !== "symlink" ? folder : realPath(folder);
      if (real === folder || isAtOrIn(real, this.#realOutputBase)) return `${shown(folder)} is no folder`;
    }
    const info = lookAt(path);
    if (!info) return undefined;
    const { target } = info;
    if (target === undefined) return "it is a file or folder of the workspace";
    if (isExact || isAtOrIn(target, this.#outputBase) || /^\/.*\/execroot(\/|$)/s.test(target)) return undefined;
    return "it is a symlink of the workspace";
  }

  /**
   * The real path of a named file, after the developer's own symlinks. Throws an RbsError if the path leads through a
   * link that the agent may have made, or to a place where no file can be.
   */
  resolveNamed(named: string): Place {
    let at = "/";
    const rest = named.split("/").filter((name) => name !== "").reverse();
    for (let links = 0; rest.length > 0;) {
      const name = rest.pop()!;
      if (name === "..") {
        at = dirname(at);
        continue;
      }
      if (name === "." || name === "") continue;
      const next = join(at, name);
      const info = lookAt(next);
      if (info?.target !== undefined) {
        if (this.#belowOutputBase(next)) {
          // The last name is replaced itself. A directory here is chosen by the agent, and may lead anywhere.
          if (rest.length > 0) throw unwritable(named, `it leads through ${shown(next)}, a symlink among the outputs`);
          at = next;
          continue;
        }
        if (++links > MAX_LINKS) throw unwritable(named, "it is a symlink that never ends");
        if (info.target.startsWith("/")) at = "/";
        rest.push(...info.target.split("/").filter((name) => name !== "").reverse());
      } else {
        if (info && info.kind !== "file" && rest.length === 0) {
          throw unwritable(named, "something stands there that is no file");
        }
        at = next;
      }
    }
    const below = this.#belowOutputBase(at);
    if (below === undefined) return { where: "named file", path: at };
    if (isReserved(below)) throw unwritable(named, "that is no place for outputs");
    return { where: "output base", path: below };
  }

  /** A path relative to the output base; undefined if it is not below it. */
  #belowOutputBase(path: string): string | undefined {
    for (const base of [this.#realOutputBase, this.#outputBase]) {
      if (path !== base && isAtOrIn(path, base)) return path.slice(base.length + 1);
    }
  }
}

/** Whether not even the developer may name this path as a file to write. @param path Relative to the output base. */
function isReserved(path: string): boolean {
  const [first, second] = path.split("/", 2);
  // A file system may treat "SERVER" as "server".
  const name = first.normalize("NFKC").toLowerCase();
  return RESERVED_NAMES.includes(name) || name === "external" && !isRepositoryName(second ?? "");
}

/** The error for a file that the developer named and that cannot be written. */
export function unwritable(path: string, why: string, cause?: unknown): RbsError {
  return new RbsError(`${shown(path)} cannot be written (${why}): name another file.`, {
    cause,
    culprit: "caller",
    exitCode: ExitCode.LOCAL_ENVIRONMENTAL_ERROR,
  });
}

function realPath(path: string): string {
  try {
    return Deno.realPathSync(path);
  } catch {
    return path;
  }
}
