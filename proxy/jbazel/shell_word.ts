import { UNSEEN } from "./progress.ts";

/** One word of a shell's command line, quoted only where it must be; it can be shown as well. */
export function shellWord(word: string): string {
  if (/^[\w@%+=:,./-]+$/.test(word)) return word;
  if (word.search(UNSEEN) < 0) return `'${word.replaceAll("'", `'\\''`)}'`;
  const hex = (run: string) => [...run].map((c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, "0")}`).join("");
  return `$'${word.replace(/[\\']/g, "\\$&").replace(UNSEEN, hex)}'`;
}
