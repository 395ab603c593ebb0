/** The .bazelrc of a workspace as Bazel 8.7 and 9.x read it, as far as tests write one: words without quotes. */
import { join } from "node:path";

/** A line's word. */
export interface RcOption {
  /** "startup", "build", "build:dbg". */
  section: string;
  word: string;
  /** Where it stands. */
  file: string;
}

/** All options of a file and of what it imports. @param version The client's own. */
export function readRcFile(workspace: string, version: string, file = join(workspace, ".bazelrc")): RcOption[] {
  let text: string;
  try {
    text = Deno.readTextFileSync(file);
  } catch {
    return [];
  }
  return text.replaceAll("\\\n", "").split("\n").flatMap((line) => {
    const [section, ...words] = line.replace(/#.*/, "").trim().split(/\s+/);
    if (!section) return [];
    const imported = importedFile(section, words, version);
    if (imported === undefined) return words.map((word) => ({ section, word, file }));
    return imported ? readRcFile(workspace, version, imported.replace(/^%workspace%/, workspace)) : [];
  });
}

/** What a line imports; empty: nothing, with this version; undefined: it is no import. */
function importedFile(section: string, words: string[], version: string): string | undefined {
  if (section === "import" || section === "try-import") return words[0];
  // Bazel 8.7 and 9.0, `src/main/cpp/rc_file.cc`: the condition is one word, and the file may be missing.
  if (section !== "try-import-if-bazel-version") return undefined;
  return isVersion(version, words[0]) ? words[1] : "";
}

/** `src/main/cpp/sem_ver.cc`: `<`, `<=`, `>`, `>=`, `==`, `!=` before a version, and `~9` or `~9.1` before a part of one. */
function isVersion(version: string, condition: string): boolean {
  const [, operator, wanted] = /^(<=|>=|==|!=|<|>|~)(.*)$/.exec(condition) ?? [];
  const parts = (text: string) => text.split(".").map(Number);
  const [ours, theirs] = [parts(version), parts(wanted)];
  if (operator === "~") return theirs.slice(0, 2).every((part, i) => part === ours[i]);
  const differing = ours.findIndex((part, i) => part !== theirs[i]);
  const order = differing < 0 ? 0 : ours[differing] - theirs[differing];
  switch (operator) {
    case "<":
      return order < 0;
    case "<=":
      return order <= 0;
    case ">":
      return order > 0;
    case ">=":
      return order >= 0;
    case "==":
      return order === 0;
    default:
      return order !== 0;
  }
}
