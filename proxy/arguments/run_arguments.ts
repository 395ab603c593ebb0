/**
 * The arguments of a RunRequest, as far as the proxy has to understand them. A stock client sends (seen with 2.1.0,
 * 4.2.3 and 7.7.1, which differ only in timings and order):
 *
 *     build                                     the command
 *     --startup_time=… --binary_path=…          the client's own additions
 *     --rc_source=client --rc_source=<file> …   the rc files, numbered from 0
 *     --default_override=2:build:dbg=--copt=-g  one for each word of an rc file's line
 *     --client_env=NAME=VALUE …                 its whole environment
 *     --client_cwd=/home/ann/ws/sub             the last of its own
 *     --config dbg //:all -- -//:not_this       what the user typed
 *
 * Arguments are bytes. Here they are latin1 strings, one character per byte, so that nothing is lost. File names are
 * converted to text by {@link fileName}.
 */
import { Buffer } from "node:buffer";
import { join, normalize } from "node:path";
import { decodeName } from "../../proto/tree/names.ts";

const CLIENT_CWD = "--client_cwd=";
const OVERRIDE = "--default_override=";

/** A RunRequest's arguments in three parts, which together are all of them. */
export interface ArgumentParts {
  command: Buffer | undefined;
  /** What the client adds. */
  own: Buffer[];
  /** What the user typed after the command. */
  typed: Buffer[];
}

/** Splits a RunRequest's arguments. */
export function splitArguments(args: readonly Buffer[]): ArgumentParts {
  const rest = args.slice(1);
  const cwd = rest.findIndex((arg) => startsWith(arg, CLIENT_CWD));
  // All known clients send it. Without it, some of the user's arguments may count as the client's own and be filtered,
  // rather than the reverse.
  const typed = rest.findIndex((arg) => !startsWith(arg, "--") || arg.length === 2);
  const end = cwd >= 0 ? cwd + 1 : typed >= 0 ? typed : rest.length;
  return { command: args[0], own: rest.slice(0, end), typed: rest.slice(end) };
}

/** An argument's bytes as characters. */
export function latin1(arg: Buffer, start = 0): string {
  return arg.toString("latin1", start);
}

/** Whether an argument begins with these ASCII characters. */
export function startsWith(arg: Buffer, prefix: string): boolean {
  if (arg.length < prefix.length) return false;
  // Called for each of a thousand arguments, for which strings would cost more than all the rest.
  for (let i = 0; i < prefix.length; i++) if (arg[i] !== prefix.charCodeAt(i)) return false;
  return true;
}

/**
 * A variable of the environment in which the user called the client, in latin1; undefined if it was not set. What the
 * user typed does not count: `bazel run //x -- --client_env=A=B` sets nothing.
 */
export function clientVariable(args: readonly Buffer[], name: string): string | undefined {
  const prefix = `--client_env=${name}=`;
  const found = splitArguments(args).own.findLast((arg) => startsWith(arg, prefix));
  return found && latin1(found, prefix.length);
}

/** An option that applies to a command. */
export interface Option {
  /** Without dashes. */
  name: string;
  /** In latin1. */
  value: string;
  /** As a user would write it: `--name=value`. */
  text: string;
}

/** A parsed command line. */
export interface RunArguments {
  /** For example "build"; empty if there is none. */
  command: string;
  /** Where the user called the client: absolute, in latin1; empty if unknown. */
  cwd: string;
  /**
   * The requested options, in the order in which Bazel applies them: rc files' first, configs at the place of their
   * `--config`. For an option with one value the last counts.
   */
  options: Option[];
  /** Other options whose value is, or may be, an absolute path. In the same order. */
  others: Option[];
  /** The user's words that are not options, in latin1, including those after `--`. */
  residue: string[];
}

/**
 * Whose rc file lines a command inherits: `inherits` of Bazel's command classes. The same in 2.1, 4.2 and 7.7 except
 * for `fetch` and `canonicalize-flags`, where the newer is used. Other commands (`query`, `mod`) have only their own
 * lines.
 */
const INHERITS: Record<string, string> = {
  test: "build",
  run: "build",
  info: "build",
  clean: "build",
  aquery: "build",
  config: "build",
  print_action: "build",
  "mobile-install": "build",
  "canonicalize-flags": "build",
  coverage: "test",
  cquery: "test",
  fetch: "test",
  vendor: "test",
};

/** With this switch, lines of config "linux" apply as well. */
const PLATFORM_CONFIG = "enable_platform_specific_config";

/** The options that are looked for. */
interface Names {
  values: ReadonlySet<string>;
  switches: ReadonlySet<string>;
}

/** Limit for configs that name each other; no rc file has so many options. */
const MAX_OPTIONS = 100_000;

/** A word of an rc file's line, for one command and possibly one config. */
interface RcWord {
  /** "build" or "build:dbg". */
  section: string;
  word: string;
}

/**
 * Parses a RunRequest's arguments.
 *
 * Only Bazel knows which options take a value, which matters for `--name value`. So the caller names the options it
 * wants; others are skipped, and their values may count as residue.
 *
 * @param values Names of options that take a value, without dashes.
 * @param switches Names of options that are on or off: their value is "1" or "0".
 */
export function parseRunArguments(
  args: readonly Buffer[],
  values: Iterable<string>,
  switches: Iterable<string> = [],
): RunArguments {
  const { command: first, own, typed } = splitArguments(args);
  const command = first ? latin1(first) : "";
  const names: Names = {
    values: new Set([...values, "config"]),
    switches: new Set([...switches, PLATFORM_CONFIG]),
  };
  const words = rcWords(own);
  const sections = ["always", "common", ...inheritance(command)];
  const inSections = (config: string) => sections.flatMap((s) => words.get(config === "" ? s : `${s}:${config}`) ?? []);

  const line = readOptions(typed.map((arg) => latin1(arg)), names);
  const given = [...readOptions(inSections(""), names).options, ...line.options];
  const options: Option[] = [], others: Option[] = [];
  const expanding: string[] = [];
  const add = (found: Option[]) => {
    for (const option of found) {
      if (options.length + others.length >= MAX_OPTIONS) return;
      (isKnown(option, names) ? options : others).push(option);
      // Bazel refuses a config that contains itself; here it only must not loop.
      if (option.name !== "config" || expanding.includes(option.value)) continue;
      expanding.push(option.value);
      add(readOptions(inSections(option.value), names).options);
      expanding.pop();
    }
  };
  add(given);
  if (isOn(options, PLATFORM_CONFIG)) add(readOptions(inSections("linux"), names).options);
  const cwd = own.findLast((arg) => startsWith(arg, CLIENT_CWD));
  return {
    command,
    cwd: cwd ? latin1(cwd, CLIENT_CWD.length) : "",
    options,
    others,
    residue: line.residue,
  };
}

/** All values of an option. */
export function allValues(options: readonly Option[], name: string): string[] {
  return options.filter((option) => option.name === name).map((option) => option.value);
}

/** Whether a switch is on. @param name One of the `switches` of {@link parseRunArguments}. */
export function isOn(options: readonly Option[], name: string): boolean {
  return options.findLast((option) => option.name === name)?.value === "1";
}

/** The command and those from which it inherits, the most general first. */
function inheritance(command: string): string[] {
  const base = Object.hasOwn(INHERITS, command) ? INHERITS[command] : undefined;
  return base === undefined ? [command] : [...inheritance(base), command];
}

/** The words of all rc files by section, in order. */
function rcWords(own: readonly Buffer[]): Map<string, string[]> {
  const words = new Map<string, string[]>();
  const files = own.filter((arg) => startsWith(arg, "--rc_source=")).length;
  for (const arg of own) {
    const read = startsWith(arg, OVERRIDE) ? readOverride(latin1(arg, OVERRIDE.length), files) : undefined;
    if (!read) continue;
    const section = words.get(read.section);
    if (section) section.push(read.word);
    else words.set(read.section, [read.word]);
  }
  return words;
}

/** Reads `N:section=word`. */
function readOverride(text: string, files: number): RcWord | undefined {
  const equals = text.indexOf("=");
  const colon = text.indexOf(":");
  // Bazel ignores a file that was not announced.
  if (colon < 1 || equals < colon || !(Number(text.slice(0, colon)) < files)) return undefined;
  return { section: text.slice(colon + 1, equals), word: text.slice(equals + 1) };
}

/** Finds options among words, like Bazel's parser. */
function readOptions(words: readonly string[], names: Names): { options: Option[]; residue: string[] } {
  const options: Option[] = [];
  const residue: string[] = [];
  for (let i = 0; i < words.length; i++) {
    const word = words[i];
    if (word === "--") {
      residue.push(...words.slice(i + 1));
      break;
    }
    if (!word.startsWith("-")) {
      residue.push(word);
      continue;
    }
    if (!word.startsWith("--")) continue;
    const equals = word.indexOf("=");
    const name = word.slice(2, equals < 0 ? undefined : equals);
    const given = equals < 0 ? undefined : word.slice(equals + 1);
    if (names.values.has(name)) {
      // Bazel will report the missing value.
      if (given === undefined && i + 1 >= words.length) continue;
      const value = given ?? words[++i];
      options.push({ name, value, text: `--${name}=${value}` });
    } else if (names.switches.has(name)) {
      options.push({ name, value: given === undefined || isTrue(given) ? "1" : "0", text: word });
    } else if (name.startsWith("no") && names.switches.has(name.slice(2))) {
      options.push({ name: name.slice(2), value: "0", text: word });
    } else {
      // Only Bazel knows whether the next word is its value.
      const value = given ?? words[i + 1];
      if (value?.startsWith("/")) options.push({ name, value, text: `--${name}=${value}` });
    }
  }
  return { options, residue };
}

function isKnown({ name }: Option, { values, switches }: Names): boolean {
  return values.has(name) || switches.has(name);
}

/** Bazel's words for true. */
function isTrue(value: string): boolean {
  return ["1", "true", "yes", "t", "y"].includes(value.toLowerCase());
}

/** Converts latin1 to a file name: text, with a lone surrogate for each byte that is not UTF-8. */
export function fileName(latin1: string): string {
  return decodeName(Buffer.from(latin1, "latin1"));
}

/**
 * The absolute path that an option names. A leading `~/` or `%workspace%` is expanded, as in Bazel.
 *
 * @param base The base of a relative path: absolute.
 */
export function resolvePath(path: string, base: string, workspace: string, home?: string): string {
  if (path.startsWith("~/") && home) return plain(join(home, path.slice(1)));
  if (/^%workspace%(\/|$)/.test(path)) return plain(join(workspace, path.slice("%workspace%".length)));
  return plain(path.startsWith("/") ? path : join(base, path));
}

/** A path without ".", ".." and a trailing slash. */
function plain(path: string): string {
  const normal = normalize(path);
  return normal.length > 1 && normal.endsWith("/") ? normal.slice(0, -1) : normal;
}
