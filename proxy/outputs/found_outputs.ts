/** What of an agent's outputs is on this machine, where no index says so. */
import { Pace } from "../../proto/base/time_slice.ts";
import { readdirSync } from "../../proto/tree/file_calls.ts";
import { lookAt } from "./output_folders.ts";

/** Folders of an output base in which outputs and what they lead to are. */
const FOLDERS = ["execroot", "external"];

/**
 * Looks for all files and symlinks in the outputs' folders, and for runfiles. Which other folders were brought home with
 * all that is in them cannot be seen.
 *
 * @param folder Holds what else an output base holds. Absolute.
 * @returns paths relative to it
 */
export async function findOutputs(folder: string): Promise<{ leaves: string[]; trees: string[] }> {
  const leaves: string[] = [], trees: string[] = [];
  const pace = new Pace();
  const waiting = FOLDERS.filter((name) => lookAt(`${folder}/${name}`)?.kind === "directory");
  for (let at = waiting.pop(); at !== undefined; at = waiting.pop()) {
    if (at.endsWith(".runfiles")) {
      trees.push(at);
      continue;
    }
    for (const name of readdirSync(`${folder}/${at}`)) {
      if (pace.due) await pace.rest();
      const path = `${at}/${name}`;
      if (lookAt(`${folder}/${path}`)?.kind === "directory") waiting.push(path);
      else leaves.push(path);
    }
  }
  return { leaves, trees };
}
