/**
 * What an agent on this machine has beside its session's storage, below the storage root:
 *
 *     .agents/<agent id>-<start>/        its working directory and log until it has a session
 *     .agents/<agent id>-<start>.alive   a file that it locks for as long as it lives
 *
 * Names and links there are the orchestrator's: with --agent-user, `.agents` is root's, and the agent's user can change
 * only what is in the folder and in the file.
 */
import { readdirSync } from "node:fs";
import { join } from "node:path";
import { type AgentUser, makeStorage, removeStorage } from "./agent_user.ts";

/** One that is younger may be an agent that has not locked its file yet. Milliseconds. */
const YOUNG_MS = 10 * 60_000;
const ALIVE = ".alive";

/** The folder of all agents. No user's storage: those have no dot at their beginning. */
export function agentsFolder(storageRoot: string): string {
  return join(storageRoot, ".agents");
}

/**
 * A folder for one start of an agent. A session whose warm agent was lost starts another under the same id, while what the
 * first one has left may still be there, or on its way out.
 */
export function newAgentFolder(storageRoot: string, agentId: string): string {
  return join(agentsFolder(storageRoot), `${agentId}-${crypto.randomUUID().slice(0, 8)}`);
}

/** The file that an agent with this folder locks. */
export function aliveFile(folder: string): string {
  return folder + ALIVE;
}

/** Makes an agent's folder and file. Throws what the disk throws. */
export function makeAgentFolder(folder: string, user?: AgentUser): void {
  makeStorage(folder, user);
  const path = aliveFile(folder);
  // A new one, for which nobody can have left a link.
  Deno.writeTextFileSync(path, "", { createNew: true, mode: 0o600 });
  if (user) Deno.chownSync(path, user.uid, user.gid);
}

/** Whether the agent with this folder lives. False if there is no such file. */
export function isAlive(folder: string): boolean {
  let file: Deno.FsFile;
  try {
    file = Deno.openSync(aliveFile(folder), { read: true });
  } catch (e) {
    if (e instanceof Deno.errors.NotFound) return false;
    throw e;
  }
  // The lock is shared, since several orchestrators may look at once, and ends with the file.
  using _file = file;
  return !file.tryLockSync(false);
}

/** Removes what is left of an agent that is gone. Rejects with what the disk says. */
export async function removeAgentFolder(folder: string, user?: AgentUser): Promise<void> {
  // First, since the file says that there is something.
  await removeStorage(folder, user).catch((e) => {
    if (!(e instanceof Deno.errors.NotFound)) throw e;
  });
  await Deno.remove(aliveFile(folder)).catch((e) => {
    if (!(e instanceof Deno.errors.NotFound)) throw e;
  });
}

/** The folders of agents that are gone, whichever orchestrator had them. Throws what the disk throws. */
export function foldersOfGone(storageRoot: string, youngMs = YOUNG_MS): string[] {
  const root = agentsFolder(storageRoot);
  let names: string[] = [];
  try {
    names = readdirSync(root);
  } catch (e) {
    if ((e as { code?: string }).code !== "ENOENT") throw e;
  }
  const folders = new Set(names.map((name) => join(root, name.endsWith(ALIVE) ? name.slice(0, -ALIVE.length) : name)));
  return [...folders].filter((folder) => {
    const made = ageOf(aliveFile(folder)) ?? ageOf(folder);
    return made !== undefined && made >= youngMs && !isAlive(folder);
  });
}

/** How long ago something was made or changed, in milliseconds. */
function ageOf(path: string): number | undefined {
  try {
    return Date.now() - (Deno.lstatSync(path).mtime?.getTime() ?? 0);
  } catch (e) {
    if (e instanceof Deno.errors.NotFound) return undefined;
    throw e;
  }
}
