/** Variables that the launcher sets for Deno, and not the user for Bazel. */
const LAUNCHER_VARIABLES = new Set(["DENO_DIR", "DENO_NO_UPDATE_CHECK"]);
/** Prefix of the user's variables that a launcher hides from Deno, such as NODE_EXTRA_CA_CERTS. */
export const HIDDEN_PREFIX = "RBS_USER_ENV_";

/**
 * The environment of a Bazel command: the user's whole environment, since actions, repository rules and programs under
 * `bazel run` may read any of it, without RBS's own variables. (Deno cannot read variables whose names or values are
 * not UTF-8; they are left out.)
 */
export function commandEnvironment(env: Record<string, string>): Record<string, string> {
  const entries = Object.entries(env);
  return Object.fromEntries([
    ...entries.filter(([name]) => !name.startsWith("RBS_") && !LAUNCHER_VARIABLES.has(name)),
    ...entries.filter(([name]) => name.startsWith(HIDDEN_PREFIX))
      .map(([name, value]) => [name.slice(HIDDEN_PREFIX.length), value]),
  ]);
}

/**
 * The environment for a local program. Deno passes the dynamic linker's variables only if it may run every program.
 */
export function withoutLinkerVariables(env: Record<string, string>): Record<string, string> {
  return Object.fromEntries(Object.entries(env).filter(([name]) => !isLinkerVariable(name)));
}

/** LD_LIBRARY_PATH, LD_PRELOAD and the like. */
export const isLinkerVariable = (name: string): boolean => /^(LD|DYLD)_/.test(name);
