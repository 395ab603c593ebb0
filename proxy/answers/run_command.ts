/**
 * What `bazel run` may execute on this machine: an output of the agent, as the user's command line asks for it, and
 * nothing else. The forms are those of Bazel 2.1 to HEAD of 2026 (`RunCommand.java`, `RunCommandLine.java`):
 *
 *     [output, word…]
 *     [SHELL, "-c", "output word…"]
 *     [SHELL, "-c", "SHELL -c 'PREFIX output word…'"]     --run_under=PREFIX; since 8 without the outer shell
 *     [SHELL, "-c", "external/bazel_tools/tools/test/test-setup.sh word…"]     a test, in the execroot
 *
 * An output is a file in the execroot or an external repository of this output base that was copied here. Its content
 * is the agent's choice: that is what `run` is for. But only the output is executed, in the place and under the command
 * that the user chose, and with the user's environment.
 */
import type { Buffer } from "node:buffer";
import { normalize } from "node:path";
import {
  allValues,
  clientVariable,
  latin1,
  parseRunArguments,
  resolvePath,
  splitArguments,
} from "../arguments/run_arguments.ts";
import type { ExecRequest } from "./exec_request.ts";
import { quoted } from "./refusal.ts";
import { clientCwd, RunEnvironment } from "./run_environment.ts";
import { shellWords, wordsAfterPrefix } from "./shell_words.ts";
import { isAtOrIn } from "../../proto/base/absolute_path.ts";

/** The shell of `run` without an option for it (`ShToolchain`, `ShellConfiguration`). */
const DEFAULT_SHELL = "/bin/bash";

/**
 * The program that executes a test, relative to the execroot. With bzlmod, and with siblings, the repository has other
 * names.
 */
const TEST_SETUP = /^(external\/|\.\.\/)bazel_tools[+~]?\/tools\/test\/(test-setup|generate-xml|collect_coverage)\.sh$/;

/** What is known of a `run` command on this machine. */
export interface RunOptions {
  /** The RunRequest's arguments, as the client sent them. */
  args: readonly Buffer[];
  /** Absolute path in latin1, like all paths here. */
  workspace: string;
  /** The session's output base by all its paths: this machine's, and without a mount namespace also the storage's. */
  outputBases: readonly string[];
  /** Whether a path in the execroot or an external repository was copied here, or contains something that was. */
  isHome(path: string): boolean;
}

/**
 * Why a request must not reach the client, completing "wants …"; undefined if it may.
 *
 * @returns `remedy`: what the user can do about it, if the agent may be honest.
 */
export function objection(request: ExecRequest, options: RunOptions): { what: string; remedy?: string } | undefined {
  return new RunCommand(request, options).objection();
}

class RunCommand {
  readonly #request: ExecRequest;
  readonly #options: RunOptions;
  readonly #cwd: string;
  readonly #runUnder: string | undefined;
  readonly #shells: ReadonlySet<string>;

  constructor(request: ExecRequest, options: RunOptions) {
    const { args, workspace } = options;
    this.#request = request;
    this.#options = options;
    this.#cwd = clientCwd(args) || workspace;
    const named = parseRunArguments(args, ["run_under", "shell_executable"]).options;
    this.#runUnder = allValues(named, "run_under").at(-1) || undefined;
    const shells = [allValues(named, "shell_executable").at(-1), clientVariable(args, "BAZEL_SH"), DEFAULT_SHELL];
    this.#shells = new Set(shells.filter((shell) => shell !== undefined).filter((shell) => shell.startsWith("/")));
  }

  objection(): { what: string; remedy?: string } | undefined {
    const { workingDirectory, argv, environment, cleared, script, replaced } = this.#request;
    if (!this.#isPlace(workingDirectory)) {
      return {
        what: `a program executed in ${quoted(workingDirectory)}, which is no folder of outputs that came home`,
      };
    }
    if (!this.#isRun(argv)) {
      const prefix = this.#runUnder === undefined ? "" : ` under ${quoted(this.#runUnder)}`;
      return { what: `${quoted(argv.join(" "))} executed, which is no output that came home${prefix}` };
    }
    const variables = new RunEnvironment(this.#options.args, { workspace: this.#options.workspace, cwd: this.#cwd });
    const forUsersCommand = this.#runUnder !== undefined && !isLabel(this.#runUnder);
    const set = new Set<string>();
    for (const variable of environment) {
      if (!set.has(variable.name) && variables.maySet(variable, forUsersCommand)) {
        set.add(variable.name);
        continue;
      }
      const name = quoted(variable.name);
      return {
        what: `the variable ${name} set for a program on this machine`,
        remedy: `if the target sets it, allow it with RBS_CLIENT_ENV=${variable.name.replace(/[^\w]/g, "?")}`,
      };
    }
    const taken = cleared.find((name) => !variables.mayClear(name));
    if (taken !== undefined) return { what: `the variable ${quoted(taken)} taken from a program on this machine` };
    if (script && !this.#isNamed(script.path)) {
      return { what: `the script ${quoted(script.path)} written, which --script_path does not name` };
    }
    const odd = replaced.find(({ value }) => !this.#isReplaceable(value));
    if (odd) return { what: `${quoted(odd.value)} replaced in a command line` };
  }

  /** A directory of outputs; or the user's working directory or the workspace, for a file without runfiles. */
  #isPlace(folder: string): boolean {
    if (folder === this.#cwd || folder === this.#options.workspace) return true;
    return this.#isOutput(folder);
  }

  #isRun(argv: readonly string[]): boolean {
    if (argv.length === 0) return false;
    if (this.#isExecutable(argv[0])) return this.#runUnder === undefined;
    if (argv.length !== 3 || !this.#shells.has(argv[0]) || argv[1] !== "-c") return false;
    return this.#isCommandLine(argv[2]);
  }

  #isCommandLine(text: string): boolean {
    const words = shellWords(text);
    // A test's own program puts --run_under's command before the test.
    if (words && this.#isTestSetup(words[0])) return true;
    if (this.#runUnder === undefined) return words !== undefined && this.#isExecutable(words[0]);
    const [shell, option, inner] = words ?? [];
    if (words?.length === 3 && this.#shells.has(shell) && option === "-c") return this.#isUnder(inner);
    return this.#isUnder(text);
  }

  /** The command line of `--run_under`: the user's command, or an executable, followed by the executable. */
  #isUnder(text: string): boolean {
    const prefix = this.#runUnder!;
    if (!isLabel(prefix)) {
      if (!text.startsWith(`${prefix} `)) return false;
      const words = wordsAfterPrefix(text.slice(prefix.length + 1));
      return words !== undefined && this.#isExecutable(words[0]);
    }
    const words = wordsAfterPrefix(text);
    return words !== undefined && words.length >= 2 && this.#isExecutable(words[0]) &&
      words.slice(1).some((word) => this.#isExecutable(word));
  }

  /** An output, or a file of the workspace that the user named as the target. */
  #isExecutable(path: string): boolean {
    return this.#isOutput(path) || this.#isTarget(path);
  }

  #isOutput(path: string): boolean {
    if (!isNormal(path)) return false;
    const { outputBases, isHome } = this.#options;
    return outputBases.some((base) => ["execroot", "external"].some((name) => path.startsWith(`${base}/${name}/`))) &&
      isHome(path);
  }

  #isTestSetup(word: string): boolean {
    const { workingDirectory } = this.#request;
    return TEST_SETUP.test(word) && this.#isOutput(workingDirectory) &&
      this.#options.outputBases.some((base) => dirname(workingDirectory) === `${base}/execroot`) &&
      this.#options.isHome(normalize(`${workingDirectory}/${word}`));
  }

  /** `bazel run //tools:deploy.sh` executes the source file itself. */
  #isTarget(path: string): boolean {
    const { args, workspace } = this.#options;
    if (!isNormal(path) || !isAtOrIn(path, workspace)) return false;
    const typed = splitArguments(args).typed.map((arg) => latin1(arg));
    const end = typed.indexOf("--");
    return typed.slice(0, end < 0 ? undefined : end).some((word) => {
      if (word.startsWith("-")) return false;
      const label = word.replace(/^@{0,2}(?=\/\/)/, "");
      const name = label.replace(/^\/\//, "").replace(":", "/");
      return normalize(`${label.startsWith("//") ? workspace : this.#cwd}/${name}`) === path;
    });
  }

  #isNamed(script: string): boolean {
    const { args, workspace } = this.#options;
    const named = allValues(parseRunArguments(args, ["script_path"]).options, "script_path").at(-1);
    return named !== undefined &&
      resolvePath(script, this.#cwd, workspace) === resolvePath(named, this.#cwd, workspace);
  }

  /** Bazel names directories: of the output base, of the workspace and in it, and of test logs in the execroot. */
  #isReplaceable(value: string): boolean {
    const { outputBases, workspace } = this.#options;
    return outputBases.includes(value) || value === this.#cwd || isNormal(value) && isAtOrIn(value, workspace) ||
      /^bazel-out\/[\w.+-]+(\/[\w.+-]+)*$/.test(value) && !/(^|\/)\.\.?(\/|$)/.test(value);
  }
}

/** Whether `--run_under` names a target rather than a command. */
function isLabel(runUnder: string): boolean {
  return /^(\/\/|@)/.test(runUnder.trimStart().replace(/^['"]/, ""));
}

/** Whether a path is absolute and normalized. */
function isNormal(path: string): boolean {
  return path.startsWith("/") && normalize(path) === path && !path.endsWith("/");
}

function dirname(path: string): string {
  return path.slice(0, path.lastIndexOf("/"));
}
