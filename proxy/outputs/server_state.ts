/**
 * Keeps the outputs of a local Bazel server and of an agent apart in one output base. A server trusts what an earlier
 * one has left there. So one set is put aside while the other is in use.
 *
 *     a local server's                    an agent's (no server here may trust it)
 *     execroot, external, action_cache    execroot, external           in place
 *     *.before-rbs                        rbs/away/*                   put aside
 *
 * If the proxy is killed (by a power failure, say) and a local server starts next, that server finds the agent's
 * outputs in place. But it finds nothing that would make it trust them:
 *
 *     action_cache                        put aside: without it every action runs again
 *     external/@REPOSITORY.marker         never copied here (allowed_paths.ts): each repository is fetched again
 *     TOOL.runfiles/MANIFEST              copied as a symlink, which makes a server rebuild the tree (manifest.ts)
 */
import { basename } from "node:path";
import { isRepositoryName } from "../../proto/bazel/repository_name.ts";
import { chmodSync, mkdirSync, removeSync } from "../../proto/tree/file_calls.ts";
import { lookAt, readLink, removeTree } from "./output_folders.ts";

/** RBS's own directory in the output base. */
export const OURS = "rbs";

/** Directories of outputs, and the file by which a local server trusts its own. */
const OUTPUTS = ["execroot", "external"], KNOWLEDGE = "action_cache";

/** Links to an agent's storage while laptop and agent share a disk. */
const SHARED_NAMES = ["execroot", "external", "command.log", "command.profile.gz", "java.log", "sandbox"];

/** Makes RBS's directory, private to this user whatever the umask. @param outputBase Absolute. */
export function makeOurs(outputBase: string): string {
  const path = `${outputBase}/${OURS}`;
  const info = lookAt(path);
  if (info && info.kind !== "directory") removeSync(path);
  if (info?.kind !== "directory") mkdirSync(path);
  if (info?.kind !== "directory" || (info.mode & 0o7777) !== 0o700) chmodSync(path, 0o700);
  return path;
}

/**
 * Content of the file {@link OURS}/agent: where the agent's outputs are. Without the file there are none, or those of
 * an older RBS.
 */
type Outputs = "in place" | "put aside";

/**
 * Prepares for an agent's outputs: puts a local server's aside. Rejects with Deno's errors.
 *
 * @param outputBase Absolute.
 */
export async function takeOver(outputBase: string): Promise<void> {
  const at = (name: string) => `${outputBase}/${name}`;
  const ours = makeOurs(outputBase);
  removeSharedLinks(outputBase);
  const names = [...OUTPUTS, KNOWLEDGE];
  if (read(outputBase) === undefined && lookAt(`${ours}/outputs.index`)) {
    // An older RBS did not keep them apart, so nothing here can be attributed.
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
 * Prepares for a local server: puts an agent's outputs aside, and restores the local server's. Costs some renames.
 * Rejects with Deno's errors.
 *
 * @param outputBase Absolute; need not exist.
 * @returns whether there were any outputs of an agent
 */
export async function handBack(outputBase: string): Promise<boolean> {
  const at = (name: string) => `${outputBase}/${name}`;
  const hadLinks = removeSharedLinks(outputBase);
  if (read(outputBase) !== "in place") return hadLinks;
  // A server that ran here since has taken over what is in place.
  if (isLocal(outputBase)) return hadLinks;
  const away = `${makeOurs(outputBase)}/away`;
  await removeTree(away);
  mkdirSync(away);
  for (const name of OUTPUTS) move(at(name), `${away}/${name}`);
  restore(outputBase, [...OUTPUTS, KNOWLEDGE]);
  write(outputBase, "put aside");
  return true;
}

/**
 * The directory with an agent's outputs: the output base, or where they were put aside. Undefined if there are none.
 */
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

/** Whether a server on this machine has used the output base in its present state. */
function isLocal(outputBase: string): boolean {
  if (lookAt(`${outputBase}/${KNOWLEDGE}`)) return true;
  if (lookAt(`${outputBase}/external`)?.kind !== "directory") return false;
  for (const { name } of Deno.readDirSync(`${outputBase}/external`)) if (!isRepositoryName(name)) return true;
  return false;
}

/**
 * Removes links to an agent's storage, and restores what they replaced.
 * @returns whether there were any
 */
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

/** Restores what was put aside where the place is free. */
function restore(outputBase: string, names: readonly string[]): void {
  for (const name of names) {
    if (!lookAt(`${outputBase}/${name}`)) move(`${outputBase}/${name}.before-rbs`, `${outputBase}/${name}`);
  }
}

function move(from: string, to: string): void {
  if (lookAt(from)) Deno.renameSync(from, to);
}
