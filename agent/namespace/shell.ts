import { RbsError } from "../../proto/base/errors.ts";

/** Quotes any text as one word of a bash script. Throws an RbsError for a NUL, which no argument can contain. */
export function quote(text: string): string {
  if (text.includes("\0")) throw new RbsError("An argument holds a NUL byte: leave it out.", { culprit: "caller" });
  return `'${text.replaceAll("'", `'\\''`)}'`;
}

/** Quotes and joins the words of a command. */
export function quoteAll(words: readonly string[]): string {
  return words.map(quote).join(" ");
}

/** The result of a script. */
export interface ShellResult {
  code: number;
  stdout: string;
  stderr: string;
}

/**
 * Runs a bash script outside of the session's namespace and waits for it. The agent starts no program but bash, which
 * finds others on PATH.
 *
 * @param args The script's $1, $2, …
 */
export async function shell(script: string, args: readonly string[] = []): Promise<ShellResult> {
  const { code, stdout, stderr } = await new Deno.Command("bash", {
    args: ["-c", script, "bash", ...args],
    stdin: "null",
    stdout: "piped",
    stderr: "piped",
  }).output();
  const decoder = new TextDecoder();
  return { code, stdout: decoder.decode(stdout), stderr: decoder.decode(stderr) };
}
