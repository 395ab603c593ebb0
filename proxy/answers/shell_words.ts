/**
 * The shell command lines that Bazel composes, read back. Bazel quotes each word by itself (`ShellEscaper`, `ShellUtils`),
 * so that no shell finds anything in it but words; what is written in any other way is nothing that Bazel wrote:
 *
 *     word   = plain | quoted            one space between words
 *     plain  = letters, digits, @%-_+:,./
 *     quoted = '…' (\' '…')*             all between the quotes stands for itself
 *
 * Text is latin1, one character for each byte.
 */

/** `ShellUtils` takes Java's letters for plain as well: those of latin1. */
const PLAIN = String.raw`[\w@%+:,./\-\xaa\xb5\xba\xc0-\xd6\xd8-\xf6\xf8-\xff]+`;
const QUOTED = String.raw`'[^']*'(?:\\''[^']*')*`;

/** The words of a command line; undefined if it is none of Bazel's. */
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
 * The same of what follows `--run_under`'s command, where Bazel up to 7 leaves the first word, a path, without quotes,
 * and a space at the end if there is no other. Of such a path, no character may mean anything to a shell.
 */
export function wordsAfterPrefix(text: string): string[] | undefined {
  const line = text.endsWith(" ") ? text.slice(0, -1) : text;
  const path = /^\/[\w@%+:,./\-~=^\x80-\xff]*(?= |$)/.exec(line)?.[0];
  if (path === undefined) return shellWords(line);
  if (path.length === line.length) return [path];
  const rest = shellWords(line.slice(path.length + 1));
  return rest && [path, ...rest];
}
