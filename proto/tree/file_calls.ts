/**
 * File operations for names of any bytes. Deno can name a file only in UTF-8: it shows other bytes as U+FFFD and then
 * cannot find the file. For such names, bash lists, stats, reads and writes.
 */
import { Buffer } from "node:buffer";
import type { RawInfo } from "./files.ts";
import { decodeName, encodeName, isRaw } from "./names.ts";

/** Maximum size of a file that bash reads, in bytes. */
const MAX_CONTENT = 256 << 20;
/** Maximum length of the names passed to bash in one call, in characters. Linux allows 2 MiB. */
const MAX_ARGUMENTS = 1 << 20;

/** The names in a directory. Throws Deno's errors. */
export function readdirSync(folder: string): string[] {
  if (isRaw(folder)) return listByBash(folder);
  const names: string[] = [];
  for (const { name } of Deno.readDirSync(folder)) {
    // U+FFFD is either part of the name or stands for bytes that Deno cannot show.
    if (name.includes("\ufffd")) return listByBash(folder);
    names.push(name);
  }
  return names;
}

/** Stats a file without following symlinks. Throws Deno's errors. */
export function lstatSync(path: string): RawInfo {
  if (isRaw(path)) {
    const info = lstatMany([path]).get(path);
    if (!info) throw new Deno.errors.NotFound("there is no such file");
    return info;
  }
  const info = infoOf(Deno.lstatSync(path));
  if (info.kind === "symlink") info.target = readlinkSync(path);
  return info;
}

/** Converts Deno's file information. */
export function infoOf(info: Deno.FileInfo): RawInfo {
  return {
    kind: info.isFile ? "file" : info.isDirectory ? "directory" : info.isSymlink ? "symlink" : "other",
    mode: info.mode ?? 0,
    size: info.size,
    mtimeMs: info.mtime?.getTime() ?? 0,
    ctimeMs: info.ctime?.getTime() ?? 0,
    ino: info.ino ?? 0,
    dev: info.dev,
    shared: info.isFile && (info.nlink ?? 1) > 1,
  };
}

function readlinkSync(path: string): string {
  try {
    const target = Deno.readLinkSync(path);
    if (!target.includes("\ufffd")) return target;
  } catch (e) {
    // Deno 2.9.6 throws this for a target with other bytes.
    if (!isNotUtf8(e)) throw e;
  }
  return readlinkByBash(path);
}

/** Whether Deno 2.9.6 could not read a target because of its bytes: it gives nothing but a text. */
function isNotUtf8(thrown: unknown): boolean {
  return /not valid UTF-8/.test(String(thrown));
}

/**
 * Runs a bash script that gets names as `$1`, `$2`, …, with each byte written as `\xHH` for `printf %b`: arguments must
 * be UTF-8, and no name may become part of the script.
 *
 * @returns its standard output. Throws NotFound for exit code 2, and for others an Error with the standard error.
 */
function bash(script: string, ...names: string[]): Buffer {
  const { code, stdout, stderr } = new Deno.Command("bash", {
    // Privileged mode: bash then ignores functions, options and startup files from the environment.
    args: ["-p", "-c", script, "bash", ...names.map(escaped)],
    // Bash then works on bytes instead of characters.
    env: { LC_ALL: "C" },
    stdin: "null",
  }).outputSync();
  if (code === 0) return Buffer.from(stdout.buffer, stdout.byteOffset, stdout.length);
  if (code === 2) throw new Deno.errors.NotFound("there is no such file");
  throw new Error(Buffer.from(stderr).toString("latin1").trim() || `bash ended with ${code}`);
}

function escaped(name: string): string {
  return Buffer.from(encodeName(name)).toString("hex").replace(/../g, "\\x$&");
}

function listByBash(folder: string): string[] {
  const script = `printf -v f %b "$1"; [[ -d $f ]] || exit 2; cd -- "$f" || exit 1
shopt -s nullglob dotglob
set -- *
(($# == 0)) || printf '%s\\0' "$@"`;
  return split(bash(script, folder)).map(decodeName);
}

/** Stats many files at once. Missing files are left out. */
export function lstatMany(paths: readonly string[]): Map<string, RawInfo> {
  const script = `printf '%b\\0' "$@" | xargs -0 stat --printf='%n\\0%f %s %.3Y %Z %i %d %h\\0' -- 2>/dev/null || true`;
  const infos = new Map<string, RawInfo>();
  let fields: Buffer[] = [], next: string[] = [], length = 0;
  const ask = () => {
    if (next.length > 0) fields = fields.concat(split(bash(script, ...next)));
    [next, length] = [[], 0];
  };
  for (const path of paths) {
    next.push(path);
    // Each byte takes four characters, and a UTF-16 unit is at most three bytes.
    if ((length += path.length * 12) > MAX_ARGUMENTS) ask();
  }
  ask();
  for (let i = 0; i + 1 < fields.length; i += 2) {
    const path = decodeName(fields[i]);
    const [mode, size, mtime, ctime, ino, dev, names] = fields[i + 1].toString("latin1").split(" ");
    const bits = parseInt(mode, 16);
    const kind = ({ 0o100000: "file", 0o040000: "directory", 0o120000: "symlink" } as const)[bits & 0o170000];
    try {
      infos.set(path, {
        kind: kind ?? "other",
        mode: bits,
        size: Number(size),
        mtimeMs: Math.round(Number(mtime) * 1000),
        ctimeMs: Number(ctime) * 1000,
        ino: Number(ino),
        dev: Number(dev),
        shared: kind === "file" && Number(names) > 1,
        target: kind === "symlink" ? readlinkByBash(path) : undefined,
      });
    } catch (e) {
      if (!(e instanceof Deno.errors.NotFound)) throw e;
    }
  }
  return infos;
}

function readlinkByBash(path: string): string {
  return decodeName(bash(`printf -v f %b "$1"; [[ -L $f ]] || exit 2; exec readlink -n -- "$f"`, path));
}

/** Reads a file. Throws Deno's errors. */
export function readFileSync(path: string): Uint8Array {
  return isRaw(path) ? readPartByBash(path, 0, MAX_CONTENT) : Deno.readFileSync(path);
}

/** Reads at most `length` bytes from `offset` of a file whose name is not UTF-8. Throws Deno's errors. */
export function readPartByBash(path: string, offset: number, length: number): Uint8Array {
  const script = `printf -v f %b "$1"; [[ -f $f && ! -L $f ]] || exit 2
exec < "$f" || exit 1
tail -c +${offset + 1} | head -c ${length}`;
  return bash(script, path);
}

/** Makes a directory. */
export function mkdirSync(path: string): void {
  if (isRaw(path)) bash(`printf -v f %b "$1"; exec mkdir -m 0755 -- "$f"`, path);
  else Deno.mkdirSync(path, { mode: 0o755 });
}

/** Makes a symlink. The target is not checked. */
export function symlinkSync(target: string, path: string): void {
  if (isRaw(path) || isRaw(target)) {
    bash(`printf -v t %b "$1"; printf -v f %b "$2"; exec ln -s -T -- "$t" "$f"`, target, path);
  } else Deno.symlinkSync(target, path);
}

/** Renames within a file system, replacing what is at `to`. */
export function renameSync(from: string, to: string): void {
  if (isRaw(from) || isRaw(to)) {
    bash(`printf -v a %b "$1"; printf -v b %b "$2"; exec mv -f -T -- "$a" "$b"`, from, to);
  } else Deno.renameSync(from, to);
}

/** Copies a file's content to a new name. */
export function copyFileSync(from: string, to: string): void {
  if (isRaw(from) || isRaw(to)) {
    bash(`printf -v a %b "$1"; printf -v b %b "$2"; exec cp -T -- "$a" "$b"`, from, to);
  } else Deno.copyFileSync(from, to);
}

/** Sets the permission bits of a file or directory. */
export function chmodSync(path: string, mode: number): void {
  if (isRaw(path)) bash(`printf -v f %b "$1"; exec chmod ${mode.toString(8)} -- "$f"`, path);
  else Deno.chmodSync(path, mode);
}

/** Removes a file, a symlink or, with `recursive`, a directory and its contents. */
export function removeSync(path: string, options: { recursive?: boolean } = {}): void {
  if (isRaw(path)) {
    bash(
      `printf -v f %b "$1"; [[ -e $f || -L $f ]] || exit 2; exec rm ${options.recursive ? "-rf" : "-f"} -- "$f"`,
      path,
    );
  } else Deno.removeSync(path, options);
}

/** Splits a script's output at NULs. A last field without a NUL counts. */
function split(output: Buffer): Buffer[] {
  const fields: Buffer[] = [];
  for (let start = 0; start < output.length;) {
    let end = output.indexOf(0, start);
    if (end < 0) end = output.length;
    fields.push(output.subarray(start, end));
    start = end + 1;
  }
  return fields;
}
