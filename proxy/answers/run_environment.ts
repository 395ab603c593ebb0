/**
 * Which variables an agent may set for the program that `bazel run` executes on this machine:
 *
 * - those that Bazel itself sets for `run`, and for tests (see {@link BAZELS_OWN});
 * - those in the user's options or environment, with exactly that value;
 * - those that RBS_CLIENT_ENV or options name (`--test_env=NAME`): the user chose them;
 * - those of a target's own `env`: any other name, for a program that is an output itself. A command of the user
 *   (`--run_under`) gets none of them.
 *
 * A target may not set variables that make a shell, a linker or an interpreter load code ({@link LOADS_CODE}).
 *
 * Text is latin1.
 */
import type { Buffer } from "node:buffer";
import {
  allValues,
  clientVariable,
  latin1,
  parseRunArguments,
  splitArguments,
  startsWith,
} from "../arguments/run_arguments.ts";
import { isAtOrIn } from "../../proto/base/absolute_path.ts";

/** Options that name a variable, or set NAME=value. HEAD's `=NAME` removes one. */
const NAMING = ["action_env", "host_action_env", "test_env", "repo_env", "run_env"];

/** From `RunCommand`, `StandaloneTestStrategy`, `TestPolicy` and `TestRunnerAction`, from 2.1 to HEAD of 2026. */
const BAZELS_OWN = new RegExp(
  "^(" + [
    "BUILD_EXECROOT|BUILD_ID|RUNFILES_DIR|RUNFILES_MANIFEST_FILE|RUNFILES_MANIFEST_ONLY|JAVA_RUNFILES|PYTHON_RUNFILES",
    "RUN_UNDER_RUNFILES|RUNTEST_PRESERVE_CWD|PERSISTENT_TEST_RUNNER|EXPERIMENTAL_SPLIT_XML_GENERATION|XML_OUTPUT_FILE",
    "TESTBRIDGE_TEST_ONLY|TESTBRIDGE_TEST_RUNNER_FAIL_FAST|TZ|BAZEL_TEST|COVERAGE|IS_COVERAGE_SPAWN",
    "SPLIT_COVERAGE_POST_PROCESSING|(TEST|COVERAGE|GTEST)_[A-Z0-9_]+",
  ].join("|") + ")$",
);

/** Bazel's default search path, used if it takes none from the client (`BazelRuleClassProvider`). */
const DEFAULT_PATHS = ["/bin:/usr/bin:/usr/local/bin", "/bin:/usr/bin"];

/**
 * Variables that make the dynamic linker, the C library, a shell, an interpreter or a tool load or execute something.
 */
const LOADS_CODE = new RegExp(
  "^(" + [
    "(LD|DYLD|BASH|LUA)_.*|GLIBC_TUNABLES|GCONV_PATH|LOCPATH|NLSPATH",
    "PATH|CDPATH|ENV|IFS|PS[0-4]|HOME|SHELL|SHELLOPTS|BASHOPTS|PROMPT_COMMAND|ZDOTDIR|FPATH",
    "PYTHON(PATH|HOME|STARTUP|USERBASE|BREAKPOINT|WARNINGS|PYCACHEPREFIX)|PERL5?(LIB|OPT|DB)|RUBY(LIB|OPT)",
    "NODE_(OPTIONS|PATH)|(JAVA_TOOL|JDK_JAVA|_JAVA)_OPTIONS|JAVA_HOME|CLASSPATH",
    "GIT_(SSH.*|EXEC_PATH|ASKPASS|.*EDITOR|PAGER|EXTERNAL_DIFF|PROXY_COMMAND|CONFIG.*|TEMPLATE_DIR)",
    "EDITOR|VISUAL|PAGER|MANPAGER|BROWSER|LESSOPEN|LESSCLOSE|(SSH|SUDO)_ASKPASS",
  ].join("|") + ")$",
  "s",
);

/** The names that a shell accepts; bash treats some others as functions. */
const IS_NAME = /^[A-Za-z_][A-Za-z0-9_]*$/;

/** Where a command is given. */
export interface RunPlace {
  /** In latin1. */
  workspace: string;
  cwd: string;
}

/** Decides about the variables of one command. */
export class RunEnvironment {
  readonly #args: readonly Buffer[];
  readonly #place: RunPlace;
  /** NAME=value from options. */
  readonly #given = new Set<string>();
  /** Names in options. */
  readonly #named = new Set<string>();
  /** Names in RBS_CLIENT_ENV, possibly with "*" at the end. */
  readonly #allowed: readonly string[];

  /** @param args The RunRequest's arguments, as the client sent them. */
  constructor(args: readonly Buffer[], place: RunPlace) {
    this.#args = args;
    this.#place = place;
    const { options } = parseRunArguments(args, NAMING);
    for (const value of NAMING.flatMap((name) => allValues(options, name))) {
      if (value.includes("=", 1)) this.#given.add(value);
      this.#named.add(value.replace(/^=/, "").replace(/=.*$/s, ""));
    }
    // "*" alone sends everything to the agent; it does not accept everything from there.
    this.#allowed = (clientVariable(args, "RBS_CLIENT_ENV") ?? "").split(",").map((name) => name.trim())
      .filter((name) => name !== "" && name !== "*");
  }

  /**
   * Whether the program may get this variable. @param forUsersCommand The variable reaches `--run_under`'s command
   * first.
   */
  maySet({ name, value }: { name: string; value: string }, forUsersCommand: boolean): boolean {
    if (!IS_NAME.test(name)) return false;
    const { workspace, cwd } = this.#place;
    if (name === "BUILD_WORKSPACE_DIRECTORY") return value === workspace;
    if (name === "BUILD_WORKING_DIRECTORY") return value === cwd || isAtOrIn(value, workspace);
    if (BAZELS_OWN.test(name)) return true;
    if (name === "PATH" && DEFAULT_PATHS.includes(value)) return true;
    if (this.#given.has(`${name}=${value}`) || clientVariable(this.#args, name) === value) return true;
    if (this.#allowed.some((one) => one.endsWith("*") ? name.startsWith(one.slice(0, -1)) : name === one)) return true;
    if (LOADS_CODE.test(name)) return false;
    return this.#named.has(name) || !forUsersCommand;
  }

  /**
   * Whether a variable may be removed from the program's environment: Bazel clears those of an outer `run` or test.
   */
  mayClear(name: string): boolean {
    return BAZELS_OWN.test(name) || this.#named.has(name);
  }
}

/** Where the user called the client, in latin1. */
export function clientCwd(args: readonly Buffer[]): string | undefined {
  const found = splitArguments(args).own.findLast((arg) => startsWith(arg, "--client_cwd="));
  return found && latin1(found, "--client_cwd=".length);
}
