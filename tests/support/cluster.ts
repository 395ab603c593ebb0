import { PROGRAMS } from "./repository.ts";
import { type Running, start } from "./run.ts";
import { removeTree, tempDir } from "./temp_dir.ts";

/** A private orchestrator in local mode, with a state directory of its own. It and its agents end with the scope. */
export interface Cluster extends AsyncDisposable {
  /** "localhost:PORT": RBS_ORCHESTRATOR_ADDR. */
  address: string;
  port: number;
  /** RBS_STATE_DIR. Absolute. */
  state: string;
  /** The variables with which the proxy and jbazel find it. */
  env: Record<string, string>;
  /** The orchestrator that runs now. */
  orchestrator: Running;
  /** The startup option that sends a stock client through RBS. */
  serverJavabase: string;
  /** Ends the orchestrator cleanly (SIGTERM), its agents with it. */
  stop(): Promise<void>;
  /** Starts it again, on the same port and state. */
  restart(): Promise<void>;
}

/** How a cluster is started. */
export interface ClusterOptions {
  /** More arguments of the orchestrator. */
  args?: readonly string[];
  /** More variables of the orchestrator, and so of its agents. */
  env?: Record<string, string | undefined>;
  /** The state directory. @default a temporary one, which goes with the scope */
  state?: string;
}

/** Starts dist/orchestrator on a free port, and waits for its ready line. */
export async function startCluster(options: ClusterOptions = {}): Promise<Cluster> {
  const temporary = options.state ? undefined : await tempDir("rbs-state-");
  const state = options.state ?? temporary!.path;
  const base = { RBS_STATE_DIR: state };

  const launch = async (port: number) => {
    const argv = [PROGRAMS.orchestrator, "--local-mode", `--port=${port}`, ...options.args ?? []];
    const orchestrator = start(argv, { env: { ...base, ...options.env }, timeout: 30 * 60_000 });
    const [, host, ready] = await orchestrator.says(/ready on (\S+):(\d+)/);
    return { orchestrator, host, port: Number(ready) };
  };

  const first = await launch(0).catch(async (error) => {
    if (temporary) await temporary[Symbol.asyncDispose]();
    throw error;
  });
  const address = `${first.host}:${first.port}`;
  const cluster: Cluster = {
    address,
    port: first.port,
    state,
    env: { ...base, RBS_ORCHESTRATOR_ADDR: address },
    orchestrator: first.orchestrator,
    serverJavabase: `--server_javabase=${PROGRAMS.javabase}`,
    async stop() {
      try {
        cluster.orchestrator.kill("SIGTERM");
      } catch {
        // It has ended already.
      }
      await cluster.orchestrator.finished;
    },
    async restart() {
      cluster.orchestrator = (await launch(cluster.port)).orchestrator;
    },
    async [Symbol.asyncDispose]() {
      const forced = setTimeout(() => cluster.orchestrator.kill("SIGKILL"), 20_000);
      await cluster.stop().catch(() => {});
      clearTimeout(forced);
      if (temporary) await removeTree(state);
    },
  };
  return cluster;
}
