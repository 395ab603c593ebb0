import { UNSEEN } from "./progress.ts";

/** Quotes a word for a shell's command line, only where necessary. The result is also safe to print. */
export function shellWord(word: string): string {
  if (/^[\w@%+=:,./-]+$/.test(word)) return word;
  if (word.search(UNSEEN) < 0) return `'${word.replaceAll("'", `'\\''`)}'`;
  const hex = (run: string) => [...run].map((c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, "0")}`).join("");
  return `$'${word.replace(/[\\']/g, "\\$&").replace(UNSEEN, hex)}'`;
}
