/** What a session must not see of its machine, and the mounts that hide it. */
import { basename, dirname } from "node:path";
import { type AbsolutePath, isAtOrIn } from "../../proto/base/absolute_path.ts";
import { RbsError, sentence } from "../../proto/base/errors.ts";
import { SESSION_MARK } from "../../proto/bazel/local_jdk.ts";
import { realPath } from "../../proto/base/real_path.ts";

/** Mounts by which a namespace hides paths, in the order in which they are made. Real paths, none of them "/". */
export interface Covers {
  /**
   * Parents of what is covered, outermost first. As mount points they can be neither moved nor removed, so the next
   * session finds what it must cover in the same place.
   */
  readonly pinned: readonly string[];
  /** Directories that appear empty. */
  readonly folders: readonly string[];
  /** Files that cannot be read. */
  readonly files: readonly string[];
  /** The session's own directories below covered ones, which stay visible. */
  readonly shown: readonly string[];
  /** Other paths that are shown read-only. */
  readonly readable: readonly string[];
  /** The directories between the covered ones and {@link shown} or {@link readable}, outermost first. */
  readonly ways: readonly string[];
}

/** No covers. */
export const NO_COVERS: Covers = { pinned: [], folders: [], files: [], shown: [], readable: [], ways: [] };

/**
 * The covers of a session.
 *
 * @param hidden Absolute paths that must not be seen. Missing ones need no cover.
 * @param own Absolute paths of the session's own storage. They must not come from a request.
 * @param readOnly Absolute paths that the session may read. They must not come from a request either.
 */
export function coversOf(hidden: readonly string[], own: readonly string[], readOnly: readonly string[] = []): Covers {
  const there = unique(hidden.map(existing)).filter((path) => path !== "/");
  const outermost = there.filter((path) => !there.some((other) => other !== path && isAtOrIn(path, other)));
  const isFolder = (path: string) => Deno.lstatSync(path).isDirectory;
  const isCovered = (path: string) => outermost.some((folder) => isAtOrIn(path, folder));
  const shown = unique(own.map(existing)).filter(isCovered);
  const readable = unique(readOnly.map(existing)).filter((path) => path !== "/");
  return {
    pinned: outerFirst(outermost.flatMap(above)),
    folders: outermost.filter(isFolder),
    files: outermost.filter((path) => !isFolder(path)),
    shown,
    readable,
    ways: outerFirst([...shown, ...readable].flatMap(above)).filter((path) =>
      isCovered(path) && !outermost.includes(path)
    ),
  };
}

/**
 * Adds a cover for the file by which `<javabase>/bin/java` knows that it runs in a session. It protects nothing: a
 * session that moves the file away is only asked for another session.
 */
export function withSessionMark(covers: Covers, javabase: string | undefined): Covers {
  const mark = javabase?.startsWith("/") ? existing(`${javabase}/${SESSION_MARK}`) : undefined;
  if (mark === undefined || basename(mark) !== SESSION_MARK || !Deno.lstatSync(mark).isFile) return covers;
  if (covers.folders.some((folder) => isAtOrIn(mark, folder))) return covers;
  return { ...covers, files: [...covers.files, mark] };
}

/**
 * Refuses a path of a request that is or lies in a hidden path, by its name or its present real path. Later changes of
 * symlinks do not matter, since no cover depends on the path. Throws an RbsError.
 *
 * @param what What the path is, for the message: "workspace".
 */
export function refuseHidden(what: string, path: AbsolutePath, hidden: readonly string[]): void {
  let places: string[], covered: string[];
  try {
    places = [path, realPath(path)];
    covered = [...hidden, ...hidden.map(realPath)];
  } catch (cause) {
    throw new RbsError(`The ${what} ${path} cannot be looked at (${sentence(cause)}): fix its permissions.`, {
      cause,
      culprit: "caller",
    });
  }
  if (!places.some((place) => covered.some((folder) => isAtOrIn(place, folder)))) return;
  throw new RbsError(
    `The ${what} ${path} is or lies in what no session may see, the orchestrator's keys and storage: use another.`,
    { culprit: "caller" },
  );
}

/** All parents of a path except "/". */
function above(path: string): string[] {
  const folder = dirname(path);
  return folder === "/" ? [] : [...above(folder), folder];
}

/** The real path; undefined if it does not exist. */
function existing(path: string): string | undefined {
  try {
    return Deno.realPathSync(path);
  } catch {
    return undefined;
  }
}

function outerFirst(paths: readonly string[]): string[] {
  return unique(paths).sort((a, b) => a.length - b.length);
}

function unique(paths: readonly (string | undefined)[]): string[] {
  return [...new Set(paths)].filter((path) => path !== undefined);
}
