/** The control plane: the real orchestrator with real agents, against a bare grpc-js server where there is a like. */
import * as grpc from "@grpc/grpc-js";
import { Buffer } from "node:buffer";
import { randomBytes } from "node:crypto";
import { join } from "node:path";
import { SqliteStore } from "../../orchestrator/store/sqlite_store.ts";
import { hasEmulator, SpannerEmulator } from "../../orchestrator/testing/spanner_emulator.ts";
import { fields } from "../../orchestrator/testing/session_fields.ts";
import { Orchestrator } from "../../proto/contract/gen/rbs/v1/orchestrator_pb.ts";
import { createRpcClient, type RpcClient } from "../../proto/transport/rpc/client.ts";
import { readValidCredentials, userOf } from "../../proto/identity/key_directory.ts";
import { randomToken } from "../../proto/base/state_directory.ts";
import { repoHash } from "../../proto/bazel/workspace.ts";
import { type Cluster, startCluster } from "../support/cluster.ts";
import { ROOT } from "../support/repository.ts";
import { output, start } from "../support/run.ts";
import { tempDir } from "../support/temp_dir.ts";
import { ECHO } from "./echo_server.ts";
import { interleaved, median, ms, type Result } from "./report.ts";
import { eventually } from "../support/eventually.ts";

/** Calls of one round, and how many of them are on their way at a time. */
const CALLS = 1_000, AT_A_TIME = 16;
const HERD = 1_000;
const WARM = 2;
const FEW = 10, MANY = 10_000;

/** All of it. */
export async function benchControl(say: (text: string) => void): Promise<Result[]> {
  return [
    ...await benchReady(say),
    ...await benchSpanner(say),
    await benchHerd(),
    await benchMany(say),
    ...await benchStart(say),
  ];
}

/** A caller of an orchestrator, for one workspace. */
class Caller implements Disposable {
  readonly #client: RpcClient<typeof Orchestrator>;
  readonly key: { userId: string; repoHash: string; serverId: string };

  constructor({ address, env }: Cluster, readonly sourcePath: string, readonly sessionId = randomToken()) {
    const credentials = readValidCredentials(env.RBS_STATE_DIR);
    const tls = { credentials, expected: { kind: "orchestrator" } } as const;
    this.#client = createRpcClient(Orchestrator, address, { tls });
    this.key = { userId: userOf(credentials), repoHash: repoHash(sourcePath), serverId: "" };
  }

  async getServer() {
    const { key, sessionId, sourcePath } = this;
    return await this.#client.getServer({ ...key, sessionId, sourcePath });
  }

  /** Has the connection made, so that the first call does not wait for it. */
  async connect(): Promise<void> {
    await this.release();
  }

  async release(): Promise<void> {
    await this.#client.releaseServer({ ...this.key, sessionId: "" });
  }

  [Symbol.dispose](): void {
    this.#client.close();
  }
}

/** Calls in one second. */
async function rate(call: () => Promise<unknown>): Promise<number> {
  const began = performance.now();
  let left = CALLS;
  await Promise.all(Array.from({ length: AT_A_TIME }, async () => {
    while (left-- > 0) await call();
  }));
  return CALLS / (performance.now() - began) * 1000;
}

async function benchReady(say: (text: string) => void): Promise<Result[]> {
  await using workspace = await tempDir();
  await using cluster = await startCluster();
  await using server = start([Deno.execPath(), "run", "--allow-all", join(ROOT, "tests/bench/echo_server.ts")]);
  const [port] = await server.says(/^\d+/);
  const client = new grpc.Client(`127.0.0.1:${port}`, grpc.credentials.createInsecure());
  const asIs = (bytes: Buffer) => bytes;
  // About what a GetServer and its answer take.
  const payload = randomBytes(250);
  const echo = () =>
    new Promise<Buffer>((resolve, reject) =>
      client.makeUnaryRequest(ECHO, asIs, asIs, payload, (e, answer) => e ? reject(e) : resolve(answer!))
    );
  using caller = new Caller(cluster, workspace.path);
  await caller.getServer();
  const sides = [() => rate(echo), () => rate(() => caller.getServer())];
  const [bare, ours] = (await interleaved(9, 2, sides, (round) => say(`GetServer, round ${round}`))).map(median);
  client.close();
  server.kill("SIGKILL");
  await server.finished.catch(() => {});
  const ratio = ours / bare;
  return [{
    what: "GetServer on a READY session, SQLite",
    measured: `bare echo ${bare.toFixed(0)}/s, RBS ${ours.toFixed(0)}/s, ratio ${ratio.toFixed(2)}`,
    target: "ratio ≥ 0.60",
    reached: ratio >= 0.6,
  }];
}

/** The same with a store on Google's emulator, one call after the other, and one bare read of the same row. */
async function benchSpanner(say: (text: string) => void): Promise<Result[]> {
  if (!hasEmulator) {
    console.log("Not measured: Spanner, for its emulator is not here.");
    return [];
  }
  await using workspace = await tempDir();
  await using emulator = await SpannerEmulator.start();
  const name = await emulator.newDatabase();
  await using cluster = await startCluster({
    args: [`--store=spanner:${name}`],
    env: { SPANNER_EMULATOR_HOST: emulator.address },
  });
  using caller = new Caller(cluster, workspace.path);
  await caller.getServer();
  const times: number[][] = [];
  await emulator.use(name, async (database) => {
    const { userId, repoHash } = caller.key;
    const sql = "SELECT * FROM ServerSessions WHERE UserId = @userId AND RepoHash = @repoHash AND ServerId = ''";
    const timed = async (call: () => Promise<unknown>) => {
      const began = performance.now();
      await call();
      return performance.now() - began;
    };
    const read = () => timed(() => database.run({ sql, params: { userId, repoHash }, json: true }));
    times.push(
      ...await interleaved(300, 50, [read, () => timed(() => caller.getServer())], (round) => {
        say(`GetServer on Spanner, round ${round}`);
      }),
    );
  });
  const [bare, ours] = times.map(median);
  return [{
    what: "GetServer on a READY session, Spanner's emulator",
    measured: `bare read ${ms(bare)}, RBS ${ms(ours)}, ratio ${(ours / bare).toFixed(2)}`,
    target: "ratio ≤ 1.50",
    reached: ours <= 1.5 * bare,
  }];
}

/** Many callers of one moment for one workspace that has no server yet. */
async function benchHerd(): Promise<Result> {
  await using workspace = await tempDir();
  await using cluster = await startCluster();
  const began = performance.now();
  const callers = Array.from({ length: HERD }, () => new Caller(cluster, workspace.path, "5".repeat(32)));
  const answers = await Promise.allSettled(callers.map((caller) => caller.getServer()));
  const took = performance.now() - began;
  for (const caller of callers) caller[Symbol.dispose]();
  const answered = answers.filter(({ status }) => status === "fulfilled").length;
  const agents = (await output(["pgrep", "-c", "-P", String(cluster.orchestrator.pid)]).catch(() => "0")).trim();
  return {
    what: `${HERD.toLocaleString("en-US")} concurrent GetServers for one key`,
    measured: `${agents} agent, ${answered} answered, ${ms(took)}`,
    target: "1 agent, all answered",
    reached: agents === "1" && answered === HERD,
  };
}

/** A store with many other sessions in it. */
async function benchMany(say: (text: string) => void): Promise<Result> {
  await using workspace = await tempDir();
  await using few = await startFilled(FEW);
  await using many = await startFilled(MANY);
  const sides = [few, many].map(({ cluster }) => {
    const caller = new Caller(cluster, workspace.path);
    return async () => {
      const began = performance.now();
      for (let i = 0; i < 50; i++) await caller.getServer();
      return (performance.now() - began) / 50;
    };
  });
  for (const side of sides) await side();
  const [a, b] = (await interleaved(20, 3, sides, (round) => say(`many sessions, round ${round}`))).map(median);
  return {
    what: `GetServer with ${MANY.toLocaleString("en-US")} sessions in the store`,
    measured: `with ${FEW} ${ms(a)}, with ${MANY} ${ms(b)}, ratio ${(b / a).toFixed(2)}`,
    target: "ratio ≤ 1.20",
    reached: b <= 1.2 * a,
  };
}

async function startFilled(sessions: number): Promise<{ cluster: Cluster } & AsyncDisposable> {
  await using cleanup = new AsyncDisposableStack();
  const state = cleanup.use(await tempDir("rbs-state-")).path;
  {
    await using store = SqliteStore.open(join(state, "sessions.sqlite"));
    for (let i = 0; i < sessions; i++) {
      const key = { userId: `user${i % 100}`, repoHash: repoHash(`/home/user/workspace${i}`), serverId: "" };
      const now = Date.now();
      const start = fields({ createdAt: now, lastHeartbeat: now });
      const session = await store.sessions.transition({ ...key, state: "NONE", epoch: 0 }, "start", start);
      // Those that failed stay where they are until they are forgotten: no agent is needed for them.
      await store.sessions.transition({ ...key, state: "PENDING", epoch: session!.epoch }, "fail", {
        failure: "bench",
      });
    }
  }
  const cluster = cleanup.use(await startCluster({ state }));
  const all = cleanup.move();
  return { cluster, [Symbol.asyncDispose]: () => all.disposeAsync() };
}

/** The time that agents of the round before get to end. Milliseconds. */
const SETTLE_MS = 300;

/** An agent for a workspace that has none yet: from cold, and from the warm pool once it is filled up. */
async function benchStart(say: (text: string) => void): Promise<Result[]> {
  await using cold = await startCluster();
  await using warm = await startCluster({ args: [`--warm=${WARM}`] });
  const sides = [cold, warm].map((cluster) => async () => {
    await using workspace = await tempDir();
    using caller = new Caller(cluster, workspace.path);
    await caller.connect();
    // Also for the other side: agents that start or end have the machine to themselves until they are done.
    await untilWarm(warm, WARM);
    await new Promise((resolve) => setTimeout(resolve, SETTLE_MS));
    const began = performance.now();
    await caller.getServer();
    const took = performance.now() - began;
    await caller.release();
    return took;
  });
  const [a, b] = (await interleaved(12, 2, sides, (round) => say(`agent, round ${round}`))).map(median);
  return [{
    what: "process agent: GetServer to READY, cold",
    measured: ms(a),
    target: "≤ 400 ms",
    reached: a <= 400,
  }, {
    what: `the same from the warm pool (--warm=${WARM})`,
    measured: ms(b),
    target: "≤ 50 ms",
    reached: b <= 50,
  }];
}

/** Resolves when so many agents wait for a session. */
export async function untilWarm(cluster: Cluster, count: number): Promise<void> {
  await using store = SqliteStore.open(join(cluster.state, "sessions.sqlite"));
  await eventually(async () =>
    (await store.warmAgents.list()).filter(({ agentPort }) => agentPort !== 0).length >= count
  );
}
