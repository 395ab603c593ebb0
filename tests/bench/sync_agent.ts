/**
 * `sync_agent.ts STORAGE OUTPUT_BASE`: an agent's Workspace service as a program, for the benchmark. Prints its port; ends
 * with its standard input. For each line of that, a folder, it makes the digests of the files in it, as it has made them
 * when a command has ended and its outputs are listed; then it prints a line.
 */
import { join, relative } from "node:path";
import { listenForProxy } from "../../agent/commands/command_port.ts";
import { DigestCache } from "../../agent/outputs/digest_cache.ts";
import { openStorage } from "../../agent/namespace/storage_folder.ts";
import { DeveloperPaths } from "../../agent/workspace/developer_paths.ts";
import { SyncedWorkspace } from "../../agent/workspace/synced_workspace.ts";
import { scanTree } from "../../proto/tree/scan.ts";
import { WorkspaceService } from "../../agent/workspace/workspace_service.ts";

const [storageDirectory, outputBase] = Deno.args;
const storage = openStorage(storageDirectory);
const paths = new DeveloperPaths({ outputBase, storageOutputBase: () => "out" });
const workspace = new SyncedWorkspace({ storage, paths, outputBase, log: console.error, watch: () => storage.watch() });
const digests = new DigestCache(storage);
const service = new WorkspaceService(storage, workspace, paths, digests);
const { port } = listenForProxy({
  at: "127.0.0.1",
  gate: { admit() {} },
  handlers: {
    "/rbs.v1.Workspace/Open": (...call) => service.open(...call),
    "/rbs.v1.Workspace/Apply": (...call) => service.apply(...call),
    "/rbs.v1.Workspace/Fetch": (...call) => service.fetch(...call),
  },
  relay: () => Promise.reject(new Error("there is no Bazel here")),
  onError: (what, error) => console.error(what, error),
});
console.log(port);
for await (const folder of Deno.stdin.readable.pipeThrough(new TextDecoderStream())) {
  const within = relative(storageDirectory, folder.trim());
  for (const [path, entry] of await scanTree(storage, within)) {
    if (entry.kind === "file") await digests.digest(join(within, path), entry);
  }
  console.log("{}");
}
Deno.exit(0);
