/** Finds which of an agent's outputs are on this machine when there is no index. */
import { Pace } from "../../proto/base/time_slice.ts";
import { readdirSync } from "../../proto/tree/file_calls.ts";
import { lookAt } from "./output_folders.ts";

/** Directories of an output base that hold outputs and what these lead to. */
const FOLDERS = ["execroot", "external"];

/**
 * Finds all files and symlinks in the outputs' directories, and runfiles. Which other directories were copied as a
 * whole cannot be seen.
 *
 * @param folder Contains what an output base contains. Absolute.
 * @returns paths relative to `folder`
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
