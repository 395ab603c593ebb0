/**
 * Decides which variables of the developer's environment go to the build server; it contains secrets. A client sends
 * all of them with each command, as `--client_env`. Passed on are:
 *
 * - what the user names: `--action_env=NAME`, `--host_action_env=NAME`, `--test_env=NAME`, `--repo_env=NAME` and
 *   `--run_env=NAME`, on the command line or in rc files. `NAME=value` sets that value regardless of the environment,
 *   so the environment's value is not sent;
 * - what RBS_CLIENT_ENV names: `AWS_PROFILE,GO*`, where `*` may end a name; `*` alone means all. It is for what BUILD
 *   files and repository rules request themselves (`env_inherit`, `environ`, `os.environ`);
 * - {@link ALWAYS}.
 *
 * Not sent, although Bazel's server reads them: TMPDIR (where local actions keep temporary files: a directory of the
 * laptop; without it they get /tmp), HOME (unless RBS_HOME_FILES asks for files in it) and NETRC (to find .netrc, which
 * is not there), JAVA_HOME and BAZEL_SH (programs of the laptop), http_proxy and similar (the laptop's proxy, often
 * with a password), DOCKER_* and others for programs that the server starts. `bazel run` executes on the laptop, with
 * the client's whole environment.
 */
import type { Buffer } from "node:buffer";
import { clientVariable, latin1, parseRunArguments, splitArguments, startsWith } from "./run_arguments.ts";

/** Options with a value of NAME, which takes the value from the client's environment, or NAME=value. */
export const NAMING = ["action_env", "host_action_env", "test_env", "repo_env", "run_env"];

/** Variables that Bazel itself takes from the client's environment by default, and that affect what is built. */
export const ALWAYS = [
  // Bazel's own --action_env, unless there is --incompatible_strict_action_env: both are in each action's environment,
  // and so in its key (4.2.3, BazelRuleClassProvider). A search path with missing directories does no harm.
  "PATH",
  "LD_LIBRARY_PATH",
  // Which compiler is used, and how: what the C++ toolchain's detection declares to read (tools/cpp/cc_configure.bzl),
  // without other systems' variables and the user's name. `CC=clang bazel build` must not silently build with gcc.
  "ABI_LIBC_VERSION",
  "ABI_VERSION",
  "BAZEL_COMPILER",
  "BAZEL_CONLYOPTS",
  "BAZEL_CXXOPTS",
  "BAZEL_DO_NOT_DETECT_CPP_TOOLCHAIN",
  "BAZEL_HOST_SYSTEM",
  "BAZEL_IGNORE_SYSTEM_HEADERS_VERSIONS",
  "BAZEL_LINKLIBS",
  "BAZEL_LINKOPTS",
  "BAZEL_LLVM_COV",
  "BAZEL_LLVM_PROFDATA",
  "BAZEL_TARGET_CPU",
  "BAZEL_TARGET_LIBC",
  "BAZEL_TARGET_SYSTEM",
  "BAZEL_USE_LLVM_NATIVE_COVERAGE",
  "CC",
  "CC_CONFIGURE_DEBUG",
  "CC_TOOLCHAIN_NAME",
  "CPLUS_INCLUDE_PATH",
  "GCOV",
  // Which versions of modules Bazel 6 and later accept although their registry has withdrawn them (YankedVersionsUtil).
  "BZLMOD_ALLOW_YANKED_VERSIONS",
  // The build's timestamp, for reproducible builds (BazelWorkspaceStatusModule).
  "SOURCE_DATE_EPOCH",
  // Ids chosen by a wrapper, so that it finds its build again (CommandEnvironment).
  "BAZEL_INTERNAL_INVOCATION_ID",
  "BAZEL_INTERNAL_BUILD_REQUEST_ID",
];

/**
 * Names files of the home directory, relative to it, that an agent without a shared disk gets: ".netrc:.gitconfig".
 */
export const HOME_FILES = "RBS_HOME_FILES";

const PREFIX = "--client_env=";

/**
 * A RunRequest's arguments without the variables that are not sent. Everything else is unchanged, byte for byte and in
 * order, including what the user typed, even if it looks the same.
 *
 * @param allow The value of RBS_CLIENT_ENV. @default its value in the client's environment
 */
export function filterClientEnv(
  args: Buffer[],
  allow: string = clientVariable(args, "RBS_CLIENT_ENV") ?? "",
): Buffer[] {
  const allowed = new Set(ALWAYS);
  for (const { value } of parseRunArguments(args, NAMING).options) if (!value.includes("=")) allowed.add(value);
  // The server looks for these files in HOME.
  if (clientVariable(args, HOME_FILES)) allowed.add("HOME");
  const beginnings: string[] = [];
  for (const name of allow.split(",").map((name) => name.trim()).filter((name) => name !== "")) {
    if (name.endsWith("*")) beginnings.push(name.slice(0, -1));
    else allowed.add(name);
  }
  const passes = (arg: Buffer) => {
    if (!startsWith(arg, PREFIX)) return true;
    // The name ends at the first "=" after the first character: it may start with one, as in shells on other systems.
    const variable = latin1(arg, PREFIX.length);
    const equals = variable.indexOf("=", 1);
    const name = equals < 0 ? variable : variable.slice(0, equals);
    return allowed.has(name) || beginnings.some((beginning) => name.startsWith(beginning));
  };
  const { command, own, typed } = splitArguments(args);
  return [...command ? [command] : [], ...own.filter(passes), ...typed];
}
