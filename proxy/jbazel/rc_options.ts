import { dirname, join } from "node:path";

/** A startup option as rc files give it. */
export interface RcStartupOption {
  /** With the dashes and the value: `--server_javabase=/x`. */
  option: string;
  /** The rc file. */
  file: string;
}

/**
 * The startup options of rc files, in the order in which Bazel reads them: the later wins.
 *
 * @param files Absolute; those that are not there are passed over.
 */
export function readStartupOptions(files: string[], workspace?: string): RcStartupOption[] {
  const options: RcStartupOption[] = [];
  const reading: string[] = [];
  const read = (file: string) => {
    // Bazel refuses an import loop; we only have to survive it.
    if (reading.includes(file) || reading.length > 30) return;
    let text: string;
    try {
      text = Deno.readTextFileSync(file);
    } catch {
      return;
    }
    reading.push(file);
    for (const line of text.replaceAll("\\\n", "").split("\n")) {
      const [command, ...words] = splitRcLine(line);
      if (command === "startup") {
        for (const option of words) options.push({ option, file });
      } else if ((command === "import" || command === "try-import") && words[0]) {
        const path = words[0].replace(/^%workspace%/, workspace ?? "%workspace%");
        read(path.startsWith("/") ? path : join(dirname(file), path));
      }
    }
    reading.pop();
  };
  files.forEach(read);
  return options;
}

/** The machine's rc files: Debian's package's, and everybody else's. */
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

/** The last value of `--name=value`, with the file that gave it. */
export function lastOption(options: RcStartupOption[], name: string): { value: string; file: string } | undefined {
  const found = options.findLast(({ option }) => option.startsWith(`--${name}=`));
  return found && { value: found.option.slice(name.length + 3), file: found.file };
}

/** The words of an rc line, as Bazel 4.2.3 `strings.cc` splits it: quotes, backslashes, and comments anywhere. */
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
