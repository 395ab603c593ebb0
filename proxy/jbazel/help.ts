/** jbazel's own version; `jbazel version` is Bazel's. */
export const VERSION = "0.1.0";

/** What `jbazel --help` prints. */
export const HELP = `jbazel: Bazel on a build server that stays warm

New here? "jbazel doctor" looks at this machine and ends with the one command to run next.

Examples:
  jbazel build //...                  build as "bazel build //..." does, on the build server
  jbazel test //my:test -c opt        any Bazel command, with any of its options
  jbazel run //my:tool -- --flag      standard input, Ctrl-C and the terminal are passed on
  jbazel setup --workspace            let the stock "bazel" use the build server too
  jbazel login                        become known to an orchestrator elsewhere, by a token
  jbazel status                       what runs for you, and where
  jbazel doctor                       what is wrong on this machine, and the one command to run next
  jbazel completion bash              completion for a shell: bash, zsh or fish

Usage: jbazel [STARTUP OPTIONS] COMMAND [OPTIONS] [TARGETS]   a Bazel command, passed on untouched
       jbazel setup | login | status | doctor | completion    jbazel's own; each has --help
       jbazel --help | --version                              about jbazel

Bazel commands work from any directory of a workspace and need no setup. Where the orchestrator runs with
--workspace=synced, a local Bazel sends them, and RBS's proxy sends the workspace along. "jbazel help", "jbazel version" and
"jbazel shutdown" are Bazel's.

Environment:
  RBS_ORCHESTRATOR_ADDR  HOST:PORT of the orchestrator (default localhost:50051); several with commas
  RBS_STATE_DIR          where your keys are (default $XDG_STATE_HOME/rbs or ~/.local/state/rbs); a local orchestrator's
                         state directory is the same
  RBS_REGION             where the build server should run (default: the region of the cloud machine that this is)
  RBS_OUTPUTS            what is brought home from another machine: "toplevel" (default: what was named), "all", "minimal"
  RBS_EXTERNAL_SOURCES   external repositories whose sources are brought home for editors: names with commas, or "*"
  RBS_CLIENT_ENV         more variables that a build server elsewhere gets: "AWS_PROFILE,GO*", or "*"
  RBS_HOME_FILES         files of your home folder that a build server elsewhere gets: ".netrc:.gitconfig"
  RBS_MACHINE_ID         tells this machine from others with the same paths (default: an id of its own)
  RBS_FALLBACK           what to do when no build server can be had: "error" (default), or "local" to run the
                         Bazel of this machine, saying so
  RBS_JAVABASE           RBS's javabase, where its proxy is (default: beside jbazel)
  RBS_DEBUG              1: errors come with their causes and stack traces

Exit codes:
  Bazel's own; and of jbazel
  1   a verb of jbazel's own failed, or doctor found a failure
  2   a mistake on the command line, or not within a workspace
  8   interrupted
  36  no build server can be had; nothing was run
  37  the build server was lost in mid-command
`;
