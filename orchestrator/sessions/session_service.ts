import { Backoff, type BackoffClock } from "../../proto/base/backoff.ts";
import { sentence } from "../../proto/base/errors.ts";
import { Code, RpcError } from "../../proto/transport/rpc/client.ts";
import { startupOption } from "../../proto/bazel/startup_options.ts";
import { randomToken } from "../../proto/base/state_directory.ts";
import type { ComputeChoice } from "../compute/compute_choice.ts";
import type { ComputeService } from "../compute/compute_service.ts";
import { storageDirectory } from "../compute/process/storage_path.ts";
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

/** What a caller wants a server for; already checked, see request_checks.ts. */
export interface ServerRequest extends SessionKey {
  readonly sessionId: string;
  readonly sourcePath: string;
  readonly startupOptions: readonly string[];
  readonly region: string;
  /** The ServerId of whom a session without one is to serve. @default nobody's: the session has the caller's own key */
  readonly adopts?: string;
}

/**
 * What happens when a proxy asks for a server of the right kind whose session another life of a proxy owns: the new one
 * takes the warm agent over, or the agent is ended and the new one gets another.
 */
export type OnBounce = "takeover" | "replace";

/** Options of {@link SessionService}. */
export interface SessionServiceOptions extends Omit<AgentRunnerOptions, "steps" | "lease" | "pool" | "compute"> {
  readonly compute: ComputeChoice;
  readonly leases: LeaseStore;
  /** Agents that were started ahead. @default none */
  readonly pool?: WarmPool;
  /** How this orchestrator shares the store with others. @default alone, at no address, with a lease of 10 s */
  readonly orchestrator?: Pick<OwnLeaseOptions, "address" | "durationMs" | "isGone">;
  /** Sessions' storage is `<storage root>/<user>/<repo hash>-<server id>`. Absolute. */
  readonly storageRoot: string;
  /** Whether new sessions share no files with the developer; those of the other kind are replaced. */
  readonly synced: boolean;
  /** A session without heartbeat and without running command for this long is ended. Milliseconds. */
  readonly idleTimeoutMs: number;
  /**
   * The same for a session beside the main one of a workspace, such as an IDE's, counted from its last command. Milliseconds.
   * @default 900_000
   */
  readonly secondIdleTimeoutMs?: number;
  /** What running commands get when their agent is ended. Milliseconds. */
  readonly stopGraceMs: number;
  /** @default "takeover" */
  readonly onBounce?: OnBounce;
  /** Who wants an agent beyond these waits. @default no limits */
  readonly limits?: AgentLimits;
  /** See StartQueueOptions. */
  readonly lookAgainMs?: number;
  /** How often sessions are looked for whose agent nobody serves. Milliseconds. @default 60_000 */
  readonly sweepIntervalMs?: number;
  /** The time between attempts to start an agent, for tests. */
  readonly backoffClock?: BackoffClock;
}

/** An owner that was noted so shortly before need not be noted again. Milliseconds. */
const NOTED_MS = 1_000;
/** What an agent of another orchestrator gets to take an epoch. Milliseconds. */
const RAISE_EPOCH_MS = 2_000;
/** What starts get, when the orchestrator ends, until others can find their agents. Milliseconds. */
const HAND_OVER_MS = 10_000;
/** So many sessions of others are adopted at the same time. */
const ADOPTED_AT_ONCE = 20;
/** Why a caller that waited for a start got no server, when the session went away under it. */
const RELEASED = "was released while its agent started; run the command again.";
const LOST = "The agent was lost while it started or while the orchestrator was restarted; run the command again.";
const ENDING = "The orchestrator is being stopped; start it again.";

/** What {@link SessionServiceOptions.secondIdleTimeoutMs} is unless it is given. Milliseconds. */
const SECOND_IDLE_TIMEOUT_MS = 900_000;

/** How often a start is tried again for a caller when it failed for a transient reason. */
const RETRIES = 2;

/** Someone who waits in {@link SessionService.getServer}. */
interface Caller {
  readonly request: ServerRequest;
  /** Whoever has the smaller number came first. */
  readonly arrival: number;
  /** The caller is gone, or the orchestrator is ending. */
  readonly signal: AbortSignal;
  /** The epoch of the start that the caller has been waiting for, if any. */
  joined?: number;
  /** The session's former agent was ended for this caller: once, since two who replace each other would go on for ever. */
  hasReplaced?: true;
  /** How often a start has been tried again for this caller. */
  retries: number;
  /** The waits before that. */
  readonly backoff: Backoff;
  /** The caller has its answer. */
  readonly over: AbortController;
  /** Tells the caller, and nobody else, what happens. */
  say?(step: string): void;
  /** Where the caller waits for an agent to be allowed. */
  place?: Place;
}

/** Why the agent of a session does not do for a caller. */
interface Misfit {
  /** What the former server is, for the person who waits: "which …". */
  readonly which: string;
  /** For the operator, and for whoever asks the session. */
  readonly reason: string;
  /** What a caller is told who waited for one agent and finds another: "was replaced …". */
  readonly replaced: string;
}

/** One look at a session on behalf of a caller that wants its server. */
type Decision =
  /** It is there. */
  | { server: Session }
  /** Something must happen first: to the session, or what `until` stands for. Then it is looked at again. */
  | { until?: Promise<unknown> };

/**
 * Decides who starts an agent and who waits for it, keeps sessions alive and ends them. Nobody polls: those who wait
 * are woken by the store's changes. All that matters is in the store; what is in memory dies with this object.
 */
export class SessionService {
  readonly #options: SessionServiceOptions;
  readonly #steps = new StepBoard();
  readonly #mutex = new KeyedMutex();
  readonly #runners = new Map<string, AgentRunner>();
  /** The keys of STOPPING sessions that {@link #finishStop} will see to the end. */
  readonly #finishing = new Set<string>();
  readonly #lease: OwnLease;
  readonly #now: () => number;
  readonly #reaper: IdleReaper;
  readonly #sweep: OrphanSweep;
  /** Undefined: no limits. */
  readonly #queue?: StartQueue<Caller>;
  #arrivals = 0;
  /** Whether other orchestrators are to have the agents when this one ends. */
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
   * Takes over what orchestrators that are gone have left: agents that answer go on, what was being ended is ended, and
   * starts that nobody can finish have failed. Resolves when the store was read; agents are heard in the background.
   */
  async adopt(): Promise<void> {
    await this.#lease.begin();
    await this.#adoptOrphans();
    await this.#reaper.start();
    this.#sweep.start();
    await this.#options.pool?.start(this.#lease);
  }

  /**
   * Answers when the session has an agent that answered; starts one if needed, and again if the start failed for a
   * transient reason. Throws an RpcError with UNAVAILABLE or FAILED_PRECONDITION when it cannot have one.
   *
   * @param signal The caller is gone; a start that it caused goes on.
   * @param onStep Called with the latest step of the start and with each that follows.
   */
  async getServer(request: ServerRequest, signal: AbortSignal, onStep?: (step: string) => void): Promise<Session> {
    let last: string | undefined;
    // The board is wiped between two starts, and when the last of the queue has left: the same again is no news.
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

  /** The caller's own server, if nothing has to be done or noted for that: nearly every call's case. */
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
   * Whose session is asked for. It is the one of the request's own key, unless there is none yet and a session without a
   * ServerId, of a proxy before there were any, has the same output base: as a Bazel server is one of an output base, and the
   * laptop has just been given a newer proxy, its warm server is the one that the developer expects. It goes to the first
   * who asks, since another who asks as well is another machine.
   *
   * Where all share a disk, an output base is one folder, and its server is ended that has another key (the machine is
   * another by name than it was), or does not do for the caller: two would be in each other's way.
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

  /** The key of the session that serves who asks for this one, see {@link #resolved}. */
  async #servedBy(key: SessionKey): Promise<SessionKey> {
    const { store } = this.#options;
    if (key.serverId === "" || await store.get(key)) return key;
    const former = { ...key, serverId: "" };
    return (await store.get(former))?.adoptedBy === key.serverId ? former : key;
  }

  /** Decides, and waits, until the caller has its server. */
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
        // Watched before it is looked at, so that nothing is missed in between.
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

  /** There were sessions of the other mode when this orchestrator began. */
  #hasOtherMode = false;

  /**
   * Notes that the session's owner is there. Throws an RpcError: NOT_FOUND when there is no such session (any more),
   * FAILED_PRECONDITION when it has another owner or no agent.
   *
   * @returns Milliseconds until the next heartbeat is due.
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
      // Its client goes on with the agent that it has until it asks again, and then gets one of this mode.
      throw new RpcError(
        Code.FAILED_PRECONDITION,
        "The orchestrator was started in another mode; ask for the server again.",
      );
    }
    return Math.max(1000, Math.min(30_000, idleTimeoutMs / 3));
  }

  /**
   * Ends a session and its agent; resolves when it has ended.
   *
   * @param sessionId Only if the session has this id; empty: whatever id it has.
   * @returns Whether this call ended something.
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
   * Refuses whoever waits or comes, and leaves the sessions to other orchestrators; where there are none, ends all
   * sessions and their agents. Resolves when that is done.
   */
  async stop(): Promise<void> {
    this.#ending.abort(new RpcError(Code.UNAVAILABLE, ENDING));
    this.#reaper.stop();
    this.#sweep.stop();
    const pool = this.#options.pool?.stop();
    await this.#endAll(pool);
    await pool;
  }

  /** @param pool Resolves when the agents that wait have ended. */
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
        // Others that end at this moment have done the same before they looked who is there.
        await pool;
        await this.#lease.end();
        isHandedOver = true;
        continue;
      }
      // Once more, if a start was on its way while the first ones were looked up.
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

  /** Ends a session, whoever held it: nobody else is there. */
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

  /** Ends all agents of this orchestrator at once, unless others are to have them, so that {@link stop} comes to its end. */
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
   * Why the agent of a PENDING or READY session does not do for `request`; undefined: it does.
   *
   * Only who names startup options, a proxy, can be a bounce: its session id is one life's, and with "replace" no life
   * gets the server of another. Who takes any server (jbazel) names the id that it found in ListSessions, or one of its
   * own when it found none. If a proxy was faster meanwhile, the ids differ, and jbazel must not end the proxy's server,
   * nor own it, for then the proxy's next request would be the bounce: see {@link #own}.
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
   * Whether the caller, who waited for the start that failed, gets another attempt. Not after one that took long: a start
   * that hangs until --start-timeout would try the caller's patience three times.
   */
  #mayRetry(caller: Caller, failed: Session): boolean {
    const tookLong = this.#now() - failed.createdAt > this.#options.startTimeoutMs / 2;
    return failed.failureTransient && caller.retries < RETRIES && !tookLong;
  }

  /** For some time, unless another caller is faster; then the session's start is the caller's own again. */
  #beforeRetry(caller: Caller, failed: Session): Decision {
    caller.retries++;
    caller.joined = undefined;
    caller.say?.(`${asStep(failed.failure)}; trying again`);
    return { until: caller.backoff.wait(caller.over.signal) };
  }

  /** For a change of the session, or the end of its agent. */
  #wait(key: SessionKey): Decision {
    return { until: this.#runners.get(keyText(key))?.gone };
  }

  /** Starts the agent that the caller waits for from now on, unless another caller is faster, or when there is room. */
  async #begin(caller: Caller, failed: Session | undefined): Promise<Decision> {
    if (this.#queue) {
      // Whoever waits there already keeps the place.
      caller.place = this.#queue.join(caller);
      return { until: caller.place.started };
    }
    caller.joined = await this.#start(caller.request, failed);
    return this.#wait(caller.request);
  }

  /** Starts the agent that `callers` wait for. @returns false when the store says that there is no room */
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
   * Gives a caller the READY session of another orchestrator. That one goes on holding the agent: whoever raises the epoch
   * tells the agent so. If it cannot be told, the caller's own first call does, which carries the epoch.
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
   * Moves a session on that nobody serves: its orchestrator is gone; or it is ours, and what the store was asked for
   * happened without our hearing of it, or could not be written (a full disk).
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

  /** Serves a session that is ours by what is known of its agent, which may be gone. */
  async #serve(session: Session): Promise<void> {
    // Its agent is unknown, and ends by its lease.
    if (!endpointOf(session)) return await this.#giveUp(session);
    const runner = this.#run(session, AgentRunner.adopt);
    if (session.status === "STOPPING") void this.#finishStop(session, runner);
    else this.#reaper.schedule(session);
  }

  /** The agent of a session that is ours is gone. */
  async #giveUp(session: Session): Promise<void> {
    const expected = { ...session, state: session.status };
    if (session.status === "STOPPING") await this.#options.store.transition(expected, "stopped");
    else await this.#options.store.transition(expected, "fail", { failure: LOST, failureTransient: true });
    this.#lookForRoom();
  }

  /** Takes a session over whose orchestrator is gone, unless another is faster. */
  async #adopt(session: Session): Promise<void> {
    const { store, log } = this.#options;
    const holder = await this.#holder();
    const mine = await store.transition({ ...session, state: session.status }, "adopt", { holder });
    // Another was faster, or the own lease was lost.
    if (!mine) return await this.#lease.refresh();
    if (endpointOf(mine)) log(`session ${keyText(mine)}: adopting its agent on port ${mine.agentPort}`);
    await this.#serve(mine);
    // While there was no orchestrator nobody could be heard of.
    await store.touch(mine, undefined, this.#now()).catch((e) => log(sentence(e)));
  }

  /** Takes over what orchestrators that are gone have left. */
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

  /** Leaves all agents to others: their sessions are not ours any more. */
  #letGo(): void {
    this.#options.pool?.letGo();
    for (const runner of this.#runners.values()) runner.letGo();
    this.#runners.clear();
    this.#finishing.clear();
  }

  /** Who holds what begins or changes hands now; undefined: nobody, since this orchestrator ends. */
  async #holder(): Promise<string | undefined> {
    if (this.#lease.isOver) return undefined;
    await this.#lease.begin();
    if (!this.#lease.holds(this.#lease.id)) await this.#lease.refresh();
    return this.#lease.id;
  }

  /** The same for a session as it was a moment ago: a start whose agent is about to be ours is not disturbed. */
  async #mendIfOrphan(session: Session): Promise<void> {
    if (session.status === "FAILED") return;
    if (this.#runners.has(keyText(session)) && session.status !== "STOPPING") return;
    await this.#mutex.run(keyText(session), async () => {
      const now = await this.#options.store.get(session);
      if (now && now.status !== "FAILED") await this.#mendOrphan(now);
    });
  }

  /** Whether the owner was noted a moment ago. */
  #wasNoted(session: Session): boolean {
    const since = this.#now() - session.lastHeartbeat;
    return since >= 0 && since < NOTED_MS;
  }

  /**
   * Makes the caller the owner of a READY session that does for it; with "replace" a caller with another id is its guest.
   *
   * @returns the session, or undefined if it has changed meanwhile
   */
  async #own(session: Session, request: ServerRequest): Promise<Session | undefined> {
    const { store, onBounce } = this.#options;
    const now = this.#now();
    if (session.sessionId !== request.sessionId && onBounce !== "replace") {
      const change = { sessionId: request.sessionId, lastHeartbeat: now, adoptedBy: request.adopts };
      return await store.transition({ ...session, state: "READY" }, "takeOver", change);
    }
    // A thousand callers of one moment need not write a thousand times.
    if (this.#wasNoted(session)) return session;
    return await store.touch(session, session.sessionId, now) ? session : undefined;
  }

  /**
   * Starts an agent, if no one else does. Throws when the orchestrator is ending.
   *
   * @returns the epoch of the start; undefined if another was faster, or there is no room
   */
  async #start(request: ServerRequest, failed: Session | undefined): Promise<number | undefined> {
    const { store, storageRoot, synced, limits, pool } = this.#options;
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
        storageDirectory: storageDirectory(storageRoot, request),
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
   * Before there were ServerIds a workspace's storage had the name that a session without one has. The server with the
   * client's default output base, which it most likely was made for, goes on with it.
   */
  async #inherit(request: ServerRequest, compute: ComputeService): Promise<void> {
    const { store, storageRoot, log } = this.#options;
    if (request.serverId === "" || !hasDefaultOutputBase(request)) return;
    const former = { ...request, serverId: "" };
    if (await store.get(former)) return;
    const why = compute.inherit(storageDirectory(storageRoot, former), storageDirectory(storageRoot, request));
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
   * Begins to end a PENDING or READY session.
   *
   * @param transient Whether those who wait for it may try again.
   * @param successor What is started in its place, whether its caller is still there or not.
   * @returns `done` resolves when the agent has ended; undefined if the session has changed meanwhile.
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
    // One decision: nobody who waits can come in between with a start of another kind.
    await this.#mutex.run(keyText(session), async () => {
      this.#finishing.delete(keyText(session));
      // Those who wait for an agent come after the one that is replaced.
      using _room = successor && this.#queue?.hold(session);
      const stopped = await store.transition({ ...session, state: "STOPPING" }, "stopped");
      if (stopped && successor && !this.#ending.signal.aborted) await this.#start(successor, undefined);
    }).catch((e) => log(`session ${keyText(session)}: ${sentence(e)}`));
    this.#lookForRoom();
  }

  /** Agents have ended: there may be room for others, first for those who wait. */
  #lookForRoom(): void {
    this.#queue?.look();
    this.#options.pool?.look();
  }

  async #expire(session: Session): Promise<void> {
    if (session.status === "FAILED") await this.#options.store.transition({ ...session, state: "FAILED" }, "forget");
    else await this.#stop(session, "The session was idle for too long.", true);
  }

  /** Resolves when `holds` is true of the key's session. */
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

/** The session without a ServerId has become another's, or is gone: who wanted it gets one of its own. */
class NotToBeAdopted extends Error {}

/** Whether a session can serve whoever has this ServerId in place of one of its own. */
function mayAdopt(session: Session | undefined, serverId: string): boolean {
  return session?.status === "READY" && session.serverId === "" &&
    (session.adoptedBy === "" || session.adoptedBy === serverId);
}

/** A failure's sentence as a part of a step: without the advice at its end, which is for those who get no server. */
function asStep(failure: string): string {
  return failure.replace(/(; [^;()"]*)?\.$/, "").replace(/^The /, "the ");
}
