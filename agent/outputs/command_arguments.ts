/**
 * The arguments of a RunRequest: the command, then what the client adds (`--client_env=…`, and what rc files say, as
 * `--default_override=<number of the file>:<command>[:<config>]=<option>`), then what the user wrote. Texts hold one
 * character per byte.
 */
import { Buffer } from "node:buffer";
import { resolve } from "node:path";
import { decodeName, encodeName } from "../../proto/tree/names.ts";

const BEP_FILE = ["--build_event_binary_file", "--experimental_build_event_binary_file"];
/** With one of these, Bazel speaks of build events for the user's sake. */
const OTHER_BEP_FILES = ["json", "text"].flatMap((kind) => [
  `--build_event_${kind}_file`,
  `--experimental_build_event_${kind}_file`,
]);

/** An option's value, wherever it stands. */
export interface OptionValue {
  value: string;
  /** The place of the last argument that belongs to it. */
  index: number;
  /** It counts only if its command and config do, and if the command line does not say otherwise. */
  fromRcFile: boolean;
}

/** The values of an option with these names, in the order in which they stand, whether they count or not. */
export function optionValues(args: readonly string[], names: readonly string[]): OptionValue[] {
  const found: OptionValue[] = [];
  // `--name value` is two arguments; in an rc file too.
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
  /** Where they may be, absolute: in the first of these files that the command has written. */
  files: string[];
  /** Bazel will speak of a file that only we have asked for, see build_events_notice.ts. */
  speaksOfIt: boolean;
}

/**
 * Has Bazel write its build events into `bepFile` (absolute), unless the user has named a file: that one then. A
 * relative name is relative to the server's own folder, the workspace (Bazel 2.1.0, 4.2.3 and 7.7.1).
 *
 * None of these options belongs to a configuration: what Bazel has analyzed stays as it is.
 */
export function injectBuildEvents(args: readonly string[], bepFile: string, workspace: string): WithBuildEvents {
  const flag = `${BEP_FILE[0]}=${Buffer.from(encodeName(bepFile)).toString("latin1")}`;
  // With a remote cache, Bazel would upload test logs for the sake of their URIs.
  const flags = [flag, "--nobuild_event_binary_file_path_conversion"];
  const speaksOfIt = !optionValues(args, OTHER_BEP_FILES).some(({ value }) => value !== "");
  const path = ({ value }: OptionValue) => resolve(workspace, decodeName(Buffer.from(value, "latin1")));
  const inserted = (at: number, ...more: string[]) => [...args.slice(0, at), ...more, ...args.slice(at)];

  const named = optionValues(args, BEP_FILE);
  const last = named.filter((option) => !option.fromRcFile).at(-1);
  if (last?.value) return { args: [...args], files: [path(last)], speaksOfIt: false };
  // An empty name switches an rc file's off.
  if (last) return { args: inserted(last.index + 1, ...flags), files: [bepFile], speaksOfIt };
  const fromRcFiles = named.filter((option) => option.value !== "").reverse().map(path);
  if (fromRcFiles.length === 0) return { args: inserted(1, ...flags), files: [bepFile], speaksOfIt };
  // Whether they count is for Bazel to say. The first option of the first rc file yields to any other.
  const first = args.findIndex((arg) => arg.startsWith("--default_override="));
  return {
    args: inserted(first, `--default_override=0:common=${flag}`),
    files: [bepFile, ...fromRcFiles],
    speaksOfIt: false,
  };
}
