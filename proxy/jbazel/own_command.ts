import { join } from "node:path";
import { shellWord } from "./shell_word.ts";

/**
 * How the user calls this jbazel: by its name if the PATH finds it, otherwise by its path.
 *
 * @param program The `file:` URL of jbazel's main module, or its path.
 */
export function ownCommand(program: string, path = ""): string {
  const file = program.startsWith("file:") ? decodeURIComponent(new URL(program).pathname) : program;
  // Run from its source, it has no command.
  if (file.endsWith(".ts")) return "jbazel";
  const own = realPath(file);
  const found = path.split(":").map((folder) => realPath(join(folder, "jbazel"))).find((f) => f !== undefined);
  return own !== undefined && own === found ? "jbazel" : shellWord(file);
}

function realPath(file: string): string | undefined {
  try {
    return Deno.realPathSync(file);
  } catch {
    return undefined;
  }
}
