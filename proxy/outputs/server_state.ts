/**
 * Whose the output base is: a Bazel server's on this machine, or an agent's. A server believes what an earlier one has left
 * there. So the two never share it: one's is put aside while the other is at work.
 *
 *     a local server's                    an agent's (nobody here may believe it)
 *     execroot, external, action_cache    execroot, external           in place
 *     *.before-rbs                        rbs/away/*                   put aside
 *
 * Whoever kills the proxy (power is lost, say) and starts a local server next finds the agent's outputs in place. Then it
 * finds nothing by which a server would believe them:
 *
 *     action_cache                        put aside: without it every action runs again
 *     external/@REPOSITORY.marker         never comes home (allowed_paths.ts): each repository is fetched again
 *     TOOL.runfiles/MANIFEST              comes home as a symlink, which tells a server to make the tree anew (manifest.ts)
 */
import { basename } from "node:path";
import { isRepositoryName } from "../../proto/bazel/repository_name.ts";
import { chmodSync, mkdirSync, removeSync } from "../../proto/tree/file_calls.ts";
import { lookAt, readLink, removeTree } from "./output_folders.ts";

/** Where RBS keeps its own, below the output base. */
export const OURS = "rbs";

/** Of an output base: what an agent's outputs are in, and what a local server knows of its own. */
const OUTPUTS = ["execroot", "external"], KNOWLEDGE = "action_cache";

/** What is a link to an agent's storage while laptop and agent share a disk. */
const SHARED_NAMES = ["execroot", "external", "command.log", "command.profile.gz", "java.log", "sandbox"];

/** Makes the folder that only this user may look into, whatever the umask says. @param outputBase Absolute. */
export function makeOurs(outputBase: string): string {
  const path = `${outputBase}/${OURS}`;
  const info = lookAt(path);
  if (info && info.kind !== "directory") removeSync(path);
  if (info?.kind !== "directory") mkdirSync(path);
  if (info?.kind !== "directory" || (info.mode & 0o7777) !== 0o700) chmodSync(path, 0o700);
  return path;
}

/** What the file {@link OURS}/agent says: where an agent's outputs are. Without it there are none, or an old RBS's. */
type Outputs = "in place" | "put aside";

/**
 * An agent's outputs are about to be written: what a local server has made is put aside. Rejects with what Deno throws.
 *
 * @param outputBase Absolute.
 */
export async function takeOver(outputBase: string): Promise<void> {
  const at = (name: string) => `${outputBase}/${name}`;
  const ours = makeOurs(outputBase);
  removeSharedLinks(outputBase);
  const names = [...OUTPUTS, KNOWLEDGE];
  if (read(outputBase) === undefined && lookAt(`${ours}/outputs.index`)) {
    // An RBS that did not keep them apart: nobody can say what of it is whose.
    for (const name of names) await removeTree(at(name));
  } else if (isLocal(outputBase)) {
    for (const name of names) {
      await removeTree(at(`${name}.before-rbs`));
      move(at(name), at(`${name}.before-rbs`));
    }
  }
  for (const name of OUTPUTS) {
    if (!lookAt(at(name))) move(`${ours}/away/${name}`, at(name));
  }
  await removeTree(`${ours}/away`);
  write(outputBase, "in place");
}

/**
 * A local server will work here next: what is an agent's is put aside, and what a local server had made comes back. Costs
 * some renames. Rejects with what Deno throws.
 *
 * @param outputBase Absolute; it need not be there.
 * @returns whether there was anything of an agent's
 */
export async function handBack(outputBase: string): Promise<boolean> {
  const at = (name: string) => `${outputBase}/${name}`;
  const hadLinks = removeSharedLinks(outputBase);
  if (read(outputBase) !== "in place") return hadLinks;
  // A server that has been here since has made what is in place its own.
  if (isLocal(outputBase)) return hadLinks;
  const away = `${makeOurs(outputBase)}/away`;
  await removeTree(away);
  mkdirSync(away);
  for (const name of OUTPUTS) move(at(name), `${away}/${name}`);
  restore(outputBase, [...OUTPUTS, KNOWLEDGE]);
  write(outputBase, "put aside");
  return true;
}

/** The folder in which an agent's outputs are: the output base, or where they were put aside; undefined: there are none. */
export function agentOutputs(outputBase: string): string | undefined {
  const where = read(outputBase);
  return where && (where === "in place" ? outputBase : `${outputBase}/${OURS}/away`);
}

function read(outputBase: string): Outputs | undefined {
  try {
    return Deno.readTextFileSync(`${outputBase}/${OURS}/agent`) as Outputs;
  } catch {
    return undefined;
  }
}

function write(outputBase: string, outputs: Outputs): void {
  Deno.writeTextFileSync(`${outputBase}/${OURS}/agent`, outputs, { mode: 0o600 });
}

/** Whether a server of this machine has worked in the output base as it stands. */
function isLocal(outputBase: string): boolean {
  if (lookAt(`${outputBase}/${KNOWLEDGE}`)) return true;
  if (lookAt(`${outputBase}/external`)?.kind !== "directory") return false;
  for (const { name } of Deno.readDirSync(`${outputBase}/external`)) if (!isRepositoryName(name)) return true;
  return false;
}

/** Takes links to an agent's storage away, and puts back what was there before. @returns whether there were any */
function removeSharedLinks(outputBase: string): boolean {
  const shared = SHARED_NAMES.filter((name) => {
    const target = readLink(`${outputBase}/${name}`);
    return target?.startsWith("/") && basename(target) === name;
  });
  if (shared.length === 0) return false;
  const storage = readLink(`${outputBase}/execroot`)?.replace(/\/execroot$/, "");
  const external = `${outputBase}/external`;
  if (lookAt(external)?.kind === "directory") {
    const isLink = ({ name }: Deno.DirEntry) => readLink(`${external}/${name}`) === `${storage}/external/${name}`;
    if ([...Deno.readDirSync(external)].every(isLink)) removeSync(external, { recursive: true });
  }
  for (const name of shared) Deno.removeSync(`${outputBase}/${name}`);
  restore(outputBase, [...new Set([...SHARED_NAMES, KNOWLEDGE])]);
  return true;
}

/** Puts back what was put aside, where nothing else stands. */
function restore(outputBase: string, names: readonly string[]): void {
  for (const name of names) {
    if (!lookAt(`${outputBase}/${name}`)) move(`${outputBase}/${name}.before-rbs`, `${outputBase}/${name}`);
  }
}

function move(from: string, to: string): void {
  if (lookAt(from)) Deno.renameSync(from, to);
}
