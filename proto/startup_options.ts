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
  return options.filter((option) => !VOLATILE.some((prefix) => option.startsWith(prefix))).sort();
}
