/**
 * `deno task docs`: makes docs/settings.md from the options that the programs define and from the variables that the code
 * reads. settings_docs_test.ts fails when the file differs from what is made, and when a variable has no row.
 */
import type { Command, Option } from "commander";
import { agentCommand } from "../agent/arguments.ts";
import { adminCommand } from "../orchestrator/admin.ts";
import { INHERITED_VARIABLES } from "../orchestrator/compute/process/agent_environment.ts";
import { orchestratorCommand } from "../orchestrator/flags.ts";
import { ALWAYS, NAMING } from "../proxy/arguments/client_env.ts";
import { VERBS } from "../proxy/jbazel/invocation.ts";
import { DEVELOPER_VARIABLES } from "../proxy/jbazel/variables.ts";
import { commandOf, type VerbContext } from "../proxy/jbazel/verbs.ts";
import { PROGRAMS } from "./permissions.ts";

const ROOT = new URL("..", import.meta.url).pathname;
/** The file that is made. Absolute. */
export const SETTINGS_FILE = `${ROOT}docs/settings.md`;

/** Variables that no option stands for, and that no developer sets. */
const FURTHER: readonly [name: string, what: string][] = [
  [
    "RBS_CGROUP",
    "Agent, and the orchestrator that starts it: a delegated cgroup v2 without processes, in which `--session-memory`, " +
    "`--session-cpus` and `--session-pids` are enforced. Default: the agent's own cgroup.",
  ],
];

/** Variables that RBS sets for itself. */
const INTERNAL: readonly [name: string, what: string][] = [
  [
    "RBS_IN_SESSION",
    "Set for programs inside a session and for `RBS_FALLBACK=local`: `bin/java` then starts a real JDK.",
  ],
  ["RBS_SHELL_LIMITS", "Set by `bin/java`: the limits and the umask of the shell that started the client."],
  [
    "RBS_USER_ENV_",
    "Prefix. The launcher of jbazel hides variables that Deno itself would read, such as `NODE_OPTIONS`, and jbazel " +
    "restores them for the Bazel command.",
  ],
];

/** Variables that only tests, benchmarks and tools read. */
const OF_TESTS: readonly [name: string, what: string][] = [
  ["RBS_BAZEL7", "A script that runs a command in a root directory with Bazel 7. The mirror test runs there as well."],
  [
    "RBS_SPANNER_EMULATOR",
    "The `emulator_main` of Google's Spanner emulator. Default: that of the package google-cloud-cli-spanner-emulator.",
  ],
  ["RBS_TEST_BAZELS", "The Bazels to test with, as beginnings of versions: `4,2`. Default: all that are found."],
  ["RBS_TEST_WORKSPACE", "`shared` or `synced`: the mode of the orchestrators that tests start."],
  ["RBS_TEST_SEED", "Where random tests begin: a failed one prints its seed."],
  ["RBS_TEST_LOG", "Any value: tests of the agent print the agent's log."],
  ["RBS_ATTACK_SECONDS", "How long each flood of tests/attacks lasts."],
  ["RBS_ATTACK_FILES", "How many files a session of tests/attacks makes."],
  ["RBS_TEST_MACHINES", "Set by tests/support/on_laptop.ts: the two machines of a test."],
  ["RBS_TEST_LIE", "Set by a test: the file that tells a hostile agent what to answer."],
  ["RBS_TEST_CLOCK", "Set by a test: the file that holds by how many seconds a clock is wrong."],
  ["RBS_CHAOS_OWN_MOUNTS", "Set by `deno task chaos` for itself: it runs in a mount namespace."],
];

/** Makes the text of docs/settings.md, formatted as `deno fmt` does. */
export async function settingsDocs(): Promise<string> {
  // Nothing of it is used, since no command is run.
  const context = { workingDirectory: "/", defaultJavabase: "/" } as VerbContext;
  const admin = adminCommand(() => {});
  const verbs = VERBS.map((verb) => commandOf(verb, context, () => {}));
  return await formatted([
    "# Settings",
    "This file is made by `deno task docs` from the options that the programs define. Change it there.",
    "An option on the command line takes precedence over its variable. `jbazel`, `orchestrator` and `agent` explain their " +
    "options with `--help`. For an option of the orchestrator or the agent without a value, the variable means “off” if " +
    "it is empty, `0` or `false`, and “on” otherwise. For one of jbazel, any value means “on”.",
    "## On the developer's machine",
    "The stock `bazel` starts the proxy, which has no options of its own: it reads these variables from the environment of " +
    "the `bazel` command or of the server's start. Values that decide about one command (`RBS_OUTPUTS`, " +
    "`RBS_EXTERNAL_SOURCES`, `RBS_CLIENT_ENV`, `RBS_HOME_FILES`, `RBS_FALLBACK`) are read anew for each command. The " +
    "others are read when the proxy starts: run `bazel shutdown` after a change.",
    table(
      ["variable", "meaning", "default", "read by"],
      DEVELOPER_VARIABLES.map(({ name, what, standard, readBy }) => [code(name), what, standard, readBy.join(", ")]),
    ),
    "### Which variables reach a build server on another machine",
    "With `--workspace=synced` only these variables of your environment are sent. " +
    `${NAMING.map((name) => code(`--${name}`)).join(", ")} and \`RBS_CLIENT_ENV\` add more.`,
    `${ALWAYS.map(code).join(", ")}.`,
    "## jbazel",
    "A Bazel command line is passed on unchanged: `jbazel build //...`. These commands are jbazel's own.",
    ...verbs.flatMap((command) => [
      `### ${command.name()}`,
      command.description(),
      ...command.registeredArguments.map((argument) =>
        `Argument ${code(`<${argument.name()}>`)}: ${argument.description}` +
        (argument.argChoices ? ` (${argument.argChoices.map(code).join(", ")}).` : ".")
      ),
      ...command.options.length > 0 ? [options(command)] : [],
    ]),
    "## orchestrator",
    "`orchestrator install [OPTIONS]` takes the same options, runs in the background, and implies `--local-mode`. " +
    "`orchestrator status` and `orchestrator stop` take `--state-dir`.",
    options(orchestratorCommand()),
    ...admin.commands.flatMap((command) => [
      `### orchestrator ${command.name()}`,
      command.description(),
      options(command),
    ]),
    "## agent",
    "The orchestrator starts agents; nobody starts one by hand, except for `agent --self-test`. An agent takes its settings " +
    "from the environment of its orchestrator, of which it inherits these variables and no others: " +
    `${INHERITED_VARIABLES.map(code).join(", ")}. \`RBS_AGENT_HOST\` and \`RBS_ALLOW_ROOT_SESSIONS\` are set by the ` +
    "orchestrator's `--listen` and `--allow-root-sessions`.",
    options(agentCommand()),
    "## Other variables",
    table(["variable", "meaning"], FURTHER.map(([name, what]) => [code(name), what])),
    "These may be read as well, because each program is granted exactly these variables " +
    "([tools/permissions.ts](../tools/permissions.ts)). jbazel may read all, since a Bazel command gets the user's whole " +
    "environment.",
    table(
      ["program", "variables", "why"],
      PROGRAMS.flatMap(({ name, permissions }) =>
        permissions.filter(({ allow, of }) => allow === "env" && of !== "all").map((permission) => [
          name,
          [...permission.of].map(code).join(", "),
          permission.why + (permission.when === "spanner" ? " (only with `--store=spanner:…`)" : ""),
        ])
      ),
    ),
    "## Variables that RBS sets for itself",
    "Do not set these.",
    table(["variable", "meaning"], INTERNAL.map(([name, what]) => [code(name), what])),
    "## Variables of tests and tools",
    table(["variable", "meaning"], OF_TESTS.map(([name, what]) => [code(name), what])),
  ]);
}

/** The names that have a row or are mentioned in docs/settings.md. */
export function documentedNames(text: string): Set<string> {
  return new Set(text.match(/\bRBS_[A-Z0-9_]+/g));
}

/**
 * The RBS_ variables that the code names: any that a program or a tool names, and those that a test reads, each with a file
 * that does so.
 */
export async function namesInCode(): Promise<Map<string, string>> {
  const names = new Map<string, string>();
  const visit = async (folder: string) => {
    for await (const { name, isDirectory } of Deno.readDir(ROOT + folder)) {
      const path = `${folder}/${name}`;
      if (isDirectory) await visit(path);
      if (!name.endsWith(".ts") || path.startsWith("proto/contract/gen/") || path === "tools/settings_docs.ts") {
        continue;
      }
      const isTest = path.startsWith("tests/") || name.endsWith("_test.ts") || path.includes("/testing/");
      // What a test makes up for an action's environment is not a setting.
      const found = isTest
        ? /(?:getenv\(|env\.get\(|_MOUNTS = |VARIABLE = )"(RBS_[A-Z0-9_]+)"/g
        : /\b(RBS_[A-Z0-9_]+)/g;
      for (const [, variable] of (await Deno.readTextFile(ROOT + path)).matchAll(found)) {
        if (variable !== "RBS_SAID") names.set(variable, path);
      }
    }
  };
  for (const folder of ["agent", "orchestrator", "proto", "proxy", "tests", "tools"]) await visit(folder);
  return names;
}

/** One row for each option. */
function options(command: Command): string {
  const rows = command.options.filter(({ hidden }) => !hidden).map((option) => {
    const { what, standard } = meaning(option);
    return [code(option.flags), option.envVar ? code(option.envVar) : "", what, standard];
  });
  return table(["option", "variable", "meaning", "default"], rows);
}

/** A default that only the description tells stands there in brackets. */
function meaning(option: Option): { what: string; standard: string } {
  const [, text, told] = /^(.*?)(?: \(default: ([^()]*|[^()]*\([^()]*\)[^()]*)\))?$/s.exec(option.description)!;
  const choices = option.argChoices ? ` (${option.argChoices.map(code).join(", ")})` : "";
  const value = option.defaultValueDescription ??
    (option.defaultValue === undefined || option.defaultValue === ""
      ? ""
      : option.defaultValue === false
      ? "off"
      : code(String(option.defaultValue)));
  return { what: placeholders(text) + choices, standard: placeholders(told ?? value) };
}

/** Markdown would take <state dir> for HTML. */
function placeholders(text: string): string {
  return text.replace(/[\w:]*<[^>]*>[\w./]*|\b(?:sqlite:PATH|spanner:[\w/]+)/g, code);
}

function code(text: string): string {
  return `\`${text.replaceAll("|", "\\|")}\``;
}

function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const line = (cells: readonly string[]) => `| ${cells.join(" | ")} |`;
  return [line(head), line(head.map(() => "---")), ...rows.map(line)].join("\n");
}

async function formatted(blocks: readonly string[]): Promise<string> {
  const deno = new Deno.Command(Deno.execPath(), {
    args: ["fmt", "--ext=md", "-"],
    cwd: ROOT,
    stdin: "piped",
    stdout: "piped",
    stderr: "piped",
  }).spawn();
  const [{ success, stdout, stderr }] = await Promise.all([
    deno.output(),
    ReadableStream.from([new TextEncoder().encode(blocks.join("\n\n") + "\n")]).pipeTo(deno.stdin),
  ]);
  if (!success) throw new Error(`deno fmt: ${new TextDecoder().decode(stderr)}`);
  return new TextDecoder().decode(stdout);
}

if (import.meta.main) {
  await Deno.mkdir(`${ROOT}docs`, { recursive: true });
  await Deno.writeTextFile(SETTINGS_FILE, await settingsDocs());
  console.log(`Made ${SETTINGS_FILE}`);
}
