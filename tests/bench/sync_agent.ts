/**
 * `sync_agent.ts STORAGE OUTPUT_BASE`: an agent's Workspace service as a program, for the benchmark. Prints its port; ends
 * with its standard input.
 */
import { join } from "node:path";
import { listenForProxy } from "../../agent/command_port.ts";
import { DeveloperPaths } from "../../agent/workspace/developer_paths.ts";
import { SyncedWorkspace } from "../../agent/workspace/synced_workspace.ts";
import { WorkspaceService } from "../../agent/workspace/workspace_service.ts";

const [storageDirectory, outputBase] = Deno.args;
const storageOutputBase = () => join(storageDirectory, "out");
const paths = new DeveloperPaths({ storageDirectory, outputBase, storageOutputBase });
const workspace = new SyncedWorkspace({ storageDirectory, paths, outputBase, log: console.error });
const service = new WorkspaceService(workspace, paths);
const { port } = listenForProxy({
  host: "127.0.0.1",
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
await Deno.stdin.readable.pipeTo(new WritableStream());
Deno.exit(0);
