/**
 * Where the agent may have something written on the laptop, and nowhere else:
 *
 *     <output base>/execroot/…
 *     <output base>/external/REPOSITORY/…
 *     <output base>/java.log, …    the server's logs, and symlinks from one of them to another
 *     <workspace>/bazel-bin, …     symlinks only, and only such as lead below the output base
 *     <workspace>/MODULE.bazel.lock
 *     files that the developer's flags named
 *
 * The agent names the paths, so each is checked before anything is written. Symlinks that it made earlier stand only
 * below the output base; there no link is ever followed. Links elsewhere are the developer's own.
 */
import { basename, dirname, join, resolve } from "node:path";
import { ExitCode } from "../../proto/bazel/exit_codes.ts";
import { RbsError } from "../../proto/base/errors.ts";
import { isRepositoryName } from "../../proto/bazel/repository_name.ts";
import { isServerLog } from "../../proto/bazel/server_logs.ts";
import type { Entry } from "../../proto/tree/entry.ts";
import { lookAt } from "./output_folders.ts";
import { isAtOrIn } from "../../proto/base/absolute_path.ts";

/** What stands in an output base that `clean --expunge` leaves: the client's, and a local server's own. */
export const KEPT_NAMES: readonly string[] = ["server", "lock", "install", "local"];

/** The same, what is RBS's, and what a local server believes or reads. */
const RESERVED_NAMES = [...KEPT_NAMES, "rbs", "action_cache", "javalog.properties"];

/** The names of convenience symlinks after their prefix; the workspace's own folder name is one more. */
const LINK_NAMES = ["bin", "out", "testlogs", "genfiles"];

/** The most symlinks that a path may lead through, as in Linux. */
const MAX_LINKS = 40;

/** Where an entry goes. */
export type Place =
  | { where: "output base"; /** Relative to it. */ path: string }
  | { where: "named file" | "convenience symlink"; /** Absolute. */ path: string };

/** What {@link AllowedPaths} depend on. */
export interface AllowedPathsOptions {
  /** Absolute, without "." or "..". */
  outputBase: string;
  /** Absolute, without "." or "..". */
  workspace: string;
  /** Absolute paths that flags of the command name. */
  namedFiles?: Iterable<string>;
  /** The command's `--symlink_prefix`. @default "bazel-" */
  symlinkPrefix?: string;
  /** The command leaves convenience symlinks alone: there are none. @default false */
  leavesSymlinks?: boolean;
}

/** What has no width, or turns the direction of what follows. */
const UNSEEN = /[\p{Cf}\u2028\u2029]/u, UNSEEN_ALL = new RegExp(UNSEEN, "gu");
const escaped = (character: string) => `\\u{${character.codePointAt(0)!.toString(16)}}`;

/** A path as a person reads it: what could steer a terminal is escaped. */
export function shown(path: string): string {
  const text = path.length > 300 ? `${path.slice(0, 300)}…` : path;
  const isPlain = /^[\w\x20-\x7e\u00a1-\ud7ff]*$/u.test(text) && !UNSEEN.test(text);
  return isPlain ? text : JSON.stringify(text.toWellFormed()).replaceAll(UNSEEN_ALL, escaped);
}

/** The error of an agent that asks for what no honest agent asks for. */
export function refusal(path: string, why: string): RbsError {
  return new RbsError(
    `The agent sent ${
      shown(path)
    }, which ${why}: its outputs were refused; run the command on another agent, and report this one.`,
    { exitCode: ExitCode.INTERNAL_ERROR },
  );
}

/**
 * Whether something other than a folder is to stand where a Bazel server has only folders, and works in them without a look:
 * a local one empties `execroot/WORKSPACE`, and writes in `execroot`, `bazel-out` and what is directly in it, wherever a
 * symlink there leads. Status files of `bazel-out` are files, never symlinks.
 *
 * @param path Of an output, relative to the output base.
 */
function isGround(path: string, kind: Entry["kind"]): boolean {
  const [first, , third, ...below] = path.split("/", 5);
  if (first !== "execroot" || kind === "directory") return false;
  if (third === undefined || third === "bazel-out" && below.length === 0) return true;
  return third === "bazel-out" && below.length === 1 && kind === "symlink";
}

/**
 * Whether an entry is a log of the server's or a profile. A server of this machine writes files of these names, so that no
 * symlink may lead from there to anything but such a file.
 */
function isLog(path: string, { kind, target }: Entry): boolean {
  return isServerLog(path) && (kind === "file" || kind === "symlink" && isServerLog(target!));
}

/** See the file's head. */
export class AllowedPaths {
  readonly #outputBase: string;
  /** The output base as it is called after its own symlinks, if it has any. */
  readonly #realOutputBase: string;
  readonly #workspace: string;
  readonly #named: Set<string>;
  readonly #links: Set<string>;
  /** Those of them that have the command's prefix. */
  readonly #prefixed: Set<string>;
  /** What other convenience symlinks begin with; undefined: there are none. */
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
    // Older Bazels make the last beside any.
    this.#prefixed = new Set(names);
    const besides = leavesSymlinks ? [] : [join(workspace, "bazel-out")];
    this.#links = new Set([...names, ...besides].filter((path) => !this.#isOutputBase(path)));
    // A prefix like "bazel-" tells the links from anything else; "out/" or "." would not.
    if (/[^/]-$/.test(symlinkPrefix)) this.#linkPrefix = resolve(workspace, symlinkPrefix);
  }

  /** The convenience symlinks that every command with this prefix may make, and `bazel-out`. Absolute paths. */
  get convenienceSymlinks(): Iterable<string> {
    return this.#links;
  }

  /**
   * Whether a command that makes or removes the convenience symlinks removes the one that stands at `path`, where it makes
   * none: as Bazel does, wherever it leads, be it to another output base. `bazel-out` beside another prefix may be the
   * developer's own.
   *
   * @param path One of {@link convenienceSymlinks}.
   */
  removes(path: string): boolean {
    const target = lookAt(path)?.target;
    return target !== undefined && (this.#prefixed.has(path) || this.leadsToOutputs(target));
  }

  /** Whether the innermost root that a path is in is the output base. */
  #isOutputBase(path: string): boolean {
    return isAtOrIn(path, this.#outputBase) &&
      !(isAtOrIn(this.#workspace, this.#outputBase) && isAtOrIn(path, this.#workspace));
  }

  /** Where an entry with an absolute path goes. Throws an RbsError that names it if it may go nowhere. */
  place(entry: Entry): Place {
    const { path, kind } = entry;
    if (this.#named.has(path)) {
      if (kind !== "file") throw refusal(path, `is to be a file and not a ${kind}`);
      return { where: "named file", path };
    }
    // Of two roots of which one lies in the other, the inner one says what its files are.
    const inWorkspace = isAtOrIn(path, this.#workspace) &&
      !(isAtOrIn(this.#outputBase, this.#workspace) && isAtOrIn(path, this.#outputBase));
    if (!inWorkspace && this.#isOutputBase(path)) {
      const below = path.slice(this.#outputBase.length + 1);
      if (below === "") throw refusal(path, "is the output base itself");
      if (!isLog(below, entry) && this.isKept(below, kind)) throw refusal(path, "is not for outputs");
      if (isGround(below, kind)) throw refusal(path, `is a folder for outputs, and no ${kind}`);
      return { where: "output base", path: below };
    }
    // The developer's own flag may say that links are to be elsewhere.
    if (kind !== "symlink" || !inWorkspace && !this.#links.has(path)) throw refusal(path, "is not a place for outputs");
    if (this.#leavesSymlinks) throw refusal(path, "is a symlink that this command leaves alone");
    if (!this.leadsToOutputs(entry.target!)) throw refusal(path, "does not lead to an output");
    return { where: "convenience symlink", path };
  }

  /**
   * Whether nothing of an agent's stands there: neither an output nor a file of an external repository. Of what a Bazel
   * server believes of an earlier one (action_cache, external/@REPOSITORY.marker and what later versions call so), nothing
   * is of that kind, and nothing that the client writes to.
   *
   * @param path Relative to the output base.
   */
  isKept(path: string, kind: Entry["kind"] = "file"): boolean {
    const [first, second, ...below] = path.split("/", 3);
    if (second === undefined) return true;
    if (first === "execroot") return false;
    // Repositories are folders, or symlinks to such; other names there are for what a server knows of them.
    return first !== "external" || !isRepositoryName(second) || below.length === 0 && kind === "file";
  }

  /** True for the target of a convenience symlink: an absolute path of an output, as it stands. */
  leadsToOutputs(target: string): boolean {
    return resolve("/", target) === target && target !== this.#outputBase && isAtOrIn(target, this.#outputBase) &&
      !this.isKept(`${target.slice(this.#outputBase.length + 1)}/`);
  }

  /**
   * Why a convenience symlink cannot stand at `path`; undefined if it can. There may be nothing, or a symlink: where a
   * name is just what the command gives, Bazel replaces any, and otherwise one that leads to outputs, be they another
   * output base's.
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
      // The developer's own links lead where the developer wants, outside of what the agent writes.
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
   * The path that a named file really has, after the developer's own symlinks. Throws an RbsError if it would lead
   * through a link that the agent can have made, or to where no file can be.
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
          // The last name is replaced itself; a folder's is the agent's to choose, and may lead anywhere.
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

  /** A path relative to the output base, if it is below it. */
  #belowOutputBase(path: string): string | undefined {
    for (const base of [this.#realOutputBase, this.#outputBase]) {
      if (path !== base && isAtOrIn(path, base)) return path.slice(base.length + 1);
    }
  }
}

/** What nobody may name as a file for a command to write, either. @param path Relative to the output base. */
function isReserved(path: string): boolean {
  const [first, second] = path.split("/", 2);
  // A file system may take "SERVER" for "server".
  const name = first.normalize("NFKC").toLowerCase();
  return RESERVED_NAMES.includes(name) || name === "external" && !isRepositoryName(second ?? "");
}

/** The error of a file that the developer named and that cannot be written here. */
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
