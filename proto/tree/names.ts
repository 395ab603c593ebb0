/**
 * Names of files as strings. A file system's names are bytes, mostly UTF-8. In our strings, a byte that is not part of
 * UTF-8 is a lone surrogate (U+DC80 to U+DCFF for 0x80 to 0xFF, like Python's "surrogateescape"). UTF-8 text contains
 * no lone surrogates, so every name has exactly one spelling and converts back unchanged.
 */
import { Buffer } from "node:buffer";

/** Error for tree data that no honest peer sends. The message is one sentence. */
export class TreeError extends Error {
  override readonly name = "TreeError";
}

/** Maximum length of a name and of a path in Linux, in bytes. */
const MAX_NAME_BYTES = 255;
const MAX_PATH_BYTES = 4095;

/** The code unit of an escaped byte is this plus the byte. */
const ESCAPE = 0xdc00;

const strict = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** Decodes a name or path. */
export function decodeName(bytes: Uint8Array): string {
  try {
    return strict.decode(bytes);
  } catch {
    return decodeRaw(bytes);
  }
}

/** Decodes sequence by sequence, escaping invalid bytes. */
function decodeRaw(bytes: Uint8Array): string {
  let text = "";
  for (let at = 0; at < bytes.length;) {
    const code = codePointAt(bytes, at);
    text += code === undefined ? String.fromCharCode(ESCAPE + bytes[at]) : String.fromCodePoint(code);
    at += code === undefined || code < 0x80 ? 1 : code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
  }
  return text;
}

/** The code point whose UTF-8 begins at `at`; undefined if there is none. */
function codePointAt(bytes: Uint8Array, at: number): number | undefined {
  const first = bytes[at];
  if (first < 0x80) return first;
  const following = first < 0xc2 ? 0 : first < 0xe0 ? 1 : first < 0xf0 ? 2 : first < 0xf5 ? 3 : 0;
  if (following === 0) return undefined;
  let code = first & (0x3f >> following);
  for (let i = 1; i <= following; i++) {
    // Beyond the end this is undefined, which also differs from 0x80.
    if ((bytes[at + i] & 0xc0) !== 0x80) return undefined;
    code = code << 6 | bytes[at + i] & 0x3f;
  }
  const least = [0x80, 0x800, 0x10000][following - 1];
  return code < least || code > 0x10ffff || (code >= 0xd800 && code < 0xe000) ? undefined : code;
}

/** Encodes a name or path. Throws a {@link TreeError} for a string that stands for no bytes. */
export function encodeName(name: string): Uint8Array {
  if (name.isWellFormed()) return Buffer.from(name, "utf8");
  const parts: Uint8Array[] = [];
  let start = 0;
  for (let i = 0; i < name.length; i++) {
    if (!isEscape(name, i)) continue;
    parts.push(encodeText(name.slice(start, i)), Uint8Array.of(name.charCodeAt(i) - ESCAPE));
    start = i + 1;
  }
  parts.push(encodeText(name.slice(start)));
  return Buffer.concat(parts);
}

function encodeText(text: string): Uint8Array {
  if (!text.isWellFormed()) throw new TreeError(`${JSON.stringify(text.slice(0, 200))} is the name of no file`);
  return Buffer.from(text, "utf8");
}

/** Whether a name has bytes that are not UTF-8. Deno cannot use such a name. */
export function isRaw(name: string): boolean {
  return !name.isWellFormed();
}

function isEscape(name: string, i: number): boolean {
  const code = name.charCodeAt(i);
  if (code < ESCAPE + 0x80 || code > ESCAPE + 0xff) return false;
  // The second half of a surrogate pair is not an escape.
  const before = i > 0 ? name.charCodeAt(i - 1) : 0;
  return !(before >= 0xd800 && before < 0xdc00);
}

/**
 * Throws a {@link TreeError} unless `path` is relative and every name in it is a valid file name other than "." and
 * "..".
 */
export function checkPath(path: string): void {
  const wrong = (why: string): never => {
    throw new TreeError(`the path ${JSON.stringify(path.slice(0, 200))} ${why}`);
  };
  if (path.length === 0) wrong("is empty");
  if (isLonger(path, MAX_PATH_BYTES)) wrong("is too long");
  for (let start = 0; start <= path.length;) {
    let end = path.indexOf("/", start);
    if (end < 0) end = path.length;
    const length = end - start;
    if (length === 0) wrong(start === 0 ? "is absolute" : "has an empty name");
    if (path.charCodeAt(start) === 0x2e && (length === 1 || (length === 2 && path.charCodeAt(start + 1) === 0x2e))) {
      wrong(`has "${path.slice(start, end)}" among its names`);
    }
    if (isLonger(path, MAX_NAME_BYTES, start, end)) wrong("has a name that is too long");
    start = end + 1;
  }
  if (path.includes("\0")) wrong("holds a NUL");
}

/** Whether a name or path, or the given part of it, is longer than `limit` bytes. */
export function isLonger(name: string, limit: number, start = 0, end = name.length): boolean {
  // A UTF-16 unit is one to three bytes, so few names need counting.
  const units = end - start;
  return units > limit || (units * 3 > limit && encodeName(name.slice(start, end)).length > limit);
}

/** The parent directory of `path`; "" for a single name. */
export function parent(path: string): string {
  return path.slice(0, Math.max(0, path.lastIndexOf("/")));
}
