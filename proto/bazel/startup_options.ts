import { isClientShellOption } from "./client_shell.ts";
import { pathFault, quoted } from "../base/absolute_path.ts";

/**
 * Options that a Bazel client ignores when it decides whether a running server can be kept. Bazel 4.2.3 `blaze.cc`,
 * `AreStartupOptionsDifferent`; the last two since 9.0.
 */
const VOLATILE = [
  "--option_sources=",
  "--max_idle_secs=",
  "--connect_timeout_secs=",
  "--local_startup_timeout_secs=",
  "--client_debug=",
  "--preemptible=",
  "-XX:HeapDumpPath=",
];

/**
 * The value of the last `--name=value` in a Bazel server's argument vector, or undefined. Where the server's own options
 * begin is not looked for: `-jar` marks it upstream, `-cp … Main` in Debian's packages, and no JVM option has such a name.
 */
export function startupOption(options: readonly string[], name: string): string | undefined {
  const prefix = `--${name}=`;
  return options.findLast((option) => option.startsWith(prefix))?.slice(prefix.length);
}

/**
 * The options that decide whether a warm server can be kept, sorted: their order does not matter to a client, how often
 * each stands there does.
 */
export function decisiveOptions(options: readonly string[]): string[] {
  // A server that runs keeps what it has inherited, as with stock Bazel.
  const decides = (option: string) =>
    !isClientShellOption(option) && !VOLATILE.some((prefix) => option.startsWith(prefix));
  return options.filter(decides).sort();
}

/** Options of a Bazel server that name a path. */
const PATH_OPTIONS = [
  "output_base",
  "output_user_root",
  "install_base",
  "workspace_directory",
  "failure_detail_out",
  "default_system_javabase",
];

/** Those that a client passes on as its user wrote them, with a slash at the end perhaps, or empty. */
const AS_WRITTEN = ["output_user_root", "default_system_javabase"];

/**
 * Why a path that a Bazel server's options name is none of normal form: one sentence, or undefined. Every occurrence is
 * looked at, although the last one counts. A value that is an argument of its own is refused: a Bazel server would read it,
 * and {@link startupOption} does not.
 */
export function startupPathFault(options: readonly string[]): string | undefined {
  for (const name of PATH_OPTIONS) {
    if (options.includes(`--${name}`)) return `The startup option --${name} needs its value behind a "=".`;
    const prefix = `--${name}=`;
    for (const option of options) {
      if (!option.startsWith(prefix)) continue;
      let value = option.slice(prefix.length);
      if (AS_WRITTEN.includes(name)) {
        if (value === "") continue;
        value = value.replace(/\/$/, "");
      }
      const fault = pathFault(value);
      if (fault) return `The startup option --${name} ${fault}, but it is ${quoted(value)}.`;
    }
  }
  return undefined;
}
