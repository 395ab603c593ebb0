import { Buffer } from "node:buffer";

declare const checked: unique symbol;

/**
 * An absolute path in normal form: it starts with a slash and does not end with one; no component is empty, "." or
 * ".."; it has no NUL and is not too long for Linux. So, apart from symlinks, the text alone determines its place. "/"
 * itself is excluded. Only {@link isAbsolutePath} and {@link absolutePath} make one.
 */
export type AbsolutePath = string & { readonly [checked]: true };

/** Maximum length of a path in Linux, in bytes. */
const PATH_MAX = 4095;

/** Why `text` is not an {@link AbsolutePath}, to follow its name: "must be …"; undefined if it is one. */
export function pathFault(text: string): string | undefined {
  if (text.includes("\0")) return "holds a NUL byte";
  if (Buffer.byteLength(text) > PATH_MAX) return `is longer than ${PATH_MAX} bytes`;
  if (!text.startsWith("/")) return "must be an absolute path";
  const isNormal = text.slice(1).split("/").every((part) => part !== "" && part !== "." && part !== "..");
  return isNormal ? undefined : `must be a path without "." and "..", and without needless slashes`;
}

/** Whether `text` is an {@link AbsolutePath}. */
export function isAbsolutePath(text: string): text is AbsolutePath {
  return pathFault(text) === undefined;
}

/** Checks `text`. Throws a RangeError that says what is wrong. */
export function absolutePath(text: string): AbsolutePath {
  if (!isAbsolutePath(text)) throw new RangeError(`The path ${quoted(text)} ${pathFault(text)}.`);
  return text;
}

/** Whether `path` is below `folder`, at any depth, by name. */
export function isIn(path: string, folder: string): boolean {
  return path !== folder && path.startsWith(folder === "/" ? "/" : `${folder}/`);
}

/** Whether `path` is `folder` or below it, by name. */
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

/** Quotes a foreign value for a message, cut to the length of a line. */
export function quoted(value: string): string {
  return JSON.stringify(value.length > 100 ? value.slice(0, 100) + "…" : value);
}
