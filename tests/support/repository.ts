import { join } from "node:path";

/** The repository's absolute path. */
export const ROOT = join(import.meta.dirname!, "../..");

/** The programs that `deno task compile` made. */
export const PROGRAMS = {
  orchestrator: join(ROOT, "dist/orchestrator"),
  agent: join(ROOT, "dist/agent"),
  jbazel: join(ROOT, "dist/jbazel"),
  /** The value for Bazel's --server_javabase. */
  javabase: join(ROOT, "dist/javabase"),
  java: join(ROOT, "dist/javabase/bin/java"),
} as const;
