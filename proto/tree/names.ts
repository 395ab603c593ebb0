/**
 * Names of files. A file system's names are bytes, mostly UTF-8; ours are strings, in which a byte that is no part of
 * UTF-8 stands as a lone surrogate (U+DC80 to U+DCFF for 0x80 to 0xFF, as Python's "surrogateescape" has it). No UTF-8
 * text holds one, so that every name has one spelling and comes back as it was.
 */
import { Buffer } from "node:buffer";

/** Something about a tree that no honest peer sends. The message is one sentence. */
export class TreeError extends Error {
  override readonly name = "TreeError";
}

/** The longest name and path of Linux, in bytes. */
const MAX_NAME_BYTES = 255;
const MAX_PATH_BYTES = 4096;

const strict = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** A name or path as a string. */
export function decodeName(bytes: Uint8Array): string {
  let ascii = true;
  for (let i = 0; i < bytes.length; i++) {
    if (bytes[i] > 0x7f) {
      ascii = false;
      break;
    }
  }
  if (ascii) return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).toString("latin1");
  try {
    return strict.decode(bytes);
  } catch {
    return decodeRaw(bytes);
  }
}

/** Decodes what it can, sequence by sequence. */
function decodeRaw(bytes: Uint8Array): string {
  let text = "";
  for (let at = 0; at < bytes.length;) {
    const first = bytes[at];
    const length = first < 0x80
      ? 1
      : first >= 0xc2 && first < 0xe0
      ? 2
      : first >= 0xe0 && first < 0xf0
      ? 3
      : first >= 0xf0 && first < 0xf5
      ? 4
      : 0;
    let part: string | undefined;
    if (length > 0 && at + length <= bytes.length) {
      try {
        part = strict.decode(bytes.subarray(at, at + length));
      } catch { /* not UTF-8 */ }
    }
    text += part ?? String.fromCharCode(0xdc00 + first);
    at += part === undefined ? 1 : length;
  }
  return text;
}

/** The bytes of a name or path. */
export function encodeName(name: string): Uint8Array {
  if (!isRaw(name)) return Buffer.from(name, "utf8");
  const parts: Uint8Array[] = [];
  let start = 0;
  for (let i = 0; i < name.length; i++) {
    if (!isEscape(name, i)) continue;
    parts.push(Buffer.from(name.slice(start, i), "utf8"), Uint8Array.of(name.charCodeAt(i) - 0xdc00));
    start = i + 1;
  }
  parts.push(Buffer.from(name.slice(start), "utf8"));
  return Buffer.concat(parts);
}

/** Whether the name holds bytes that are not UTF-8: no API of Deno can name such a file. */
export function isRaw(name: string): boolean {
  if (name.isWellFormed()) return false;
  for (let i = 0; i < name.length; i++) if (isEscape(name, i)) return true;
  return false;
}

function isEscape(name: string, i: number): boolean {
  const code = name.charCodeAt(i);
  if (code < 0xdc80 || code > 0xdcff) return false;
  const before = i > 0 ? name.charCodeAt(i - 1) : 0;
  return !(before >= 0xd800 && before < 0xdc00);
}

/** Throws a {@link TreeError} unless `path` is relative, and each of its names is one of a file within its folder. */
export function checkPath(path: string): void {
  const wrong = (why: string): never => {
    throw new TreeError(`the path ${JSON.stringify(path.slice(0, 200))} ${why}`);
  };
  if (path.length === 0) wrong("is empty");
  if (path.length > MAX_PATH_BYTES) wrong("is too long");
  for (let start = 0; start <= path.length;) {
    let end = path.indexOf("/", start);
    if (end < 0) end = path.length;
    const length = end - start;
    if (length === 0) wrong(start === 0 ? "is absolute" : "has an empty name");
    if (path.charCodeAt(start) === 0x2e && (length === 1 || (length === 2 && path.charCodeAt(start + 1) === 0x2e))) {
      wrong(`has "${path.slice(start, end)}" among its names`);
    }
    // At most three bytes for each UTF-16 unit: only then is counting needed.
    if (length * 3 > MAX_NAME_BYTES && encodeName(path.slice(start, end)).length > MAX_NAME_BYTES) {
      wrong("has a name that is too long");
    }
    start = end + 1;
  }
  if (path.includes("\0")) wrong("holds a NUL");
}
