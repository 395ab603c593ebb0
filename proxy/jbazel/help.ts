import { DEVELOPER_VARIABLES } from "./variables.ts";

/** jbazel's own version; `jbazel version` is Bazel's. */
export const VERSION = "0.1.0";

/** The column of a variable's explanation, and the width of a line. */
const COLUMN = 25, WIDTH = 120;

/** Wraps a paragraph at {@link WIDTH} characters, with all lines but the first indented. */
function paragraph(text: string): string {
  const lines = [""];
  for (const word of text.split(" ")) {
    const line = lines.at(-1)!;
    if (line !== "" && COLUMN + line.length + 1 + word.length > WIDTH) lines.push(word);
    else lines[lines.length - 1] = line === "" ? word : `${line} ${word}`;
  }
  return lines.join(`\n${" ".repeat(COLUMN)}`);
}

const VARIABLES = DEVELOPER_VARIABLES.map(({ name, what, standard }) =>
  `  ${name.padEnd(COLUMN - 2)}${paragraph(`${what} (default: ${standard})`)}`
).join("\n");

/** The output of `jbazel --help`. */
export const HELP = `jbazel: runs Bazel on a warm build server

New here? "jbazel doctor" looks at this machine and ends with the one command to run next.

Examples:
  jbazel build //...                  build as "bazel build //..." does, on the build server
  jbazel test //my:test -c opt        any Bazel command, with any of its options
  jbazel run //my:tool -- --flag      standard input, Ctrl-C and the terminal are passed on
  jbazel setup --workspace            make the stock "bazel" use the build server too
  jbazel login                        enrol at an orchestrator on another machine, with a token
  jbazel status                       your sessions, and where they run
  jbazel doctor                       what is wrong on this machine, and the one command to run next
  jbazel completion bash              completion for a shell: bash, zsh or fish

Usage: jbazel [STARTUP OPTIONS] COMMAND [OPTIONS] [TARGETS]   a Bazel command, passed on unchanged
       jbazel setup | login | status | doctor | completion    jbazel's own commands; each has --help
       jbazel --help | --version                              about jbazel

Bazel commands work in any directory of a workspace and need no setup. If the orchestrator runs with --workspace=synced,
jbazel starts the local Bazel client, and RBS's proxy sends the workspace. "jbazel help", "jbazel version" and
"jbazel shutdown" are Bazel's.

Environment:
${VARIABLES}

Exit codes:
  Bazel's own; and of jbazel
  1   a command of jbazel's own failed, or doctor found a failure
  2   a mistake on the command line, or not in a workspace
  8   interrupted
  36  no build server is available; nothing was run
  37  the build server was lost while the command ran
`;
