import { Argument, Command, CommanderError, Option } from "commander";
import { resolve } from "node:path";
import { RbsError } from "../../proto/base/errors.ts";
import { ExitCode } from "../../proto/bazel/exit_codes.ts";
import type { CompletedOption, CompletedVerb } from "./completed_verb.ts";
import { completionScript, type Shell, SHELLS } from "./completion.ts";
import { runDoctor } from "./doctor.ts";
import { tryFirstCommand } from "./first_command.ts";
import { type Verb, VERBS } from "./invocation.ts";
import { runLogin } from "./login.ts";
import { offerOrchestrator } from "./offer_orchestrator.ts";
import { installCommand } from "./orchestrator_program.ts";
import { runProgram } from "./programs.ts";
import type { ProgressOutput } from "./progress.ts";
import { readSettings, type SettingOptions } from "./settings.ts";
import { runSetup } from "./setup.ts";
import type { SignalSource } from "./signals.ts";
import { runStatus } from "./status.ts";

/** The surroundings of a verb. */
export interface VerbContext {
  /** Absolute path. */
  workingDirectory: string;
  env(name: string): string | undefined;
  /** The javabase that belongs to this jbazel. */
  defaultJavabase: string;
  /** How the user calls this jbazel. */
  self: string;
  say(line: string): void;
  /** Shows a sentence that is not part of the answer. */
  warn(sentence: string): void;
  progress: ProgressOutput;
  signals: SignalSource;
  /** Reads the token of `jbazel login`. */
  readToken(): Promise<string | undefined>;
  /** Asks the user; undefined without a terminal. */
  ask?(question: string): string | null;
}

/**
 * Runs one of jbazel's own verbs. Throws an RbsError (exit code 2) for an invalid option.
 * @returns the exit code
 */
export async function runVerb(verb: Verb, args: string[], context: VerbContext): Promise<number> {
  let exitCode = 0;
  const command = commandOf(verb, context, (code) => exitCode = code);
  try {
    await command.parseAsync(args, { from: "user" });
  } catch (e) {
    // Bazel's exit codes are for Bazel's commands: a script that asks for the status expects 0 or 1.
    if (e instanceof RbsError && e.exitCode === ExitCode.LOCAL_ENVIRONMENTAL_ERROR) {
      throw new RbsError(e.message, { cause: e, culprit: e.culprit, exitCode: 1 });
    }
    if (!(e instanceof CommanderError)) throw e;
    if (e.exitCode === 0) return 0; // --help
    const message = e.message.replace(/^error: /, "").split("\n")[0].replace(/\.$/, "");
    throw new RbsError(`${verb}: ${message}; see "jbazel ${verb} --help".`, {
      cause: e,
      culprit: "caller",
      exitCode: ExitCode.COMMAND_LINE_ERROR,
    });
  }
  return exitCode;
}

/** A summary of each verb. */
const SUMMARIES: Record<Verb, string> = {
  setup: "make the stock bazel use the build server",
  login: "enrol at an orchestrator on another machine",
  status: "your sessions, and where they run",
  doctor: "what is wrong on this machine, and what to do next",
  completion: "completion for bash, zsh or fish",
};

/** The options of `jbazel setup`, apart from the choice of a file. */
interface SetupFlags {
  javabase?: string;
  print?: boolean;
  remove?: boolean;
  try: boolean;
}

/** What a shell can complete, from the same definitions as the command lines. */
function completedVerbs(context: VerbContext): CompletedVerb[] {
  return VERBS.map((name) => {
    const command = commandOf(name, context, () => {});
    return {
      name,
      description: command.summary(),
      options: [...command.options.map(completedOption), HELP_OPTION],
      words: command.registeredArguments.flatMap((a) => a.argChoices ?? []),
    };
  });
}

const HELP_OPTION: CompletedOption = { names: ["--help", "-h"], description: "show this", value: "none" };

function completedOption({ long, short, flags, description, required }: Option): CompletedOption {
  const value = !required
    ? "none"
    : flags.includes("<dir>")
    ? "directory"
    : flags.includes("<file>")
    ? "file"
    : "other";
  return { names: [long, short].filter((n) => n != null), description, value };
}

/** A verb with its options; docs/settings.md is made from them. */
export function commandOf(verb: Verb, context: VerbContext, done: (exitCode: number) => void): Command {
  const { say, env, workingDirectory } = context;
  const command = new Command(`jbazel ${verb}`)
    .exitOverride()
    .allowExcessArguments(false)
    .configureHelp({ helpWidth: 100 })
    .configureOutput({ writeOut: (text) => say(text.trimEnd()), writeErr: () => {} })
    .helpOption("-h, --help", "print this help");
  const option = (flags: string, description: string, variable: string) =>
    command.addOption(new Option(flags, description).env(variable));
  const connection = () => {
    option("--orchestrator <host:port>", "the orchestrator", "RBS_ORCHESTRATOR_ADDR");
    option("--state-dir <dir>", "the directory of your keys (a local orchestrator's state directory)", "RBS_STATE_DIR");
    option("--json", "print JSON", "RBS_JSON");
  };
  const javabase = () => option("--javabase <dir>", "RBS's javabase (default: beside jbazel)", "RBS_JAVABASE");
  const examples = (...lines: string[]) =>
    command.addHelpText("after", `\nExamples:\n${lines.map((l) => `  ${l}`).join("\n")}`);
  /** A variable counts if it has a value, but a flag on the command line overrides the variables of its rivals. */
  const chosen = (rivals: string[]) => {
    const source = (name: string) => command.getOptionValueSource(name);
    const byFlag = rivals.some((r) => source(r) === "cli");
    return Object.fromEntries(rivals.filter((r) => !byFlag || source(r) === "cli").map((r) => [r, command.opts()[r]]));
  };

  switch (verb) {
    case "setup":
      command.summary(SUMMARIES.setup).description(
        "Makes the stock bazel use the build server: adds one startup line to a bazelrc, or removes it. Then runs a first " +
          "`bazel info release` to show that it works. Exit code 1: that failed, and the line stays written.",
      );
      option("--workspace", "the workspace's .bazelrc", "RBS_SETUP_WORKSPACE");
      option("--home", "~/.bazelrc", "RBS_SETUP_HOME");
      option("--rc <file>", "another bazelrc", "RBS_SETUP_RC");
      javabase();
      option("--print", "print the lines and write nothing", "RBS_SETUP_PRINT");
      option("--remove", "remove the lines again", "RBS_SETUP_REMOVE");
      option("--no-try", "run no first command", "RBS_SETUP_NO_TRY");
      examples(
        "jbazel setup --workspace            # at a desk",
        "jbazel setup --home --no-try        # where an image is made",
        "jbazel setup --home --print",
        "jbazel setup --workspace --remove",
      );
      return command.action(async (opts: SetupFlags) => {
        const javabase = opts.javabase || context.defaultJavabase;
        const exitCode = runSetup({
          ...opts,
          workspace: undefined,
          home: undefined,
          rc: undefined,
          ...chosen(["workspace", "home", "rc"]),
          javabase,
        }, {
          workingDirectory,
          home: env("HOME"),
          say,
          ask: context.ask,
        });
        if (exitCode === 0 && !opts.print && !opts.remove) {
          const settings = readSettings({});
          const where = resolve(workingDirectory, javabase);
          await offerOrchestrator({ ...settings, javabase: where, run: runProgram, say, ask: context.ask });
          if (opts.try) await tryFirstCommand({ ...context, settings, javabase: where });
        }
        done(exitCode);
      });
    case "login":
      command.summary(SUMMARIES.login).description(
        "Enrols you at an orchestrator: reads a token of `orchestrator enrol NAME` from standard input, creates a key, " +
          "and gets a certificate for it.",
      );
      option("--state-dir <dir>", "the directory of your keys", "RBS_STATE_DIR");
      examples("jbazel login", "jbazel login <token.txt");
      return command.action(async (opts: SettingOptions) =>
        done(
          await runLogin({ stateDirectory: readSettings(opts).stateDirectory, readToken: context.readToken, say }),
        )
      );
    case "status":
      command.summary(SUMMARIES.status).description(
        "Shows your sessions, and whether this workspace is set up. Exit code 1: no orchestrator answered, or you may not " +
          "see what you asked for.",
      );
      connection();
      command.addOption(new Option("--all-users", "show the sessions of all users; for operators"));
      examples("jbazel status", "jbazel status --json", "jbazel status --all-users");
      return command.action(async (opts: SettingOptions & { json?: boolean; allUsers?: boolean }) => {
        const settings = readSettings(opts);
        const install = installCommand(context.defaultJavabase, settings.orchestrator);
        done(
          await runStatus({
            ...context,
            settings,
            json: opts.json ?? false,
            allUsers: opts.allUsers ?? false,
            installCommand: install,
          }),
        );
      });
    case "doctor":
      command.summary(SUMMARIES.doctor).description(
        "Checks this machine, tells you how to fix what is wrong, and ends with the one command to run next. Exit code 1: a " +
          "check failed.",
      );
      connection();
      javabase();
      examples("jbazel doctor", "jbazel doctor --json");
      return command.action(async (opts: SettingOptions & { json?: boolean; javabase?: string }) =>
        done(
          await runDoctor({
            ...context,
            settings: readSettings(opts),
            javabase: resolve(workingDirectory, opts.javabase || context.defaultJavabase),
            run: runProgram,
            uid: Deno.uid(),
            json: opts.json ?? false,
          }),
        )
      );
    case "completion":
      command.summary(SUMMARIES.completion).description(
        "Prints a script by which a shell completes jbazel's command lines: its own commands and their options; the rest as " +
          "for bazel, where Bazel's own completion is installed.",
      );
      command.addArgument(new Argument("<shell>", "the shell").choices(SHELLS));
      examples(
        "source <(jbazel completion bash)    # in ~/.bashrc",
        "source <(jbazel completion zsh)     # in ~/.zshrc, after compinit",
        "jbazel completion fish | source     # in ~/.config/fish/config.fish",
      );
      return command.action((shell: Shell) => {
        say(completionScript(shell, completedVerbs(context)));
        done(0);
      });
  }
}
