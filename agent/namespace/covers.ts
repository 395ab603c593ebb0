/** What a session must not see of the machine that it is on, and how it is kept from seeing it. */
import { basename, dirname } from "node:path";
import { type AbsolutePath, isAtOrIn } from "../../proto/base/absolute_path.ts";
import { RbsError, sentence } from "../../proto/base/errors.ts";
import { SESSION_MARK } from "../../proto/bazel/local_jdk.ts";
import { realPath } from "../../proto/base/real_path.ts";

/** Mounts by which a namespace hides something, in the order in which they are made. Real paths, none of them "/". */
export interface Covers {
  /**
   * Folders above what is covered, the outer ones first: as mount points of their own they can be neither moved nor
   * removed, so that the next session finds what it must cover where it was.
   */
  readonly pinned: readonly string[];
  /** Folders that are empty. */
  readonly folders: readonly string[];
  /** Files that cannot be read. */
  readonly files: readonly string[];
  /** The session's own folders in the covered ones, which are shown, */
  readonly shown: readonly string[];
  /** others, which are shown read-only, */
  readonly readable: readonly string[];
  /** and the folders in between, the outer ones first. */
  readonly ways: readonly string[];
}

/** No covers at all. */
export const NO_COVERS: Covers = { pinned: [], folders: [], files: [], shown: [], readable: [], ways: [] };

/**
 * The covers of a session.
 *
 * @param hidden What must not be seen; what is not there needs no cover. Absolute.
 * @param own The session's own storage. Nothing that a request names may be among it. Absolute.
 * @param readOnly What the session may read, by the same rule.
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
 * The covers, and one for the file by which `<javabase>/bin/java` knows that it runs in a session. It hides nothing: a
 * session that moves it away only finds itself asked for another session.
 */
export function withSessionMark(covers: Covers, javabase: string | undefined): Covers {
  const mark = javabase?.startsWith("/") ? existing(`${javabase}/${SESSION_MARK}`) : undefined;
  if (mark === undefined || basename(mark) !== SESSION_MARK || !Deno.lstatSync(mark).isFile) return covers;
  if (covers.folders.some((folder) => isAtOrIn(mark, folder))) return covers;
  return { ...covers, files: [...covers.files, mark] };
}

/**
 * Refuses a path of a request that is, or lies in, what no session may see, by its name or by where it leads now. Where it
 * leads later does not matter: nothing is taken from the covers for it. Throws an RbsError.
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

/** All folders above a path but "/". */
function above(path: string): string[] {
  const folder = dirname(path);
  return folder === "/" ? [] : [...above(folder), folder];
}

/** The path without symlinks of what is there; undefined: nothing is. */
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
