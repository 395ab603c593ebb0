import assert from "node:assert/strict";
import { join } from "node:path";
import { pause } from "../../../proto/base/timers.ts";
import { tempDirSync } from "../../../tests/support/temp_dir.ts";
import { AdoptedProcess } from "./adopted_process.ts";
import { agentsFolder, aliveFile, makeAgentFolder } from "./agent_folder.ts";

const LOOK_MS = 20;

/** A folder whose file somebody locks who is not the agent. */
function heldFolder(storage: string): { folder: string } & Disposable {
  const folder = join(agentsFolder(storage), "agent");
  Deno.mkdirSync(folder, { recursive: true });
  makeAgentFolder(folder);
  const file = Deno.openSync(aliveFile(folder), { write: true });
  file.lockSync(true);
  return { folder, [Symbol.dispose]: () => file.close() };
}

Deno.test("an agent that was killed is gone, also if somebody else of its user holds its file", async () => {
  using storage = tempDirSync();
  using held = heldFolder(storage.path);
  const child = new Deno.Command("sleep", { args: ["60"] }).spawn();
  const adopted = new AdoptedProcess(child.pid, held.folder, undefined, LOOK_MS);
  assert.equal(await Promise.race([adopted.ended, pause(5 * LOOK_MS)]), undefined);
  adopted.signal("KILL");
  assert.equal((await child.status).signal, "SIGKILL");
  let isGone = false;
  void adopted.ended.then(() => isGone = true);
  for (let i = 0; i < 250 && !isGone; i++) await pause(LOOK_MS);
  adopted.letGo();
  assert(isGone);
});

Deno.test("an agent that was asked to end, and does not, is not gone", async () => {
  using storage = tempDirSync();
  using held = heldFolder(storage.path);
  const child = new Deno.Command("true").spawn();
  await child.status;
  const adopted = new AdoptedProcess(child.pid, held.folder, undefined, LOOK_MS);
  let isGone = false;
  void adopted.ended.then(() => isGone = true);
  adopted.signal("TERM");
  await pause(10 * LOOK_MS);
  assert(!isGone);
  adopted.letGo();
});
