/** What tests of the SessionService share: a service with a store and agents, and shorthands for asking it. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { Code, RpcError } from "../../proto/transport/rpc/client.ts";
import { ComputeChoice } from "../compute/compute_choice.ts";
import { repoHash } from "../../proto/bazel/workspace.ts";
import type { Session } from "../store/session.ts";
import type { ServerRequest } from "../sessions/server_request.ts";
import { SessionService } from "../sessions/session_service.ts";
import type { SessionServiceOptions } from "../sessions/session_service_options.ts";
import { SqliteStore } from "../store/sqlite_store.ts";
import type { FakeAgentServer } from "./fake_agent_server.ts";
import { InstantClock } from "./instant_clock.ts";
import type { WarmAgent } from "../store/warm_agent_store.ts";
import { WarmPool } from "../agents/warm_pool.ts";
import { InProcessCompute } from "./in_process_compute.ts";
import { tempDirSync } from "../../tests/support/temp_dir.ts";
import { eventually } from "../../tests/support/eventually.ts";

/** Two session ids. */
export const A = "a".repeat(32);
export const B = "b".repeat(32);
/** Startup options of one and the same Bazel server. */
export const OPTIONS = ["--one", "--two"];

/** A request of ann for the workspace /ws, unless `change` says otherwise. */
export function request(change: Partial<ServerRequest> = {}): ServerRequest {
  const sourcePath = change.sourcePath ?? "/ws";
  return {
    userId: "ann",
    repoHash: repoHash(sourcePath),
    serverId: "",
    sessionId: A,
    sourcePath,
    startupOptions: OPTIONS,
    region: "",
    ...change,
  };
}

/** What a test may choose. */
export type WorldOptions = Partial<SessionServiceOptions> & {
  /** The size of the warm pool, which starts with {@link SessionService.adopt}. @default 0 */
  warm?: number;
  /** See WarmPoolOptions. @default 0 */
  settleMs?: number;
};

/** A service with a store on the disk and agents in this process. */
export class World implements AsyncDisposable {
  readonly temp = tempDirSync();
  readonly compute = new InProcessCompute();
  store = SqliteStore.open(join(this.temp.path, "s.sqlite"));
  pool?: WarmPool;
  /** Where orchestrators listened that are gone. */
  readonly gone = new Set<string>();
  #services = 0;
  service = this.newService();

  constructor(readonly change: WorldOptions = {}) {}

  /** The service is never heard of again, and another takes its place. */
  async replace(change = this.change): Promise<void> {
    for (let one = 1; one <= this.#services; one++) this.gone.add(String(one));
    this.service = this.newService(change);
    await this.service.adopt();
  }

  newService(change = this.change): SessionService {
    const address = String(++this.#services);
    return new SessionService({
      pool: this.#newPool(change),
      store: this.store.sessions,
      leases: this.store.leases,
      compute: new ComputeChoice([this.compute]),
      orchestrator: {
        address: () => address,
        durationMs: 10_000,
        isGone: (other) => Promise.resolve(this.gone.has(other)),
      },
      log() {},
      synced: false,
      hiddenPaths: ["/state"],
      leaseSeconds: 60,
      idleTimeoutMs: 60_000,
      startTimeoutMs: 20_000,
      stopGraceMs: 0,
      killAfterMs: 10_000,
      ...change,
    });
  }

  #newPool({ warm = 0, settleMs = 0, limits }: WorldOptions): WarmPool | undefined {
    if (warm === 0) return undefined;
    return this.pool = new WarmPool({
      store: this.store.warmAgents,
      compute: this.compute,
      log() {},
      size: warm,
      limits,
      leaseSeconds: 60,
      startTimeoutMs: 20_000,
      killAfterMs: 10_000,
      settleMs,
      backoffClock: new InstantClock(),
    });
  }

  /** Resolves when so many agents wait in the store, and they are all that there are. */
  async untilWarm(count: number): Promise<WarmAgent[]> {
    return await eventually(async () => {
      const agents = await this.store.warmAgents.list();
      return agents.length === count && agents.every(({ agentPort }) => agentPort !== 0) && agents;
    }, `${count} agents wait`);
  }

  get(change: Partial<ServerRequest> = {}, onStep?: (step: string) => void, signal = new AbortController().signal) {
    const answer = this.service.getServer(request(change), signal, onStep);
    answer.catch(() => {});
    return answer;
  }

  session(change: Partial<ServerRequest> = {}): Promise<Session | undefined> {
    return this.store.sessions.get(request(change));
  }

  /** Resolves when the session is in that state. */
  async until(
    state: Session["status"] | "NONE",
    holds = (_: Session | undefined) => true,
    change: Partial<ServerRequest> = {},
  ): Promise<Session | undefined> {
    for (;;) {
      const changed = Promise.withResolvers<void>();
      const leave = this.store.sessions.watch(request(change), changed.resolve);
      const session = await this.session(change);
      if ((session?.status ?? "NONE") === state && holds(session)) return leave(), session;
      await changed.promise;
      leave();
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const agent of this.compute.agents) agent.close();
    await this.service.stop();
    await this.compute[Symbol.asyncDispose]();
    await this.store[Symbol.asyncDispose]();
    this.temp[Symbol.dispose]();
  }
}

/** Registers a test with a {@link World} of its own. */
export function test(
  promise: string,
  run: (world: World) => Promise<void>,
  change: WorldOptions = {},
) {
  Deno.test({
    name: promise,
    // gRPC's channels close a moment after they are told to.
    sanitizeOps: false,
    sanitizeResources: false,
    fn: async () => {
      await using world = new World(change);
      await run(world);
    },
  });
}

/** Resolves when `promise` rejects with an RpcError like that. */
export function rejects(promise: Promise<unknown>, code: Code, message: RegExp): Promise<void> {
  return assert.rejects(promise, (e: unknown) => {
    assert(e instanceof RpcError, String(e));
    assert.match(e.message, message);
    assert.equal(e.code, code);
    return true;
  });
}

/** Resolves once the agent was told the epoch. */
export async function told(agent: FakeAgentServer, epoch: number): Promise<void> {
  await eventually(() => agent.epochs.includes(epoch));
}
