/** The variables for developers: `jbazel --help` and docs/settings.md are made from this table. */
import { DEFAULT_ORCHESTRATOR_ADDR } from "../../proto/base/state_directory.ts";

/** A variable of the laptop's environment. */
export interface Variable {
  name: string;
  /** Its meaning, without a full stop. */
  what: string;
  /** Its default, as text. */
  standard: string;
  /** Which program reads it: the proxy behind the stock bazel, jbazel, or both. */
  readBy: readonly ("proxy" | "jbazel")[];
}

const BOTH = ["proxy", "jbazel"] as const;

export const DEVELOPER_VARIABLES: readonly Variable[] = [
  {
    name: "RBS_ORCHESTRATOR_ADDR",
    what: "HOST:PORT of the orchestrator; several are separated by commas",
    standard: DEFAULT_ORCHESTRATOR_ADDR,
    readBy: BOTH,
  },
  {
    name: "RBS_STATE_DIR",
    what: "directory of your keys; a local orchestrator uses the same directory",
    standard: "$XDG_STATE_HOME/rbs, or ~/.local/state/rbs",
    readBy: BOTH,
  },
  {
    name: "RBS_FALLBACK",
    what: 'what to do when no build server is available: "error" fails, "local" runs Bazel on this machine and says so',
    standard: "error",
    readBy: BOTH,
  },
  {
    name: "RBS_REGION",
    what: "region in which the build server should run; an empty value asks for none",
    standard: "the region of this cloud machine, if it is one",
    readBy: BOTH,
  },
  {
    name: "RBS_OUTPUTS",
    what: 'which outputs are copied from another machine: "toplevel" (the targets that were named), "all", "minimal" ' +
      '(only what `bazel run` executes; "none" is the same)',
    standard: "toplevel",
    readBy: ["proxy"],
  },
  {
    name: "RBS_EXTERNAL_SOURCES",
    what: 'external repositories whose sources are copied here for editors: names separated by commas, or "*"',
    standard: "none",
    readBy: ["proxy"],
  },
  {
    name: "RBS_CLIENT_ENV",
    what: 'more variables to send to a build server on another machine: "AWS_PROFILE,GO*", or "*" for all',
    standard: "none",
    readBy: ["proxy"],
  },
  {
    name: "RBS_HOME_FILES",
    what: 'files of your home directory to copy to a build server on another machine: ".netrc:.gitconfig"',
    standard: "none",
    readBy: ["proxy"],
  },
  {
    name: "RBS_MACHINE_ID",
    what: "tells this machine from others that have the same paths",
    standard: "a random id in machines/ of the state directory",
    readBy: BOTH,
  },
  {
    name: "RBS_JAVABASE",
    what: "RBS's javabase, the directory that holds the proxy",
    standard: "javabase beside jbazel",
    readBy: ["jbazel"],
  },
  {
    name: "RBS_DEBUG",
    what: "any value: jbazel prints errors with their causes and stack traces",
    standard: "off",
    readBy: ["jbazel"],
  },
];
