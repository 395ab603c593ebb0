import { Buffer } from "node:buffer";

declare const checked: unique symbol;

/**
 * An absolute path in normal form: it begins with a slash and does not end with one, none of its components is empty, "."
 * or "..", it holds no NUL, and it is no longer than Linux takes. So it says by its text alone where it leads, symlinks
 * apart. "/" itself is none. Only {@link isAbsolutePath} and {@link absolutePath} make one.
 */
export type AbsolutePath = string & { readonly [checked]: true };

/** The longest path that Linux takes, in bytes. */
const PATH_MAX = 4095;

/** Why `text` is no {@link AbsolutePath}, to be read after its name: "must be …"; undefined if it is one. */
export function pathFault(text: string): string | undefined {
  if (text.includes("\0")) return "holds a NUL byte";
  if (Buffer.byteLength(text) > PATH_MAX) return `is longer than ${PATH_MAX} bytes`;
  if (!text.startsWith("/")) return "must be an absolute path";
  const isNormal = text.slice(1).split("/").every((part) => part !== "" && part !== "." && part !== "..");
  return isNormal ? undefined : `must be a path without "." and "..", and without needless slashes`;
}

/** Whether `text` is one as it stands. */
export function isAbsolutePath(text: string): text is AbsolutePath {
  return pathFault(text) === undefined;
}

/** `text`, checked. Throws a RangeError that says what is wrong with it. */
export function absolutePath(text: string): AbsolutePath {
  if (!isAbsolutePath(text)) throw new RangeError(`The path ${quoted(text)} ${pathFault(text)}.`);
  return text;
}

/** Whether `path` lies in `folder`, however deep, by their names. */
export function isIn(path: string, folder: string): boolean {
  return path !== folder && path.startsWith(folder === "/" ? "/" : `${folder}/`);
}

/** Whether `path` is `folder`, or lies in it, by their names. */
export function isAtOrIn(path: string, folder: string): boolean {
  return path === folder || isIn(path, folder);
}

/** Whether `path` lies in one of many folders. As fast as it is deep, however many there are. */
export function isInAny(path: string, folders: ReadonlySet<string>): boolean {
  for (let slash = path.lastIndexOf("/"); slash > 0; slash = path.lastIndexOf("/", slash - 1)) {
    if (folders.has(path.slice(0, slash))) return true;
  }
  return false;
}

/** A value of somebody else's as it stands in a message: quoted, and not longer than a line. */
export function quoted(value: string): string {
  return JSON.stringify(value.length > 100 ? value.slice(0, 100) + "…" : value);
}
