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
const MAX_PATH_BYTES = 4095;

/** What an escaped byte is counted from. */
const ESCAPE = 0xdc00;

const strict = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** A name or path as a string. */
export function decodeName(bytes: Uint8Array): string {
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
    const code = codePointAt(bytes, at);
    text += code === undefined ? String.fromCharCode(ESCAPE + bytes[at]) : String.fromCodePoint(code);
    at += code === undefined || code < 0x80 ? 1 : code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
  }
  return text;
}

/** The character whose UTF-8 begins at `at`, if one does. */
function codePointAt(bytes: Uint8Array, at: number): number | undefined {
  const first = bytes[at];
  if (first < 0x80) return first;
  const following = first < 0xc2 ? 0 : first < 0xe0 ? 1 : first < 0xf0 ? 2 : first < 0xf5 ? 3 : 0;
  if (following === 0) return undefined;
  let code = first & (0x3f >> following);
  for (let i = 1; i <= following; i++) {
    // Beyond the end: undefined, which is not 0x80 either.
    if ((bytes[at + i] & 0xc0) !== 0x80) return undefined;
    code = code << 6 | bytes[at + i] & 0x3f;
  }
  const least = [0x80, 0x800, 0x10000][following - 1];
  return code < least || code > 0x10ffff || (code >= 0xd800 && code < 0xe000) ? undefined : code;
}

/** The bytes of a name or path. Throws a {@link TreeError} for a string that is none. */
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

/** Whether the name holds bytes that are not UTF-8: no API of Deno can name such a file. */
export function isRaw(name: string): boolean {
  return !name.isWellFormed();
}

function isEscape(name: string, i: number): boolean {
  const code = name.charCodeAt(i);
  if (code < ESCAPE + 0x80 || code > ESCAPE + 0xff) return false;
  // Not the second half of a character beyond U+FFFF.
  const before = i > 0 ? name.charCodeAt(i - 1) : 0;
  return !(before >= 0xd800 && before < 0xdc00);
}

/** Throws a {@link TreeError} unless `path` is relative, and each of its names is one of a file within its folder. */
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

/** Whether a name or path, or a part of it, has more than `limit` bytes. */
export function isLonger(name: string, limit: number, start = 0, end = name.length): boolean {
  // One to three bytes for each UTF-16 unit: few names need counting.
  const units = end - start;
  return units > limit || (units * 3 > limit && encodeName(name.slice(start, end)).length > limit);
}

/** The path of the folder that holds `path`; "" of a name alone. */
export function parent(path: string): string {
  return path.slice(0, Math.max(0, path.lastIndexOf("/")));
}
