import { createHash } from "node:crypto";
import { decisiveOptions } from "../../proto/bazel/startup_options.ts";

/**
 * A digest of the startup options that decide whether a warm server can be kept: SHA-256 in lowercase hex. The order of
 * options does not matter, but repetitions do. Empty for no options, and for a caller that takes any server: only
 * `--output_base=`.
 */
export function startupOptionsHash(startupOptions: readonly string[]): string {
  if (startupOptions.every((option) => option.startsWith("--output_base="))) return "";
  return createHash("sha256").update(decisiveOptions(startupOptions).join("\0"), "utf8").digest("hex");
}
