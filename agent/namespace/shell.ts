import { RbsError } from "../../proto/base/errors.ts";

/** `text` as one word of a bash script, whatever it holds. Throws an RbsError for a NUL, which no argument can hold. */
export function quote(text: string): string {
  if (text.includes("\0")) throw new RbsError("An argument holds a NUL byte: leave it out.", { culprit: "caller" });
  return `'${text.replaceAll("'", `'\\''`)}'`;
}

/** The words of a command, quoted and joined. */
export function quoteAll(words: readonly string[]): string {
  return words.map(quote).join(" ");
}

/** What a script said. */
export interface ShellResult {
  code: number;
  stdout: string;
  stderr: string;
}

/**
 * Runs a bash script outside of the session's namespace and waits for it. bash is the only program that the agent
 * starts by itself: whatever else it needs is found by bash on PATH.
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
