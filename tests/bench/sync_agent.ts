/**
 * `sync_agent.ts STORAGE OUTPUT_BASE`: an agent's Workspace service as a program, for the benchmark. Prints its port; ends
 * with its standard input. For each line of that, a folder, it makes the digests of the files in it, as it has made them
 * when a command has ended and its outputs are listed; then it prints a line.
 */
import { join } from "node:path";
import { listenForProxy } from "../../agent/command_port.ts";
import { DigestCache } from "../../agent/outputs/digest_cache.ts";
import { DeveloperPaths } from "../../agent/workspace/developer_paths.ts";
import { SyncedWorkspace } from "../../agent/workspace/synced_workspace.ts";
import { scanTree } from "../../proto/tree/scan.ts";
import { WorkspaceService } from "../../agent/workspace/workspace_service.ts";

const [storageDirectory, outputBase] = Deno.args;
const storageOutputBase = () => join(storageDirectory, "out");
const paths = new DeveloperPaths({ storageDirectory, outputBase, storageOutputBase });
const workspace = new SyncedWorkspace({ storageDirectory, paths, outputBase, log: console.error });
const digests = new DigestCache();
const service = new WorkspaceService(workspace, paths, digests);
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
  for (const [path, entry] of await scanTree(folder.trim())) {
    if (entry.kind === "file") await digests.digest(join(folder.trim(), path), entry);
  }
  console.log("{}");
}
Deno.exit(0);
