/**
 * Parses the shell command lines that Bazel composes. Bazel quotes each word separately (`ShellEscaper`, `ShellUtils`),
 * so a shell finds only words in it. Any other syntax was not written by Bazel:
 *
 *     word   = plain | quoted            one space between words
 *     plain  = letters, digits, @%-_+:,./
 *     quoted = '…' (\' '…')*             everything between the quotes is literal
 *
 * Text is latin1, one character per byte.
 */

/** `ShellUtils` also treats Java's letters as plain: those of latin1. */
const PLAIN = String.raw`[\w@%+:,./\-\xaa\xb5\xba\xc0-\xd6\xd8-\xf6\xf8-\xff]+`;
const QUOTED = String.raw`'[^']*'(?:\\''[^']*')*`;

/** The words of a command line; undefined if Bazel did not compose it. */
export function shellWords(text: string): string[] | undefined {
  if (text.includes("\0")) return undefined;
  const words: string[] = [];
  const next = new RegExp(`(${PLAIN})|${QUOTED}`, "y");
  for (;;) {
    const at = next.lastIndex;
    const match = next.exec(text);
    if (!match) return undefined;
    words.push(match[1] ?? text.slice(at + 1, next.lastIndex - 1).replaceAll(`'\\''`, "'"));
    if (next.lastIndex === text.length) return words;
    if (text[next.lastIndex] !== " ") return undefined;
    next.lastIndex++;
  }
}

/**
 * The same for what follows `--run_under`'s command. Up to 7, Bazel leaves the first word, a path, unquoted, with a
 * space after it if there is no other word. No character of such a path may have a meaning in a shell.
 */
export function wordsAfterPrefix(text: string): string[] | undefined {
  const line = text.endsWith(" ") ? text.slice(0, -1) : text;
  const path = /^\/[\w@%+:,./\-~=^\x80-\xff]*(?= |$)/.exec(line)?.[0];
  if (path === undefined) return shellWords(line);
  if (path.length === line.length) return [path];
  const rest = shellWords(line.slice(path.length + 1));
  return rest && [path, ...rest];
}
