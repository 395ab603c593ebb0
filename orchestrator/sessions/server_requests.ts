import { Backoff } from "../../proto/base/backoff.ts";
import { sentence } from "../../proto/base/errors.ts";
import { startupOption } from "../../proto/bazel/startup_options.ts";
import { raiseEpoch } from "../agents/supervisor.ts";
import { endpointOf } from "../store/agent_endpoint.ts";
import { keyText, type Session, type SessionKey } from "../store/session.ts";
import type { Adoption } from "./adoption.ts";
import type { Caller } from "./caller.ts";
import { decide, type Misfit, misfitOf } from "./decision.ts";
import type { ServerRequest } from "./server_request.ts";
import type { SessionAgents } from "./session_agents.ts";
import type { SessionContext } from "./session_context.ts";
import type { SessionEnds } from "./session_ends.ts";
import type { SessionServiceOptions } from "./session_service_options.ts";
import { startupOptionsHash } from "./startup_options_hash.ts";
import { mayAdopt, withoutServerId } from "./without_server_id.ts";

/** A heartbeat that was recorded this recently need not be recorded again. Milliseconds. */
const NOTED_MS = 1_000;
/** How long an agent of another orchestrator may take to accept an epoch. Milliseconds. */
const RAISE_EPOCH_MS = 2_000;

/** The result of one look at a session for a caller that wants its server. */
type Outcome =
  /** The server is ready. */
  | { server: Session }
  /** Something must happen first: to the session, or `until` must settle. Then look again. */
  | { until?: Promise<unknown> };

/**
 * Those who ask for a server: who starts an agent, who waits for it, and who takes it over. Nothing polls: the store's
 * changes wake those who wait.
 */
export class ServerRequests {
  readonly #context: SessionContext;
  readonly #options: SessionServiceOptions;
  readonly #agents: SessionAgents;
  readonly #adoption: Adoption;
  readonly #ends: SessionEnds;
  #arrivals = 0;

  constructor(context: SessionContext, agents: SessionAgents, adoption: Adoption, ends: SessionEnds) {
    this.#context = context;
    this.#options = context.options;
    this.#agents = agents;
    this.#adoption = adoption;
    this.#ends = ends;
  }

  /**
   * Resolves when the session has an agent that answered. Starts one if necessary, and again after a transient failure.
   * Throws an RpcError with UNAVAILABLE or FAILED_PRECONDITION if it cannot have one.
   *
   * @param signal Aborted when the caller is gone; a start that it caused continues.
   * @param onStep Called with the latest step of the start and with each that follows.
   */
  async get(request: ServerRequest, signal: AbortSignal, onStep?: (step: string) => void): Promise<Session> {
    let last: string | undefined;
    // The board is cleared between two starts, and when the last caller has left the queue; a repeated step is not
    // reported.
    const say = onStep && ((step: string) => void (step !== last && onStep(last = step)));
    const stopReading = say && this.#context.steps.read(request, say);
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
    if (this.#context.ending.aborted) return undefined;
    const session = await this.#options.store.get(request);
    const isMine = session?.status === "READY" && session.sessionId === request.sessionId &&
      session.synced === this.#options.synced && this.#wasNoted(session);
    if (!isMine) return undefined;
    const runner = this.#agents.of(session);
    if (!(runner ? runner.isConnected : await this.#agents.isHeldElsewhere(session))) return undefined;
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
      if (request.serverId !== "" && mayAdopt(other, request.serverId) && !misfitOf(other, request, this.#options)) {
        return { ...withoutServerId(request), adopts: request.serverId };
      }
      if (synced || other.synced) continue;
      say?.("stopping the former server of this output base");
      await this.#ends.release(other, "", "Its output base has another server.");
    }
    return request;
  }

  /** Decides and waits until the caller has its server. */
  async #untilServed(
    request: ServerRequest,
    arrival: number,
    signal: AbortSignal,
    say?: (step: string) => void,
  ): Promise<Session> {
    const either = AbortSignal.any([signal, this.#context.ending]);
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
          const outcome = await this.#context.mutex.run(keyText(request), () => this.#look(caller));
          if ("server" in outcome) return outcome.server;
          await Promise.race([gone.promise, changed.promise, ...outcome.until ? [outcome.until] : []]);
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

  /** Looks at the caller's session, and does what is decided. Call it with the key's mutex. */
  async #look(caller: Caller): Promise<Outcome> {
    caller.signal.throwIfAborted();
    const { request } = caller;
    const found = await this.#options.store.get(request);
    const decision = decide(found, caller, this.#options, this.#context.now());
    if (found && found.status !== "FAILED") caller.place?.leave();
    switch (decision.what) {
      case "look elsewhere":
        throw new NotToBeAdopted();
      case "refuse":
        throw decision.error;
      case "start":
        return await this.#begin(caller, decision.failed);
      case "retry":
        return this.#beforeRetry(caller, decision.failed);
      case "wait for the end":
        await this.#adoption.mend(decision.session);
        return this.#wait(request);
      case "wait for the start":
        return await this.#join(caller, decision.session);
      case "replace":
        return await this.#replace(caller, decision.session, decision.misfit);
      case "serve":
        return await this.#serve(caller, decision.session);
    }
  }

  /** Waits for a start, whoever began it. */
  async #join(caller: Caller, session: Session): Promise<Outcome> {
    await this.#adoption.mend(session);
    if (!this.#agents.of(session)) caller.say?.("another orchestrator is starting the agent");
    caller.joined = session.epoch;
    return this.#wait(caller.request);
  }

  /** Ends an agent that does not suit the caller, and starts another in its place. */
  async #replace(caller: Caller, session: Session, misfit: Misfit): Promise<Outcome> {
    const { request } = caller;
    this.#context.steps.publish(request, `stopping the former server, which ${misfit.which}`);
    if (!await this.#agents.stop(session, misfit.reason, false, request)) return await this.#look(caller);
    caller.hasReplaced = true;
    return this.#wait(request);
  }

  /** Gives a caller the READY session that suits it, once its agent answers. */
  async #serve(caller: Caller, session: Session): Promise<Outcome> {
    const runner = this.#agents.of(session);
    if (!runner && await this.#agents.isHeldElsewhere(session)) return await this.#takeFrom(caller, session);
    if (!runner) {
      await this.#adoption.mend(session);
      // Another orchestrator may have been faster, which changes neither state nor epoch.
      return await this.#look(caller);
    }
    if (!runner.isConnected) return { until: runner.settled() };
    const mine = await this.#own(session, caller.request);
    if (mine && mine.epoch !== session.epoch) await runner.setEpoch(mine.epoch);
    return mine ? { server: mine } : await this.#look(caller);
  }

  /** Starts the agent for the caller, unless another caller is faster; with limits, queues for it. */
  async #begin(caller: Caller, failed: Session | undefined): Promise<Outcome> {
    if (this.#context.queue) {
      // A caller that already queues keeps its place.
      caller.place = this.#context.queue.join(caller);
      return { until: caller.place.started };
    }
    caller.joined = await this.#agents.start(caller.request, failed);
    return this.#wait(caller.request);
  }

  /** Starts the agent for queued `callers`. @returns false if the store has no room */
  startQueued(callers: ReadonlySet<Caller>): Promise<boolean> {
    const [{ request: key }] = callers;
    return this.#context.mutex.run(keyText(key), async () => {
      const session = await this.#options.store.get(key);
      const [first] = callers;
      if (!first || (session && session.status !== "FAILED")) return true;
      const epoch = await this.#agents.start(first.request, session);
      for (const caller of callers) caller.joined = epoch;
      return epoch !== undefined;
    });
  }

  /** Waits for a change of the session, or the end of its agent. */
  #wait(key: SessionKey): Outcome {
    return { until: this.#agents.of(key)?.gone };
  }

  /** Waits before a retry, unless another caller is faster. Then the session's start is the caller's own again. */
  #beforeRetry(caller: Caller, failed: Session): Outcome {
    caller.retries++;
    caller.joined = undefined;
    caller.say?.(`${asStep(failed.failure)}; trying again`);
    return { until: caller.backoff.wait(caller.over.signal) };
  }

  /**
   * Gives a caller a READY session of another orchestrator, which continues to hold the agent. Whoever raises the epoch
   * tells the agent. If that fails, the caller's own first call does, since it carries the epoch.
   */
  async #takeFrom(caller: Caller, session: Session): Promise<Outcome> {
    const mine = await this.#own(session, caller.request);
    if (!mine) return await this.#look(caller);
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
   * Makes the caller the owner of a READY session that suits it; with "replace" a caller with another id stays a guest.
   *
   * @returns the session; undefined if it has changed meanwhile
   */
  async #own(session: Session, request: ServerRequest): Promise<Session | undefined> {
    const { store, onBounce } = this.#options;
    const now = this.#context.now();
    if (session.sessionId !== request.sessionId && onBounce !== "replace") {
      const change = { sessionId: request.sessionId, lastHeartbeat: now, adoptedBy: request.adopts };
      return await store.transition({ ...session, state: "READY" }, "takeOver", change);
    }
    // A thousand concurrent callers need not write a thousand times.
    if (this.#wasNoted(session)) return session;
    return await store.touch(session, session.sessionId, now) ? session : undefined;
  }

  /** Whether a heartbeat was recorded a moment ago. */
  #wasNoted(session: Session): boolean {
    const since = this.#context.now() - session.lastHeartbeat;
    return since >= 0 && since < NOTED_MS;
  }
}

/** The session without a ServerId has another owner or is gone: its caller gets a session of its own. */
class NotToBeAdopted extends Error {}

/** A failure's sentence as part of a step: without the advice at its end, which is for callers that get no server. */
function asStep(failure: string): string {
  return failure.replace(/(; [^;()"]*)?\.$/, "").replace(/^The /, "the ");
}
