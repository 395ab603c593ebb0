import { basename } from "node:path";
import { isClientShellOption } from "../../proto/bazel/client_shell.ts";
import { startupOption } from "../../proto/bazel/startup_options.ts";

/**
 * The server's arguments among a session's startup options: all of them, or none for a session whose first caller takes
 * any server and has named at most an output base.
 */
export function serverOptions(startupOptions: readonly string[]): readonly string[] {
  if (startupOption(startupOptions, "install_base") === undefined) return [];
  return startupOptions.filter((option) => !isClientShellOption(option));
}

/** argv[0] of a workspace's Bazel server, as the stock client composes it. */
export function serverName(workspace: string): string {
  return `bazel(${basename(workspace)})`;
}

/** Options with the output base's path, which change if it has another path in the session. */
const OUTPUT_BASE_OPTIONS = [
  "--output_base=",
  "--failure_detail_out=",
  "-XX:HeapDumpPath=",
  "-Djava.util.logging.config.file=",
];

/** Replaces the output base `from` by `to` in `options`. */
export function withOutputBase(options: readonly string[], from: string, to: string): string[] {
  return options.map((option) => {
    const prefix = OUTPUT_BASE_OPTIONS.find((p) => option.startsWith(p));
    return prefix === undefined ? option : prefix + movePath(option.slice(prefix.length), from, to);
  });
}

/**
 * Replaces the install base `from` by `to` in `options`: in the flag itself, the jars and the native library's path.
 */
export function withInstallBase(options: readonly string[], from: string, to: string): string[] {
  const library = "-Djava.library.path=";
  return options.map((option) => {
    if (option.startsWith("--install_base=")) return `--install_base=${movePath(option.slice(15), from, to)}`;
    if (option.startsWith(library)) return library + movePath(option.slice(library.length), from, to);
    // The argument of -jar FILE, or -cp FILE:FILE.
    return option.startsWith("/") ? option.split(":").map((path) => movePath(path, from, to)).join(":") : option;
  });
}

function movePath(path: string, from: string, to: string): string {
  return path === from || path.startsWith(from + "/") ? to + path.slice(from.length) : path;
}

/** `options` for a server that never ends by itself: the agent ends it. Changes only the server's flag. */
export function withoutIdleExit(options: readonly string[]): string[] {
  return options.map((option) => option.startsWith("--max_idle_secs=") ? "--max_idle_secs=0" : option);
}

/** The flag by which a server locks its install base against garbage collection (Bazel 8.1). */
const LOCK = "lock_install_base";

/** Whether a server with these options opens `<install base>.lock` for writing, and ends if it cannot. */
export function locksInstallBase(options: readonly string[]): boolean {
  return options.some((option) => option === `--${LOCK}` || option.startsWith(`--${LOCK}=`));
}

/** `options` without that lock. */
export function withoutInstallBaseLock(options: readonly string[]): string[] {
  return options.filter((option) => !locksInstallBase([option]));
}
