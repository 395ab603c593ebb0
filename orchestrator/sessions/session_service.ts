import { sentence } from "../../proto/base/errors.ts";
import { KeyedMutex } from "../../proto/base/keyed_mutex.ts";
import { Code, RpcError } from "../../proto/transport/rpc/client.ts";
import { StepBoard } from "../agents/start_progress.ts";
import { OwnLease } from "../peers/orchestrator_lease.ts";
import type { Session, SessionKey } from "../store/session.ts";
import { Adoption } from "./adoption.ts";
import type { Caller } from "./caller.ts";
import { IdleReaper } from "./idle_reaper.ts";
import { OrphanSweep } from "./orphan_sweep.ts";
import type { ServerRequest } from "./server_request.ts";
import { ServerRequests } from "./server_requests.ts";
import { SessionAgents } from "./session_agents.ts";
import type { SessionContext } from "./session_context.ts";
import { ENDING, SessionEnds } from "./session_ends.ts";
import type { SessionServiceOptions } from "./session_service_options.ts";
import { StartQueue } from "./start_queue.ts";
import { servedBy } from "./without_server_id.ts";

/** The default of {@link SessionServiceOptions.secondIdleTimeoutMs}. */
const SECOND_IDLE_TIMEOUT_MS = 900_000;

/**
 * Decides who starts an agent and who waits for it, keeps sessions alive and ends them. All state that matters is in the
 * store; memory is lost with this object.
 */
export class SessionService {
  readonly #options: SessionServiceOptions;
  readonly #context: SessionContext;
  readonly #agents: SessionAgents;
  readonly #adoption: Adoption;
  readonly #ends: SessionEnds;
  readonly #requests: ServerRequests;
  readonly #sweep: OrphanSweep;
  readonly #ending = new AbortController();

  constructor(options: SessionServiceOptions) {
    this.#options = options;
    this.#context = this.#newContext(options);
    this.#agents = new SessionAgents(this.#context);
    this.#adoption = new Adoption(this.#context, this.#agents);
    this.#ends = new SessionEnds(this.#context, this.#agents, this.#adoption);
    this.#requests = new ServerRequests(this.#context, this.#agents, this.#adoption, this.#ends);
    this.#sweep = new OrphanSweep({
      compute: options.compute,
      store: options.store,
      intervalMs: options.sweepIntervalMs ?? 60_000,
      log: options.log,
      mend: (session) => this.#adoption.mendIfOrphan(session),
    });
  }

  /** What the parts share. What its members call is made after them, and before the first of them is used. */
  #newContext(options: SessionServiceOptions): SessionContext {
    const steps = new StepBoard();
    const lease = new OwnLease({
      address: () => "",
      durationMs: 10_000,
      ...options.orchestrator,
      store: options.leases,
      log: options.log,
      now: options.now,
      onLost: () => this.#agents.letGo(),
      onOrphans: () =>
        this.#adoption.adoptOrphans().catch((e) => options.log(`sessions could not be adopted: ${sentence(e)}`)),
    });
    const reaper = new IdleReaper({
      store: options.store,
      now: options.now,
      isOurs: (session) => session.holder === lease.id,
      idleTimeoutMs: options.idleTimeoutMs,
      secondIdleTimeoutMs: options.secondIdleTimeoutMs ?? SECOND_IDLE_TIMEOUT_MS,
      lastCommand: (session) => this.#agents.of(session)?.lastCommand,
      log: options.log,
      isBusy: (session) => (this.#agents.of(session)?.runningCommands ?? 0) > 0,
      expire: (session) => this.#ends.expire(session),
    });
    const { limits } = options;
    const queue = limits?.agents || limits?.agentsPerUser
      ? new StartQueue<Caller>({
        ...options,
        limits,
        steps,
        start: (callers) => this.#requests.startQueued(callers),
      })
      : undefined;
    const now = options.now ?? Date.now;
    return { options, now, lease, steps, mutex: new KeyedMutex(), reaper, queue, ending: this.#ending.signal };
  }

  /**
   * Starts, and adopts what orchestrators that are gone have left: agents that answer continue, ending agents are
   * ended, and starts that cannot finish fail. Resolves when the store was read; agents are contacted in the
   * background.
   */
  async adopt(): Promise<void> {
    await this.#context.lease.begin();
    await this.#adoption.adoptOrphans();
    await this.#context.reaper.start();
    this.#sweep.start();
    await this.#options.pool?.start(this.#context.lease);
  }

  /**
   * Resolves when the session has an agent that answered. Starts one if necessary, and again after a transient failure.
   * Throws an RpcError with UNAVAILABLE or FAILED_PRECONDITION if it cannot have one.
   *
   * @param signal Aborted when the caller is gone; a start that it caused continues.
   * @param onStep Called with the latest step of the start and with each that follows.
   */
  getServer(request: ServerRequest, signal: AbortSignal, onStep?: (step: string) => void): Promise<Session> {
    return this.#requests.get(request, signal, onStep);
  }

  /**
   * Records that the session's owner is alive. Throws an RpcError: NOT_FOUND if there is no such session,
   * FAILED_PRECONDITION if it has another owner or no agent.
   *
   * @returns milliseconds until the next heartbeat is due
   */
  async heartbeat(of: SessionKey, sessionId: string): Promise<number> {
    const { store, idleTimeoutMs } = this.#options;
    let key = of;
    const touch = () => store.touch(key, sessionId, this.#context.now());
    if (!await touch() && ((key = await servedBy(of, store)) === of || !await touch())) {
      const session = await store.get(key);
      if (!session) {
        throw new RpcError(Code.NOT_FOUND, "There is no such session (any more); ask for the server again.");
      }
      throw new RpcError(
        Code.FAILED_PRECONDITION,
        session.sessionId !== sessionId
          ? "Another client has taken the session over; ask for the server again."
          : `The session is ${session.status} (${session.failure}); ask for the server again.`,
      );
    }
    if (this.#adoption.hasOtherMode && (await store.get(key))?.synced === !this.#options.synced) {
      // Its client continues with its agent until it asks again, and then gets one of this mode.
      throw new RpcError(
        Code.FAILED_PRECONDITION,
        "The orchestrator was started in another mode; ask for the server again.",
      );
    }
    return Math.max(1000, Math.min(30_000, idleTimeoutMs / 3));
  }

  /**
   * Ends a session and its agent. Resolves when it has ended.
   *
   * @param sessionId Requires this id; empty for any.
   * @returns whether this call ended something
   */
  release(of: SessionKey, sessionId: string, reason?: string): Promise<boolean> {
    return this.#ends.release(of, sessionId, reason);
  }

  /** Whether new sessions are synced. */
  get synced(): boolean {
    return this.#options.synced;
  }

  /** The sessions of all users, oldest first. */
  listAll(): Promise<Session[]> {
    return this.#options.store.list();
  }

  /** The sessions of a user, oldest first. */
  list(userId: string): Promise<Session[]> {
    return this.#options.store.list(userId);
  }

  /**
   * Refuses all callers, and leaves the sessions to other orchestrators; if there are none, ends all sessions and their
   * agents. Resolves when that is done.
   */
  async stop(): Promise<void> {
    this.#ending.abort(new RpcError(Code.UNAVAILABLE, ENDING));
    this.#context.reaper.stop();
    this.#sweep.stop();
    const pool = this.#options.pool?.stop();
    await this.#ends.endAll(pool);
    await pool;
  }

  /** Kills all agents of this orchestrator, unless others get them, so that {@link stop} finishes. */
  kill(): void {
    this.#ends.kill();
  }
}
