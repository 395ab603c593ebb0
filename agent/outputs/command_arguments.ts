/**
 * The arguments of a RunRequest: the command, then the client's additions (`--client_env=…`, and options of rc files as
 * `--default_override=<number of the file>:<command>[:<config>]=<option>`), then the user's. Strings have one character
 * per byte.
 */
import { Buffer } from "node:buffer";
import { resolve } from "node:path";
import { decodeName, encodeName } from "../../proto/tree/names.ts";

const BEP_FILE = ["--build_event_binary_file", "--experimental_build_event_binary_file"];
/** With one of these, the user also expects Bazel's messages about build events. */
const OTHER_BEP_FILES = ["json", "text"].flatMap((kind) => [
  `--build_event_${kind}_file`,
  `--experimental_build_event_${kind}_file`,
]);

/** A value of an option, from the command line or an rc file. */
export interface OptionValue {
  value: string;
  /** Index of the last argument that belongs to the value. */
  index: number;
  /** From an rc file: counts only if its command and config apply, and the command line does not override it. */
  fromRcFile: boolean;
}

/** All values of the options with these names, in order, whether or not they apply. */
export function optionValues(args: readonly string[], names: readonly string[]): OptionValue[] {
  const found: OptionValue[] = [];
  // `--name value` is two arguments, also in an rc file.
  let waiting = false;
  for (let index = 1; index < args.length && args[index] !== "--"; index++) {
    const override = /^--default_override=\d+:[^=]*=(.*)$/s.exec(args[index]);
    const text = override?.[1] ?? args[index], fromRcFile = override !== null;
    if (waiting) found.push({ value: text, index, fromRcFile });
    const equals = text.indexOf("=");
    const isIt: boolean = !waiting && names.includes(equals < 0 ? text : text.slice(0, equals));
    if (isIt && equals >= 0) found.push({ value: text.slice(equals + 1), index, fromRcFile });
    waiting = isIt && equals < 0;
  }
  return found;
}

/** A command that writes its build events. */
export interface WithBuildEvents {
  args: string[];
  /** Absolute paths. The events are in the first of these files that the command has written. */
  files: string[];
  /** Bazel will print a message about a file that only RBS has asked for, see build_events_notice.ts. */
  speaksOfIt: boolean;
}

/**
 * Makes Bazel write its build events to `bepFile` (absolute), unless the user has named a file; then to that one. A
 * relative name is relative to the server's working directory, the workspace (Bazel 2.1.0, 4.2.3 and 7.7.1).
 *
 * None of these options belongs to a configuration, so Bazel keeps its analysis.
 */
export function injectBuildEvents(args: readonly string[], bepFile: string, workspace: string): WithBuildEvents {
  const flag = `${BEP_FILE[0]}=${Buffer.from(encodeName(bepFile)).toString("latin1")}`;
  // With a remote cache, Bazel would otherwise upload test logs to get their URIs.
  const flags = [flag, "--nobuild_event_binary_file_path_conversion"];
  const speaksOfIt = !optionValues(args, OTHER_BEP_FILES).some(({ value }) => value !== "");
  const path = ({ value }: OptionValue) => resolve(workspace, decodeName(Buffer.from(value, "latin1")));
  const inserted = (at: number, ...more: string[]) => [...args.slice(0, at), ...more, ...args.slice(at)];

  const named = optionValues(args, BEP_FILE);
  const last = named.filter((option) => !option.fromRcFile).at(-1);
  if (last?.value) return { args: [...args], files: [path(last)], speaksOfIt: false };
  // An empty name overrides an rc file's.
  if (last) return { args: inserted(last.index + 1, ...flags), files: [bepFile], speaksOfIt };
  const fromRcFiles = named.filter((option) => option.value !== "").reverse().map(path);
  if (fromRcFiles.length === 0) return { args: inserted(1, ...flags), files: [bepFile], speaksOfIt };
  // Only Bazel knows whether they apply. The first option of the first rc file is overridden by any other.
  const first = args.findIndex((arg) => arg.startsWith("--default_override="));
  return {
    args: inserted(first, `--default_override=0:common=${flag}`),
    files: [bepFile, ...fromRcFiles],
    speaksOfIt: false,
  };
}
