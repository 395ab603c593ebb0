/**
 * `sync_proxy.ts PORT WORKSPACE OUTPUT_BASE [unwatched]`: a proxy's part of sync as a program, for the benchmark. For each
 * line of its standard input it does something, and prints a line of JSON, a {@link Done}:
 *
 * - `barrier`: brings the agent on PORT up to date. Unwatched: by a scan.
 * - `home FOLDER OUTPUTS`: fetches into the output base FOLDER what the file OUTPUTS, an Outputs message, names.
 */
import { OutputsHome } from "../../proxy/outputs/outputs_sync.ts";
import { WorkspaceSync } from "../../proxy/workspace/workspace_sync.ts";
import { Connection } from "../../proto/transport/grpc/channel.ts";

/** What it took. */
export interface Done {
  /** Milliseconds. */
  took: number;
  /** The most memory that the program ever had, in MB. */
  peak: number;
}

/** The type of a file system that tells nothing of its changes, as statfs(2) has it: NFS. */
const NFS = 0x6969;

if (import.meta.main) {
  const [port, workspace, outputBase, unwatched] = Deno.args;
  const link = { connection: new Connection("127.0.0.1", Number(port), { keepAlive: true }), headers: () => ({}) };
  const watcher = unwatched ? { fileSystem: () => NFS } : undefined;
  using sync = new WorkspaceSync({ workspace, outputBase, watcher });
  const surroundings = { link, say() {}, signal: new AbortController().signal };

  for await (const text of Deno.stdin.readable.pipeThrough(new TextDecoderStream())) {
    const [what, folder, outputs] = text.trim().split(" ");
    const parts = outputs ? [Deno.readFileSync(outputs)] : [];
    const began = performance.now();
    if (what === "barrier") await sync.barrier(surroundings);
    else await new OutputsHome({ outputBase: folder, workspace }).take(parts, surroundings);
    const took = performance.now() - began;
    const peak = Number(/VmHWM:\s+(\d+)/.exec(Deno.readTextFileSync("/proc/self/status"))![1]) / 1024;
    console.log(JSON.stringify({ took, peak } satisfies Done));
  }
  sync.close();
  Deno.exit(0);
}
