import { Backoff, type BackoffClock } from "../../proto/base/backoff.ts";
import { sentence } from "../../proto/base/errors.ts";
import { Code, RpcError } from "../../proto/transport/rpc/client.ts";
import { startupOption } from "../../proto/bazel/startup_options.ts";
import { randomToken } from "../../proto/base/state_directory.ts";
import type { ComputeChoice } from "../compute/compute_choice.ts";
import type { ComputeService } from "../compute/compute_service.ts";
import { raiseEpoch } from "../agents/supervisor.ts";
import { AgentRunner, type AgentRunnerOptions } from "../agents/agent_runner.ts";
import { IdleReaper } from "./idle_reaper.ts";
import { KeyedMutex } from "../../proto/base/keyed_mutex.ts";
import { OrphanSweep } from "./orphan_sweep.ts";
import { OwnLease, type OwnLeaseOptions } from "../peers/orchestrator_lease.ts";
import { hasDefaultOutputBase } from "./second_servers.ts";
import { endpointOf } from "../store/agent_endpoint.ts";
import type { LeaseStore } from "../store/lease_store.ts";
import { keyText, type Session, type SessionKey } from "../store/session.ts";
import { startupOptionsHash } from "./startup_options_hash.ts";
import { type Place, StartQueue } from "./start_queue.ts";
import { StepBoard } from "../agents/start_progress.ts";
import type { AgentLimits } from "../store/agent_limits.ts";
import type { SessionChange } from "../store/session_store.ts";
import type { WarmPool } from "../agents/warm_pool.ts";

/** A request for a server, already validated by request_checks.ts. */
export interface ServerRequest extends SessionKey {
  readonly sessionId: string;
  readonly sourcePath: string;
  readonly startupOptions: readonly string[];
  readonly region: string;
  /**
   * The ServerId of the caller that a session without one is to serve. @default none: the session has the caller's own
   * key
   */
  readonly adopts?: string;
}

/**
 * What happens when a proxy asks for a matching server whose session another proxy process owns: the new one takes over
 * the warm agent, or the agent is ended and the new one gets another.
 */
export type OnBounce = "takeover" | "replace";

/** Options of {@link SessionService}. */
export interface SessionServiceOptions extends Omit<AgentRunnerOptions, "steps" | "lease" | "pool" | "compute"> {
  readonly compute: ComputeChoice;
  readonly leases: LeaseStore;
  /** Agents started ahead. @default none */
  readonly pool?: WarmPool;
  /** How this orchestrator shares the store with others. @default alone, without an address, with a lease of 10 s */
  readonly orchestrator?: Pick<OwnLeaseOptions, "address" | "durationMs" | "isGone">;
  /** Whether new sessions share no files with the developer; sessions of the other kind are replaced. */
  readonly synced: boolean;
  /** A session without heartbeats and commands for this long is ended. Milliseconds. */
  readonly idleTimeoutMs: number;
  /**
   * The same for a session beside a workspace's main one, such as an IDE's, since its last command. Milliseconds.
   * @default 900_000
   */
  readonly secondIdleTimeoutMs?: number;
  /** How long running commands get when their agent is ended. Milliseconds. */
  readonly stopGraceMs: number;
  /** @default "takeover" */
  readonly onBounce?: OnBounce;
  /** Callers beyond these limits queue. @default no limits */
  readonly limits?: AgentLimits;
  /** See StartQueueOptions. */
  readonly lookAgainMs?: number;
  /** Interval at which sessions without a served agent are looked for. Milliseconds. @default 60_000 */
  readonly sweepIntervalMs?: number;
  /** The clock between attempts to start an agent, for tests. */
  readonly backoffClock?: BackoffClock;
}

/** A heartbeat that was recorded this recently need not be recorded again. Milliseconds. */
const NOTED_MS = 1_000;
/** How long an agent of another orchestrator may take to accept an epoch. Milliseconds. */
const RAISE_EPOCH_MS = 2_000;
/** When the orchestrator ends: how long starts get until others can find their agents. Milliseconds. */
const HAND_OVER_MS = 10_000;
/** Number of sessions adopted concurrently. */
const ADOPTED_AT_ONCE = 20;
/** Why a caller that waited for a start got no server when the session vanished. */
const RELEASED = "was released while its agent started; run the command again.";
const LOST = "The agent was lost while it started or while the orchestrator was restarted; run the command again.";
const ENDING = "The orchestrator is being stopped; start it again.";

/** The default of {@link SessionServiceOptions.secondIdleTimeoutMs}. */
const SECOND_IDLE_TIMEOUT_MS = 900_000;

/** How often a start is retried for a caller after transient failures. */
const RETRIES = 2;

/** A caller that waits in {@link SessionService.getServer}. */
interface Caller {
  readonly request: ServerRequest;
  /** Lower numbers came first. */
  readonly arrival: number;
  /** Aborted when the caller is gone, or the orchestrator is ending. */
  readonly signal: AbortSignal;
  /** The epoch of the start that the caller waits for, if any. */
  joined?: number;
  /**
   * The session's former agent was ended for this caller. Only once: two callers that replace each other would never
   * stop.
   */
  hasReplaced?: true;
  /** How often a start was retried for this caller. */
  retries: number;
  /** The backoff between retries. */
  readonly backoff: Backoff;
  /** Aborted when the caller has its answer. */
  readonly over: AbortController;
  /** Reports progress to this caller only. */
  say?(step: string): void;
  /** The caller's place in the queue for agents. */
  place?: Place;
}

/** Why a session's agent does not suit a caller. */
interface Misfit {
  /** Describes the former server to the user: "which …". */
  readonly which: string;
  /** For the operator, and for later callers of the session. */
  readonly reason: string;
  /** For a caller that waited for one agent and finds another: "was replaced …". */
  readonly replaced: string;
}

/** The result of one look at a session for a caller that wants its server. */
type Decision =
  /** The server is ready. */
  | { server: Session }
  /** Something must happen first: to the session, or `until` must settle. Then look again. */
  | { until?: Promise<unknown> };

/**
 * Decides who starts an agent and who waits for it, keeps sessions alive and ends them. Nothing polls: the store's
 * changes wake those who wait. All state that matters is in the store; memory is lost with this object.
 */
export class SessionService {
  readonly #options: SessionServiceOptions;
  readonly #steps = new StepBoard();
  readonly #mutex = new KeyedMutex();
  readonly #runners = new Map<string, AgentRunner>();
  /** Keys of STOPPING sessions that {@link #finishStop} is finishing. */
  readonly #finishing = new Set<string>();
  readonly #lease: OwnLease;
  readonly #now: () => number;
  readonly #reaper: IdleReaper;
  readonly #sweep: OrphanSweep;
  /** Undefined if there are no limits. */
  readonly #queue?: StartQueue<Caller>;
  #arrivals = 0;
  /** Whether other orchestrators get the agents when this one ends. */
  #hasHeirs = false;
  readonly #hurry = Promise.withResolvers<void>();
  readonly #ending = new AbortController();

  constructor(options: SessionServiceOptions) {
    this.#options = options;
    this.#now = options.now ?? Date.now;
    this.#lease = new OwnLease({
      address: () => "",
      durationMs: 10_000,
      ...options.orchestrator,
      store: options.leases,
      log: options.log,
      now: options.now,
      onLost: () => this.#letGo(),
      onOrphans: () => this.#adoptOrphans().catch((e) => options.log(`sessions could not be adopted: ${sentence(e)}`)),
    });
    this.#reaper = new IdleReaper({
      store: options.store,
      now: options.now,
      isOurs: (session) => session.holder === this.#lease.id,
      idleTimeoutMs: options.idleTimeoutMs,
      secondIdleTimeoutMs: options.secondIdleTimeoutMs ?? SECOND_IDLE_TIMEOUT_MS,
      lastCommand: (session) => this.#runners.get(keyText(session))?.lastCommand,
      log: options.log,
      isBusy: (session) => (this.#runners.get(keyText(session))?.runningCommands ?? 0) > 0,
      expire: (session) => this.#expire(session),
    });
    this.#sweep = new OrphanSweep({
      compute: options.compute,
      store: options.store,
      intervalMs: options.sweepIntervalMs ?? 60_000,
      log: options.log,
      mend: (session) => this.#mendIfOrphan(session),
    });
    const { limits } = options;
    if (!limits?.agents && !limits?.agentsPerUser) return;
    this.#queue = new StartQueue({
      ...options,
      limits,
      steps: this.#steps,
      start: (callers) => this.#startQueued(callers),
    });
  }

  /**
   * Starts, and adopts what orchestrators that are gone have left: agents that answer continue, ending agents are
   * ended, and starts that cannot finish fail. Resolves when the store was read; agents are contacted in the
   * background.
   */
  async adopt(): Promise<void> {
    await this.#lease.begin();
    await this.#adoptOrphans();
    await this.#reaper.start();
    this.#sweep.start();
    await this.#options.pool?.start(this.#lease);
  }

  /**
   * Resolves when the session has an agent that answered. Starts one if necessary, and again after a transient failure.
   * Throws an RpcError with UNAVAILABLE or FAILED_PRECONDITION if it cannot have one.
   *
   * @param signal Aborted when the caller is gone; a start that it caused continues.
   * @param onStep Called with the latest step of the start and with each that follows.
   */
  async getServer(request: ServerRequest, signal: AbortSignal, onStep?: (step: string) => void): Promise<Session> {
    let last: string | undefined;
    // The board is cleared between two starts, and when the last caller has left the queue; a repeated step is not
    // reported.
    const say = onStep && ((step: string) => void (step !== last && onStep(last = step)));
    const stopReading = say && this.#steps.read(request, say);
    const arrival = this.#arrivals++;
    try {
      const warm = await this.#warm(request);
      if (warm) return warm;
      for (;;) {
        try {
          return await this.#untilServed(await this.#resolved(request, say), arrival, signal, say);
        } catch (e) {
          if (!(e instanceof NotToBeAdopted)) throw e;
        }
      }
    } finally {
      stopReading?.();
    }
  }

  /** The caller's own server, if nothing has to be changed or recorded: the case of nearly every call. */
  async #warm(request: ServerRequest): Promise<Session | undefined> {
    if (this.#ending.signal.aborted) return undefined;
    const session = await this.#options.store.get(request);
    const isMine = session?.status === "READY" && session.sessionId === request.sessionId &&
      session.synced === this.#options.synced && this.#wasNoted(session);
    if (!isMine) return undefined;
    const runner = this.#runners.get(keyText(session));
    if (!(runner ? runner.isConnected : await this.#isHeldElsewhere(session))) return undefined;
    if (request.startupOptions.length === 0) return session;
    const hash = startupOptionsHash(request.startupOptions);
    return hash === "" || hash === session.startupOptionsHash ? session : undefined;
  }

  /**
   * The request with the key of the session that serves it. That is the request's own key, with one exception: there is
   * no such session yet, and a session without a ServerId, of an old proxy, has the same output base. A Bazel server
   * belongs to an output base, and the laptop has just got a newer proxy, so the developer expects that warm server.
   * The first caller gets it, since a second one is another machine.
   *
   * On a shared disk an output base is one directory. A server of it that has another key (the machine was renamed), or
   * does not suit the caller, is ended: two servers would conflict.
   */
  async #resolved(request: ServerRequest, say?: (step: string) => void): Promise<ServerRequest> {
    const { store, synced } = this.#options;
    const outputBase = startupOption(request.startupOptions, "output_base");
    if (outputBase === undefined || await store.get(request)) return request;
    for (const other of await store.list(request.userId)) {
      const isSame = other.repoHash === request.repoHash && other.status !== "FAILED" &&
        startupOption(other.startupOptions, "output_base") === outputBase;
      if (!isSame || keyText(other) === keyText(request)) continue;
      if (request.serverId !== "" && mayAdopt(other, request.serverId) && !this.#misfit(other, request)) {
        return { ...request, serverId: "", adopts: request.serverId };
      }
      if (synced || other.synced) continue;
      say?.("stopping the former server of this output base");
      await this.release(other, "", "Its output base has another server.");
    }
    return request;
  }

  /** The key of the session that serves this key, see {@link #resolved}. */
  async #servedBy(key: SessionKey): Promise<SessionKey> {
    const { store } = this.#options;
    if (key.serverId === "" || await store.get(key)) return key;
    const former = { ...key, serverId: "" };
    return (await store.get(former))?.adoptedBy === key.serverId ? former : key;
  }

  /** Decides and waits until the caller has its server. */
  async #untilServed(
    request: ServerRequest,
    arrival: number,
    signal: AbortSignal,
    say?: (step: string) => void,
  ): Promise<Session> {
    const either = AbortSignal.any([signal, this.#ending.signal]);
    const gone = Promise.withResolvers<never>();
    gone.promise.catch(() => {});
    const leave = () => gone.reject(either.reason);
    either.addEventListener("abort", leave);
    const caller: Caller = {
      request,
      signal: either,
      arrival,
      retries: 0,
      backoff: new Backoff({ least: 500, most: 2000, factor: 4, clock: this.#options.backoffClock }),
      over: new AbortController(),
      say,
    };
    try {
      for (;;) {
        either.throwIfAborted();
        const changed = Promise.withResolvers<void>();
        // Watched before the look, so that no change in between is missed.
        const stopWatching = this.#options.store.watch(request, changed.resolve);
        try {
          const decision = await this.#mutex.run(keyText(request), () => this.#decide(caller));
          if ("server" in decision) return decision.server;
          await Promise.race([gone.promise, changed.promise, ...decision.until ? [decision.until] : []]);
        } finally {
          stopWatching();
        }
      }
    } finally {
      caller.place?.leave();
      caller.over.abort();
      either.removeEventListener("abort", leave);
    }
  }

  /** There were sessions of the other mode when this orchestrator started. */
  #hasOtherMode = false;

  /**
   * Records that the session's owner is alive. Throws an RpcError: NOT_FOUND if there is no such session,
   * FAILED_PRECONDITION if it has another owner or no agent.
   *
   * @returns milliseconds until the next heartbeat is due
   */
  async heartbeat(of: SessionKey, sessionId: string): Promise<number> {
    const { store, idleTimeoutMs } = this.#options;
    let key = of;
    const touch = () => store.touch(key, sessionId, this.#now());
    if (!await touch() && ((key = await this.#servedBy(of)) === of || !await touch())) {
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
    if (this.#hasOtherMode && (await store.get(key))?.synced === !this.#options.synced) {
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
  async release(of: SessionKey, sessionId: string, reason = "The session was released."): Promise<boolean> {
    const { store } = this.#options;
    const key = await this.#servedBy(of);
    for (;;) {
      const session = await store.get(key);
      if (!session || (sessionId !== "" && session.sessionId !== sessionId)) return false;
      switch (session.status) {
        case "FAILED":
          if (await store.transition({ ...session, state: "FAILED" }, "forget")) return true;
          break;
        case "STOPPING":
          await this.#mendIfOrphan(session);
          await this.#runners.get(keyText(key))?.gone;
          await this.#until(key, (now) => now?.status !== "STOPPING" || now.epoch !== session.epoch);
          return false;
        default: {
          const stopping = await this.#stop(session, reason, true);
          if (!stopping) break;
          await stopping.done;
          return true;
        }
      }
    }
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
    this.#reaper.stop();
    this.#sweep.stop();
    const pool = this.#options.pool?.stop();
    await this.#endAll(pool);
    await pool;
  }

  /** @param pool Resolves when the waiting warm agents have ended. */
  async #endAll(pool?: Promise<void>): Promise<void> {
    const { store, log } = this.#options;
    for (let isHandedOver = false;;) {
      if ((await this.#lease.others()).length > 0) {
        if (isHandedOver) return this.#letGo();
        log(`${this.#runners.size} agents are left to the other orchestrators`);
        this.#hasHeirs = true;
        const timer = setTimeout(this.#hurry.resolve, HAND_OVER_MS);
        await Promise.race([
          this.#hurry.promise,
          Promise.all([...this.#runners.values()].map((one) => one.findable())),
        ]);
        clearTimeout(timer);
        // Other orchestrators that end at this moment have done the same before they looked for others.
        await pool;
        await this.#lease.end();
        isHandedOver = true;
        continue;
      }
      // Repeated, in case a start was in progress during the last look.
      this.#hasHeirs = false;
      const sessions = (await store.list()).filter((session) => session.status !== "FAILED");
      if (sessions.length === 0 && this.#runners.size === 0) {
        await pool;
        return await this.#lease.end();
      }
      await Promise.all([
        ...sessions.map((session) => this.#endAlone(session)),
        ...[...this.#runners.values()].map((runner) => runner.gone),
      ]);
    }
  }

  /** Ends a session of any holder: there is no other orchestrator. */
  async #endAlone(session: Session): Promise<void> {
    const text = keyText(session);
    if (session.status !== "STOPPING") return void await this.release(session, "", ENDING);
    if (this.#finishing.has(text)) return await this.#runners.get(text)?.gone;
    const runner = this.#runners.get(text);
    if (!runner && !endpointOf(session)) {
      return void await this.#options.store.transition({ ...session, state: "STOPPING" }, "stopped");
    }
    await this.#finishStop(session, runner ?? this.#run(session, AgentRunner.adopt));
  }

  /** Kills all agents of this orchestrator, unless others get them, so that {@link stop} finishes. */
  kill(): void {
    this.#hurry.resolve();
    if (this.#hasHeirs) return;
    for (const runner of this.#runners.values()) runner.kill();
    this.#options.pool?.kill();
  }

  async #decide(caller: Caller): Promise<Decision> {
    caller.signal.throwIfAborted();
    const { request } = caller;
    const session = await this.#options.store.get(request);
    if (request.adopts !== undefined && !mayAdopt(session, request.adopts)) throw new NotToBeAdopted();
    if (session && session.status !== "FAILED") caller.place?.leave();
    const workspace = JSON.stringify(request.sourcePath);
    if (!session) {
      if (caller.joined !== undefined) throw new RpcError(Code.UNAVAILABLE, `The server of ${workspace} ${RELEASED}`);
      return await this.#begin(caller, undefined);
    }
    if (session.status === "FAILED") {
      if (caller.joined === undefined) return await this.#begin(caller, session);
      if (this.#mayRetry(caller, session)) return this.#beforeRetry(caller, session);
      throw new RpcError(session.failureTransient ? Code.UNAVAILABLE : Code.FAILED_PRECONDITION, session.failure);
    }
    if (session.status === "STOPPING") {
      if (caller.joined !== undefined && session.failureTransient) {
        throw new RpcError(Code.UNAVAILABLE, `The server of ${workspace} ${RELEASED}`);
      }
      await this.#mendOrphan(session);
      return this.#wait(request);
    }
    const misfit = this.#misfit(session, request);
    if (misfit) {
      if (caller.joined !== undefined || caller.hasReplaced) {
        throw new RpcError(Code.FAILED_PRECONDITION, `The server of ${workspace} ${misfit.replaced}`);
      }
      this.#steps.publish(request, `stopping the former server, which ${misfit.which}`);
      if (!await this.#stop(session, misfit.reason, false, request)) return await this.#decide(caller);
      caller.hasReplaced = true;
      return this.#wait(request);
    }
    if (session.status === "PENDING") {
      await this.#mendOrphan(session);
      if (!this.#runners.has(keyText(session))) caller.say?.("another orchestrator is starting the agent");
      caller.joined = session.epoch;
      return this.#wait(request);
    }
    const runner = this.#runners.get(keyText(session));
    if (!runner && await this.#isHeldElsewhere(session)) return await this.#takeFrom(caller, session);
    if (!runner) {
      await this.#mendOrphan(session);
      // Another orchestrator may have been faster, which changes neither state nor epoch.
      return await this.#decide(caller);
    }
    if (!runner.isConnected) return { until: runner.settled() };
    const mine = await this.#own(session, request);
    if (mine && mine.epoch !== session.epoch) await runner.setEpoch(mine.epoch);
    return mine ? { server: mine } : await this.#decide(caller);
  }

  /**
   * Why the agent of a PENDING or READY session does not suit `request`; undefined if it does.
   *
   * Only a proxy names startup options, and only its request can be a bounce: its session id belongs to one process,
   * and with "replace" no process gets another's server. A client that takes any server (jbazel) names the id that it
   * found in ListSessions, or a new one if it found none. If a proxy was faster meanwhile, the ids differ. Then jbazel
   * must neither end nor own the proxy's server, for then the proxy's next request would be the bounce: see
   * {@link #own}.
   */
  #misfit(session: Session, request: ServerRequest): Misfit | undefined {
    if (session.synced !== this.#options.synced) {
      return {
        which: `has ${session.synced ? "a synced workspace" : "a shared workspace"}`,
        reason: "The orchestrator was started in another mode.",
        replaced: "was replaced by one of another mode; run the command again.",
      };
    }
    const hash = startupOptionsHash(request.startupOptions);
    if (hash === "") return undefined;
    if (hash !== session.startupOptionsHash) {
      return {
        which: "has other startup options",
        reason: "Another client wants other startup options.",
        replaced: "was replaced by another client with other startup options; use the same ones, or take turns.",
      };
    }
    if (this.#options.onBounce === "replace" && session.sessionId !== request.sessionId) {
      return {
        which: "an earlier life of the client has left behind",
        reason: "Another life of the client wants a server of its own (--on-bounce=replace).",
        replaced: "was replaced by another client of the same workspace, as --on-bounce=replace of the orchestrator " +
          "asks for; take turns.",
      };
    }
    return undefined;
  }

  /**
   * Whether a caller that waited for a failed start gets another attempt. Not after a long one: a start that hangs
   * until --start-timeout would cost three times that.
   */
  #mayRetry(caller: Caller, failed: Session): boolean {
    const tookLong = this.#now() - failed.createdAt > this.#options.startTimeoutMs / 2;
    return failed.failureTransient && caller.retries < RETRIES && !tookLong;
  }

  /** Waits before a retry, unless another caller is faster. Then the session's start is the caller's own again. */
  #beforeRetry(caller: Caller, failed: Session): Decision {
    caller.retries++;
    caller.joined = undefined;
    caller.say?.(`${asStep(failed.failure)}; trying again`);
    return { until: caller.backoff.wait(caller.over.signal) };
  }

  /** Waits for a change of the session, or the end of its agent. */
  #wait(key: SessionKey): Decision {
    return { until: this.#runners.get(keyText(key))?.gone };
  }

  /** Starts the agent for the caller, unless another caller is faster; with limits, queues for it. */
  async #begin(caller: Caller, failed: Session | undefined): Promise<Decision> {
    if (this.#queue) {
      // A caller that already queues keeps its place.
      caller.place = this.#queue.join(caller);
      return { until: caller.place.started };
    }
    caller.joined = await this.#start(caller.request, failed);
    return this.#wait(caller.request);
  }

  /** Starts the agent for queued `callers`. @returns false if the store has no room */
  #startQueued(callers: ReadonlySet<Caller>): Promise<boolean> {
    const [{ request: key }] = callers;
    return this.#mutex.run(keyText(key), async () => {
      const session = await this.#options.store.get(key);
      const [first] = callers;
      if (!first || (session && session.status !== "FAILED")) return true;
      const epoch = await this.#start(first.request, session);
      for (const caller of callers) caller.joined = epoch;
      return epoch !== undefined;
    });
  }

  /** Whether another orchestrator holds the session, and is alive as far as is known. */
  async #isHeldElsewhere(session: Session): Promise<boolean> {
    return session.holder !== this.#lease.id && await this.#lease.isAlive(session.holder);
  }

  /**
   * Gives a caller a READY session of another orchestrator, which continues to hold the agent. Whoever raises the epoch
   * tells the agent. If that fails, the caller's own first call does, since it carries the epoch.
   */
  async #takeFrom(caller: Caller, session: Session): Promise<Decision> {
    const mine = await this.#own(session, caller.request);
    if (!mine) return await this.#decide(caller);
    const endpoint = endpointOf(mine);
    if (endpoint && mine.epoch !== session.epoch) {
      const agent = { endpoint, agentId: mine.agentId, trust: this.#options.trust };
      await raiseEpoch(agent, mine.epoch, RAISE_EPOCH_MS).catch((e) =>
        this.#options.log(`session ${keyText(mine)}: its agent was not told of epoch ${mine.epoch}: ${sentence(e)}`)
      );
    }
    return { server: mine };
  }

  /**
   * Recovers a session that is not served: its orchestrator is gone; or it is ours, and a write took effect without our
   * knowledge, or failed (a full disk). Call it with the key's mutex.
   */
  async #mendOrphan(session: Session): Promise<void> {
    const text = keyText(session);
    const runner = this.#runners.get(text);
    if (this.#finishing.has(text) || await this.#isHeldElsewhere(session)) return;
    if (runner?.serves(session) && session.status === "STOPPING") return void this.#finishStop(session, runner);
    if (runner) return;
    if (session.holder !== this.#lease.id) await this.#adopt(session);
    else await this.#serve(session);
  }

  /** Serves a session of ours based on what is known of its agent, which may be gone. */
  async #serve(session: Session): Promise<void> {
    // Its agent is unknown, and ends by its lease.
    if (!endpointOf(session)) return await this.#giveUp(session);
    const runner = this.#run(session, AgentRunner.adopt);
    if (session.status === "STOPPING") void this.#finishStop(session, runner);
    else this.#reaper.schedule(session);
  }

  /** Records that the agent of a session of ours is gone. */
  async #giveUp(session: Session): Promise<void> {
    const expected = { ...session, state: session.status };
    if (session.status === "STOPPING") await this.#options.store.transition(expected, "stopped");
    else await this.#options.store.transition(expected, "fail", { failure: LOST, failureTransient: true });
    this.#lookForRoom();
  }

  /** Adopts a session whose orchestrator is gone, unless another is faster. */
  async #adopt(session: Session): Promise<void> {
    const { store, log } = this.#options;
    const holder = await this.#holder();
    const mine = await store.transition({ ...session, state: session.status }, "adopt", { holder });
    // Another was faster, or our lease was lost.
    if (!mine) return await this.#lease.refresh();
    if (endpointOf(mine)) log(`session ${keyText(mine)}: adopting its agent on port ${mine.agentPort}`);
    await this.#serve(mine);
    // Without an orchestrator no heartbeat could be recorded.
    await store.touch(mine, undefined, this.#now()).catch((e) => log(sentence(e)));
  }

  /** Adopts what orchestrators that are gone have left. */
  async #adoptOrphans(): Promise<void> {
    if (this.#ending.signal.aborted) return;
    const { synced, log } = this.#options;
    const living = new Set([this.#lease.id, ...(await this.#lease.others()).map(({ id }) => id)]);
    const orphans = (await this.#options.store.list()).filter(({ holder, status }) =>
      status !== "FAILED" && !living.has(holder)
    );
    const others = orphans.filter((session) => session.synced !== synced).length;
    if (others > 0) {
      this.#hasOtherMode = true;
      log(
        `warning: ${others} sessions are of --workspace=${synced ? "shared" : "synced"}: each is replaced by one of ` +
          `--workspace=${synced ? "synced" : "shared"} when its client asks again`,
      );
    }
    const adoptNext = async () => {
      for (let next = orphans.shift(); next; next = orphans.shift()) await this.#mendIfOrphan(next);
    };
    await Promise.all(Array.from({ length: ADOPTED_AT_ONCE }, adoptNext));
    await this.#options.pool?.adopt();
  }

  /** Leaves all agents to others: their sessions no longer belong to this orchestrator. */
  #letGo(): void {
    this.#options.pool?.letGo();
    for (const runner of this.#runners.values()) runner.letGo();
    this.#runners.clear();
    this.#finishing.clear();
  }

  /** The holder for what begins or changes hands now; undefined while this orchestrator ends. */
  async #holder(): Promise<string | undefined> {
    if (this.#lease.isOver) return undefined;
    await this.#lease.begin();
    if (!this.#lease.holds(this.#lease.id)) await this.#lease.refresh();
    return this.#lease.id;
  }

  /**
   * {@link #mendOrphan} for a stale copy of a session: takes the key's mutex and reads again. Does not disturb a start
   * that has a runner.
   */
  async #mendIfOrphan(session: Session): Promise<void> {
    if (session.status === "FAILED") return;
    if (this.#runners.has(keyText(session)) && session.status !== "STOPPING") return;
    await this.#mutex.run(keyText(session), async () => {
      const now = await this.#options.store.get(session);
      if (now && now.status !== "FAILED") await this.#mendOrphan(now);
    });
  }

  /** Whether a heartbeat was recorded a moment ago. */
  #wasNoted(session: Session): boolean {
    const since = this.#now() - session.lastHeartbeat;
    return since >= 0 && since < NOTED_MS;
  }

  /**
   * Makes the caller the owner of a READY session that suits it; with "replace" a caller with another id stays a guest.
   *
   * @returns the session; undefined if it has changed meanwhile
   */
  async #own(session: Session, request: ServerRequest): Promise<Session | undefined> {
    const { store, onBounce } = this.#options;
    const now = this.#now();
    if (session.sessionId !== request.sessionId && onBounce !== "replace") {
      const change = { sessionId: request.sessionId, lastHeartbeat: now, adoptedBy: request.adopts };
      return await store.transition({ ...session, state: "READY" }, "takeOver", change);
    }
    // A thousand concurrent callers need not write a thousand times.
    if (this.#wasNoted(session)) return session;
    return await store.touch(session, session.sessionId, now) ? session : undefined;
  }

  /**
   * Starts an agent, unless another caller does. Throws if the orchestrator is ending.
   *
   * @returns the epoch of the start; undefined if another was faster, or there is no room
   */
  async #start(request: ServerRequest, failed: Session | undefined): Promise<number | undefined> {
    const { store, synced, limits, pool } = this.#options;
    const { compute, elsewhere } = this.#options.compute.forRegion(request.region);
    const holder = await this.#holder();
    this.#ending.signal.throwIfAborted();
    if (!failed) await this.#inherit(request, compute);
    const now = this.#now();
    const session = await store.transition(
      {
        userId: request.userId,
        repoHash: request.repoHash,
        serverId: request.serverId,
        state: failed ? "FAILED" : "NONE",
        epoch: failed?.epoch ?? 0,
        limits,
        claim: pool?.claim.computeService === compute.name ? pool.claim : undefined,
      },
      "start",
      {
        sessionId: request.sessionId,
        sourcePath: request.sourcePath,
        region: compute.region || request.region,
        startupOptions: [...request.startupOptions],
        startupOptionsHash: startupOptionsHash(request.startupOptions),
        computeService: compute.name,
        handle: "",
        host: "",
        agentPort: 0,
        commandPort: 0,
        accessToken: randomToken(),
        agentId: randomToken(),
        warnings: [],
        samePaths: false,
        synced,
        missingInstallBase: "",
        failure: "",
        failureTransient: false,
        holder: holder ?? "",
        createdAt: now,
        lastHeartbeat: now,
        adoptedBy: "",
      },
    );
    if (!session) {
      await this.#lease.refresh();
      return undefined;
    }
    if (elsewhere) this.#steps.publish(session, elsewhere);
    this.#run(session, AgentRunner.start);
    this.#reaper.schedule(session);
    return session.epoch;
  }

  /**
   * Before ServerIds, a workspace's storage had the name that a session without one has. The server with the client's
   * default output base, for which it was most likely made, inherits it.
   */
  async #inherit(request: ServerRequest, compute: ComputeService): Promise<void> {
    const { store, log } = this.#options;
    if (request.serverId === "" || !hasDefaultOutputBase(request)) return;
    const former = { ...request, serverId: "" };
    if (await store.get(former)) return;
    const why = compute.inherit(former, request);
    if (why) log(`session ${keyText(request)} cannot go on with the storage of ${keyText(former)}: ${why}`);
  }

  #run(session: Session, begin: (session: Session, options: AgentRunnerOptions) => AgentRunner): AgentRunner {
    const compute = this.#options.compute.named(session.computeService);
    const runner = begin(session, { ...this.#options, compute, steps: this.#steps, lease: this.#lease });
    this.#runners.set(keyText(session), runner);
    runner.gone.then(() => {
      if (this.#runners.get(keyText(session)) === runner) this.#runners.delete(keyText(session));
      this.#lookForRoom();
    });
    return runner;
  }

  /**
   * Starts to end a PENDING or READY session.
   *
   * @param transient Whether waiting callers may try again.
   * @param successor The request to start in its place, whether its caller is still there or not.
   * @returns `done` resolves when the agent has ended; undefined if the session has changed meanwhile
   */
  async #stop(
    session: Session,
    reason: string,
    transient: boolean,
    successor?: ServerRequest,
  ): Promise<{ done: Promise<void> } | undefined> {
    const text = keyText(session);
    const change: SessionChange = { failure: reason, failureTransient: transient, holder: await this.#holder() };
    const wasFinishing = this.#finishing.has(text);
    this.#finishing.add(text);
    let stopping: Session | undefined;
    try {
      stopping = await this.#options.store.transition({ ...session, state: session.status }, "stop", change);
    } finally {
      if (!stopping && !wasFinishing) this.#finishing.delete(text);
    }
    if (!stopping) {
      await this.#lease.refresh();
      return undefined;
    }
    let runner = this.#runners.get(text);
    if (!runner?.serves(stopping)) runner = undefined;
    // Another orchestrator had it until now.
    if (!runner && endpointOf(stopping)) runner = this.#run(stopping, AgentRunner.adopt);
    return { done: this.#finishStop(stopping, runner, successor) };
  }

  /** Ends the agent of a STOPPING session, and then the session. Never rejects. */
  async #finishStop(session: Session, runner: AgentRunner | undefined, successor?: ServerRequest): Promise<void> {
    const { store, stopGraceMs, log } = this.#options;
    this.#finishing.add(keyText(session));
    if (await runner?.stop(stopGraceMs) === false) return void this.#finishing.delete(keyText(session));
    // Under one lock, so that no waiting caller can start an agent of another kind in between.
    await this.#mutex.run(keyText(session), async () => {
      this.#finishing.delete(keyText(session));
      // The successor gets the freed room before queued callers.
      using _room = successor && this.#queue?.hold(session);
      const stopped = await store.transition({ ...session, state: "STOPPING" }, "stopped");
      if (stopped && successor && !this.#ending.signal.aborted) await this.#start(successor, undefined);
    }).catch((e) => log(`session ${keyText(session)}: ${sentence(e)}`));
    this.#lookForRoom();
  }

  /** Call it when agents have ended: there may be room for others, queued callers first. */
  #lookForRoom(): void {
    this.#queue?.look();
    this.#options.pool?.look();
  }

  async #expire(session: Session): Promise<void> {
    if (session.status === "FAILED") await this.#options.store.transition({ ...session, state: "FAILED" }, "forget");
    else await this.#stop(session, "The session was idle for too long.", true);
  }

  /** Resolves when `holds` is true for the key's session. */
  async #until(key: SessionKey, holds: (session: Session | undefined) => boolean): Promise<void> {
    for (;;) {
      const changed = Promise.withResolvers<void>();
      const stopWatching = this.#options.store.watch(key, changed.resolve);
      try {
        if (holds(await this.#options.store.get(key))) return;
        await changed.promise;
      } finally {
        stopWatching();
      }
    }
  }
}

/** The session without a ServerId has another owner or is gone: its caller gets a session of its own. */
class NotToBeAdopted extends Error {}

/** Whether a session can serve the caller with this ServerId. */
function mayAdopt(session: Session | undefined, serverId: string): boolean {
  return session?.status === "READY" && session.serverId === "" &&
    (session.adoptedBy === "" || session.adoptedBy === serverId);
}

/** A failure's sentence as part of a step: without the advice at its end, which is for callers that get no server. */
function asStep(failure: string): string {
  return failure.replace(/(; [^;()"]*)?\.$/, "").replace(/^The /, "the ");
}
