import { createHash } from "node:crypto";

/**
 * Options that a Bazel client ignores when it decides whether a running server can be kept
 * (Bazel `blaze.cc`, `AreStartupOptionsDifferent`; the last two since 9.0).
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
 * A digest of the startup options that decide whether a warm server can be kept: SHA-256 in lowercase hex. The order
 * of options does not matter, how often each stands there does. Empty for no options, and for those of a caller that takes
 * any server: nothing but `--output_base=`.
 */
export function startupOptionsHash(startupOptions: readonly string[]): string {
  if (startupOptions.every((option) => option.startsWith("--output_base="))) return "";
  const decisive = startupOptions.filter((option) => !VOLATILE.some((prefix) => option.startsWith(prefix)));
  return createHash("sha256").update(decisive.sort().join("\0"), "utf8").digest("hex");
}

/** The value of the last `--name=value` among startup options, or undefined. */
export function startupOption(startupOptions: readonly string[], name: string): string | undefined {
  return startupOptions.findLast((option) => option.startsWith(`--${name}=`))?.slice(name.length + 3);
}
