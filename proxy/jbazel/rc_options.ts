import { dirname, join } from "node:path";
import { followsConditional } from "./bazel_version.ts";

/** A startup option from an rc file. */
export interface RcStartupOption {
  /** With dashes and value: `--server_javabase=/x`. */
  option: string;
  /** The rc file. */
  file: string;
}

/** A `try-import-if-bazel-version` line for a Bazel of unknown version. */
export interface UndecidedImport {
  /** The line's words, separated by single spaces. */
  line: string;
  /** The rc file with the line. */
  file: string;
  /** The startup options of the imported file. */
  options: RcStartupOption[];
}

/** The startup options in rc files. */
export interface RcReading {
  /** In the order in which Bazel reads them: the last wins. */
  options: RcStartupOption[];
  undecided: UndecidedImport[];
}

/** The startup options of rc files, without those that depend on Bazel's version. */
export function readStartupOptions(files: string[], workspace?: string): RcStartupOption[] {
  return readRc(files, workspace).options;
}

/**
 * Reads rc files.
 *
 * @param files Absolute paths; missing files are skipped.
 * @param bazel Bazel's label, such as "8.7.0". Undefined: lines that depend on it stay undecided.
 */
export function readRc(files: string[], workspace?: string, bazel?: string): RcReading {
  const undecided: UndecidedImport[] = [];
  const reading: string[] = [];
  const read = (file: string, options: RcStartupOption[]) => {
    // Bazel refuses an import loop; here it only must not loop.
    if (reading.includes(file) || reading.length > 30) return;
    let text: string;
    try {
      text = Deno.readTextFileSync(file);
    } catch {
      return;
    }
    reading.push(file);
    for (const line of text.replaceAll(/\\\r?\n/g, "").split("\n")) {
      const [command, ...words] = splitRcLine(line);
      if (command === "startup") {
        for (const option of words) options.push({ option, file });
        continue;
      }
      const path = importedPath(command, words);
      if (path === undefined) continue;
      const named = path.replace(/^%workspace%/, workspace ?? "%workspace%");
      const absolute = named.startsWith("/") ? named : join(dirname(file), named);
      if (command !== CONDITIONAL) {
        read(absolute, options);
      } else if (bazel === undefined) {
        const entry: UndecidedImport = { line: [command, ...words].join(" "), file, options: [] };
        read(absolute, entry.options);
        undecided.push(entry);
      } else if (followsConditional(bazel, words[0])) {
        read(absolute, options);
      }
    }
    reading.pop();
  };
  const options: RcStartupOption[] = [];
  for (const file of files) read(file, options);
  return { options, undecided };
}

/** `try-import-if-bazel-version CONDITION FILE`, of Bazel 8.7.0, and of 9.0.0 and later. */
const CONDITIONAL = "try-import-if-bazel-version";

/** The file that an rc line imports; undefined for other lines. */
function importedPath(command: string | undefined, words: string[]): string | undefined {
  if (command === CONDITIONAL) return words.length === 2 ? words[1] : undefined;
  return command === "import" || command === "try-import" ? words[0] || undefined : undefined;
}

/** The machine's rc files: that of Debian's package, and the usual one. */
export const SYSTEM_RC_FILES = ["/etc/bazel/bazelrc", "/etc/bazel.bazelrc"];

/** The rc files that Bazel reads for a workspace: the system's, the workspace's, the user's. */
export function rcFiles(
  workspace: string | undefined,
  home: string | undefined,
  system: string[] = SYSTEM_RC_FILES,
): string[] {
  return [
    ...system,
    ...(workspace ? [join(workspace, ".bazelrc")] : []),
    ...(home ? [join(home, ".bazelrc")] : []),
  ];
}

/** The last value of `--name=value`, with its file. */
export function lastOption(options: RcStartupOption[], name: string): { value: string; file: string } | undefined {
  const found = options.findLast(({ option }) => option.startsWith(`--${name}=`));
  return found && { value: found.option.slice(name.length + 3), file: found.file };
}

/** Splits an rc line into words like Bazel 4.2.3 `strings.cc`: quotes, backslashes, and comments anywhere. */
export function splitRcLine(line: string): string[] {
  const words: string[] = [];
  let word: string | undefined;
  let quote = "";
  for (let i = 0; i < line.length; i++) {
    const c = line[i];
    if (c === "\\") word = (word ?? "") + (line[++i] ?? "");
    else if (quote) c === quote ? quote = "" : word = (word ?? "") + c;
    else if (c === '"' || c === "'") (quote = c, word ??= "");
    else if (c === "#") break;
    else if (/\s/.test(c)) (word !== undefined && words.push(word), word = undefined);
    else word = (word ?? "") + c;
  }
  if (word !== undefined) words.push(word);
  return words;
}
