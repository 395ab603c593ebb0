/**
 * Which class-data archive fits a Bazel server.
 *
 * A JVM looks by itself whether an archive is of its own build and of the same jars, by their paths, sizes and times. It
 * does not look who wrote them, and times can be set. So the key holds what nobody can set: when the kernel saw a file
 * change last.
 */
import { createHash } from "node:crypto";
import { readdirSync, readFileSync, realpathSync, statSync } from "node:fs";
import { basename, dirname, join } from "node:path";

/** How a Bazel server is started. Paths are this machine's. */
export interface ServerStart {
  /** The program `java`. */
  readonly java: string;
  readonly installBase: string;
  /** Its arguments. */
  readonly argv: readonly string[];
}

/** Archives of an earlier form fit no more: what is in them, or how they are made, has changed. */
const FORM = 1;
/** The first JDK that makes archives of a program's own classes by itself (JEP 350). */
const FIRST_JDK = 13;
/** A file that is younger may have been changed twice at what its time says is one moment. Milliseconds. */
const SETTLED_MS = 2_000;
/** Of more files, an install base or a JDK is none that is known here. */
const MAX_FILES = 20_000;

/** What comes after it are the class path and the program's own arguments. */
const CLASS_PATH = ["-jar", "-cp", "-classpath", "--class-path"];
/** Options with which a JVM uses another archive, or none; or that bring code along, which an archive does not know. */
const OTHERS = [
  /^@/,
  /^-Xshare|^-XX:[^=]*(Shared|Archive|AOT|CDS)/,
  /^-XX:(Flags|VMOptionsFile)=|^-XX:\+?ReadVMOptionsFile/,
  /^-(javaagent|agentlib|agentpath|Xrun|Xbootclasspath|Xdebug)/,
  /^(--(patch-module|upgrade-module-path|limit-modules|module-path|module)|-p|-m)(=|$)/,
];
/** Options that say where something is written, or are the program's: no archive depends on them. */
const ELSEWHERE = [
  /^-D/,
  /^-Xlog|^-verbose/,
  /^-XX:(HeapDumpPath|ErrorFile|LogFile|OnError|OnOutOfMemoryError|StartFlightRecording|FlightRecorderOptions)=/,
];

/**
 * The name of the archive that fits: the same for servers to which the same fits, 32 hex digits. Undefined: there is none for
 * such a server, since its JVM makes none, its user has said otherwise, or its files are too young to be told apart.
 */
export function archiveKey(start: ServerStart, now: () => number = Date.now): string | undefined {
  const options = jvmOptions(start.argv);
  if (!options || options.some((option) => OTHERS.some((other) => other.test(option)))) return undefined;
  try {
    const home = javaHome(start.java);
    if (!makesArchives(home)) return undefined;
    const files = [
      ...identify(home, ["bin", "lib", "conf"], ["release", "lib/modules", "lib/server/libjvm.so"]),
      ...identify(start.installBase, ["."], []),
      // A JVM passes over what is not there, and so do its archives.
      ...classPath(start.argv).filter(isThere).map(identity),
    ];
    if (files.some(({ changedMs }) => changedMs > now() - SETTLED_MS)) return undefined;
    const decisive = options.filter((option) => !ELSEWHERE.some((elsewhere) => elsewhere.test(option)));
    const all = [FORM, decisive, files.map((file) => Object.values(file))];
    return createHash("sha256").update(JSON.stringify(all)).digest("hex").slice(0, 32);
  } catch {
    // Something is not there that such a server has: so it is none, or starts nowhere.
    return undefined;
  }
}

/** The arguments without options that write files which only the server's own namespace has. */
export function withoutWrites(argv: readonly string[]): string[] {
  const count = jvmOptions(argv)?.length ?? 0;
  return argv.filter((option, at) =>
    at >= count || option.startsWith("-D") || !ELSEWHERE.some((other) => other.test(option))
  );
}

/** The folder of the JDK whose `java` this is. Throws what the disk throws. */
export function javaHome(java: string): string {
  return dirname(dirname(realpathSync(java)));
}

/** The arguments that are the JVM's; undefined: it is not seen where they end. */
function jvmOptions(argv: readonly string[]): readonly string[] | undefined {
  const end = argv.findIndex((word) => CLASS_PATH.includes(word));
  return end < 0 ? undefined : argv.slice(0, end);
}

function classPath(argv: readonly string[]): string[] {
  const at = argv.findIndex((word) => CLASS_PATH.includes(word));
  return argv[at + 1].split(":");
}

/** Whether this JDK makes archives of a program's classes, as its `release` says. */
function makesArchives(home: string): boolean {
  const release = readFileSync(join(home, "release"), "utf8");
  const value = (name: string) => new RegExp(`^${name}="([^"]*)"`, "m").exec(release)?.[1];
  const version = Number(/^\d+/.exec(value("JAVA_VERSION") ?? "")?.[0] ?? 0);
  return version >= FIRST_JDK && (value("JVM_VARIANT") ?? "Hotspot").toLowerCase() === "hotspot";
}

interface Identity {
  readonly path: string;
  readonly device: number;
  readonly inode: number;
  readonly size: number;
  readonly modifiedMs: number;
  /** Whole seconds: Deno knows no more. */
  readonly changedMs: number;
}

function identity(path: string): Identity {
  const { dev, ino, size, mtimeMs, ctimeMs } = statSync(path);
  return { path, device: dev, inode: ino, size, modifiedMs: mtimeMs, changedMs: ctimeMs };
}

/**
 * All files of a folder of programs by which one is told from another: all in `folders`, below it; only `some` where no
 * program of a session can write.
 */
function identify(home: string, folders: readonly string[], some: readonly string[]): Identity[] {
  if (isOutOfReach(home)) return some.map((name) => identity(join(home, name)));
  const found: Identity[] = [];
  const visit = (folder: string) => {
    for (const entry of readdirSync(folder, { withFileTypes: true })) {
      const path = join(folder, entry.name);
      if (entry.isDirectory()) visit(path);
      // A link that leads nowhere is nobody's.
      else if (isThere(path)) found.push(identity(path));
      if (found.length > MAX_FILES) throw new RangeError(`${basename(home)} has too many files`);
    }
  };
  for (const folder of folders) if (isThere(join(home, folder))) visit(join(home, folder));
  return found.sort((a, b) => a.path < b.path ? -1 : 1);
}

function isThere(path: string): boolean {
  return statSync(path, { throwIfNoEntry: false }) !== undefined;
}

/** Whether a folder is root's in /usr, where agents let no session write. */
function isOutOfReach(path: string): boolean {
  const real = realpathSync(path);
  if (!real.startsWith("/usr/")) return false;
  for (let folder = real; folder !== "/"; folder = dirname(folder)) {
    const { uid, mode } = statSync(folder);
    if (uid !== 0 || (mode & 0o022) !== 0) return false;
  }
  return true;
}
