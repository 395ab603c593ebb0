import { isClientShellOption } from "./client_shell.ts";
import { pathFault, quoted } from "../base/absolute_path.ts";

/**
 * Options that a Bazel client ignores when it decides whether to keep a running server. Bazel 4.2.3 `blaze.cc`,
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
 * The value of the last `--name=value` in a Bazel server's arguments, or undefined. The start of the server's own
 * options is not determined: `-jar` marks it upstream, `-cp … Main` in Debian's packages, and no JVM option has such a
 * name.
 */
export function startupOption(options: readonly string[], name: string): string | undefined {
  const prefix = `--${name}=`;
  return options.findLast((option) => option.startsWith(prefix))?.slice(prefix.length);
}

/**
 * The options that decide whether a warm server can be kept, sorted: a client ignores their order, but counts
 * repetitions.
 */
export function decisiveOptions(options: readonly string[]): string[] {
  // A running server keeps what it has inherited, as with stock Bazel.
  const decides = (option: string) =>
    !isClientShellOption(option) && !VOLATILE.some((prefix) => option.startsWith(prefix));
  return options.filter(decides).sort();
}

/** Server options that name a path. */
const PATH_OPTIONS = [
  "output_base",
  "output_user_root",
  "install_base",
  "workspace_directory",
  "failure_detail_out",
  "default_system_javabase",
];

/** Those that a client passes as its user wrote them: possibly empty, or with a trailing slash. */
const AS_WRITTEN = ["output_user_root", "default_system_javabase"];

/**
 * Why a path in a server's options is not in normal form: one sentence, or undefined. Every occurrence is checked,
 * although the last one counts. A value in a separate argument is refused: a Bazel server would read it, but
 * {@link startupOption} does not.
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
