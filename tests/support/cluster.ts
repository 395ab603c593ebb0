import { join } from "node:path";
import { PROGRAMS } from "./repository.ts";
import { output, type Running, start } from "./run.ts";
import { tempDir } from "./temp_dir.ts";
import { type Surroundings, surroundings, type TwoMachines } from "./two_machines.ts";

/**
 * A private orchestrator in local mode, with a state directory of its own. It and its agents end with the scope.
 *
 * `RBS_TEST_WORKSPACE=synced` lets its agents live as if they shared no disk with the test. A test that runs on a laptop
 * (see on_laptop.ts) has its clusters on the cloud.
 */
export interface Cluster extends AsyncDisposable {
  /** "localhost:PORT", or the cloud's: RBS_ORCHESTRATOR_ADDR. */
  address: string;
  port: number;
  /** The orchestrator's RBS_STATE_DIR, on its machine. Absolute. */
  state: string;
  /** The variables with which the proxy and jbazel find it. */
  env: Record<string, string>;
  /** Its agents share no disk with their clients. */
  synced: boolean;
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
  /** How long the orchestrator may run, in milliseconds: then it is ended, whoever forgot it. @default half an hour */
  lifetimeMs?: number;
  /** Runs it on the cloud; its clients are to run on the laptop. */
  machines?: TwoMachines;
}

/** Starts dist/orchestrator on a free port, and waits for its ready line. */
export async function startCluster(options: ClusterOptions = {}): Promise<Cluster> {
  const machines: (Surroundings & Partial<TwoMachines>) | undefined = options.machines ?? surroundings();
  const on = machines?.cloud;
  const asked = options.args?.findLast((arg) => arg.startsWith("--workspace="))?.slice("--workspace=".length);
  const workspace = asked ?? (Deno.env.get("RBS_TEST_WORKSPACE") || (machines ? "synced" : "shared"));
  const synced = workspace === "synced";
  const { lifetimeMs = 30 * 60_000 } = options;
  const listen = on ? [`--listen=${on.address}`] : [];
  // Nobody makes archives of classes beside a test that is not about them.
  const args = [`--workspace=${workspace}`, "--class-archives=0", ...listen, ...options.args ?? []];
  await using cleanup = new AsyncDisposableStack();
  // A folder of another machine is to be had only there.
  const state = options.state ??
    (on ? (await output(["mktemp", "-d", join(on.directory, "rbs-state-XXXXXX")], { on })).trim() : undefined) ??
    cleanup.use(await tempDir("rbs-state-")).path;
  if (on) cleanup.defer(async () => void await output(["sh", "-c", 'chmod -R u+rwX "$0"; rm -rf "$0"', state], { on }));

  const launch = async (port: number) => {
    const argv = [PROGRAMS.orchestrator, "--local-mode", `--port=${port}`, ...args];
    const orchestrator = start(argv, { on, env: { RBS_STATE_DIR: state, ...options.env }, timeout: lifetimeMs });
    const [, host, ready] = await orchestrator.says(/ready on (\S+):(\d+)/);
    return { orchestrator, host, port: Number(ready) };
  };
  const first = await launch(0);
  const address = `${first.host}:${first.port}`;
  const clientState = on ? cleanup.use(await tempDir("rbs-keys-", options.machines?.laptop.directory)).path : state;
  if (on) {
    const keys = ["ca.crt", "user.pem"];
    const texts = await Promise.all(keys.map((key) => output(["cat", join(state, "keys", key)], { on })));
    await Deno.mkdir(join(clientState, "keys"), { mode: 0o700 });
    for (const [i, key] of keys.entries()) {
      await Deno.writeTextFile(join(clientState, "keys", key), texts[i], { mode: 0o600 });
    }
  }
  const all = cleanup.move();

  const cluster: Cluster = {
    address,
    port: first.port,
    state,
    synced,
    env: { RBS_STATE_DIR: clientState, RBS_ORCHESTRATOR_ADDR: address },
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
      await all.disposeAsync();
    },
  };
  return cluster;
}
