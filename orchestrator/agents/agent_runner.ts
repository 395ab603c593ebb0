import { sentence } from "../../proto/base/errors.ts";
import {
  type AgentFailure,
  type AgentSpec,
  AgentStartError,
  type ComputeService,
  type RunningAgent,
  type SessionLimits,
} from "../compute/compute_service.ts";
import { Supervisor, type SupervisorEvents } from "./supervisor.ts";
import { type AgentTrust, bootstrap } from "./agent_trust.ts";
import { type Log, trace } from "../../proto/base/log.ts";
import { endpointOf } from "../store/agent_endpoint.ts";
import { keyText, type Session } from "../store/session.ts";
import { type SessionEvent, TRANSITIONS } from "../store/state_machine.ts";
import type { OwnLease } from "../peers/orchestrator_lease.ts";
import type { StepBoard } from "./start_progress.ts";
import type { SessionChange, SessionStore } from "../store/session_store.ts";
import { endsWithin, KILLED_MS } from "./agent_end.ts";
import type { HeldAgent, WarmPool } from "./warm_pool.ts";

/** What an {@link AgentRunner} works with. */
export interface AgentRunnerOptions {
  readonly store: SessionStore;
  readonly compute: ComputeService;
  /** Where a session finds the agent that the store gave it at its start. */
  readonly pool?: Pick<WarmPool, "take">;
  readonly steps: StepBoard;
  /** The orchestrator's, without which it may neither write nor end anything. */
  readonly lease: Pick<OwnLease, "holds" | "confirm">;
  /** This machine's clock, for tests: milliseconds since 1970. @default Date.now */
  now?(): number;
  readonly log: Log;
  /** An agent that is not ready after this time has failed. Milliseconds. */
  readonly startTimeoutMs: number;
  readonly leaseSeconds: number;
  /** @default plain text, for tests */
  readonly trust?: AgentTrust;
  /** Folders that no session may see, see rbs.v1.AgentSpec. Absolute. */
  readonly hiddenPaths: readonly string[];
  /** @default none */
  readonly sessionLimits?: SessionLimits;
  /** Each session has a network of its own. @default false */
  readonly unshareNet?: boolean;
  /** What an agent gets to end by itself, after the grace for its commands, before it is killed. Milliseconds. */
  readonly killAfterMs: number;
  /** See SupervisorOptions. */
  readonly answerTimeoutMs?: number;
}

/**
 * The life of one session's one agent: starts or adopts it, holds it, writes what happens to it into the store, and
 * sees to it that it is gone before the session can start another.
 */
export class AgentRunner {
  readonly #options: AgentRunnerOptions;
  /** The session as it was when the agent became ours; only what never changes during an agent's life is read of it. */
  readonly #session: Session;
  readonly #givenUp = new AbortController();
  readonly #over = Promise.withResolvers<AgentFailure>();
  readonly #letGo = Promise.withResolvers<AgentFailure>();
  #isLetGo = false;
  readonly #held = Promise.withResolvers<void>();
  #agent?: RunningAgent;
  #supervisor?: Supervisor;
  /** Set when the agent is to end: what its commands get, in milliseconds. */
  #stopGraceMs?: number;
  #startTimer?: ReturnType<typeof setTimeout>;
  /** The agent was started ahead, and has said nothing yet of the session that it was given. */
  #isUntried = false;
  /** Tells the pool that this session does not need the machine for itself any more. */
  #settled = () => {};
  /** Commands that run on the agent, as it last told. */
  runningCommands = 0;
  /** When it told so, or since when it is held here or takes commands. Milliseconds since 1970. */
  lastCommand: number;
  /** Resolves when the agent is gone and the store knows, or another orchestrator has it. Never rejects. */
  readonly gone: Promise<void>;

  private constructor(session: Session, options: AgentRunnerOptions, adopt: boolean) {
    this.#session = session;
    this.#options = options;
    this.lastCommand = (options.now ?? Date.now)();
    this.gone = this.#live(adopt);
  }

  /** Starts the agent of a session that just became PENDING. */
  static start(session: Session, options: AgentRunnerOptions): AgentRunner {
    return new AgentRunner(session, options, false);
  }

  /** Takes over the agent of a session that another orchestrator left behind; it must have an endpoint. */
  static adopt(session: Session, options: AgentRunnerOptions): AgentRunner {
    return new AgentRunner(session, options, true);
  }

  /** Resolves when the agent of a READY session is known to answer, or to be gone. */
  async settled(): Promise<void> {
    await Promise.race([this.#held.promise.then(() => this.#supervisor!.connected), this.gone]);
  }

  /** Resolves when another orchestrator could find the agent in the store, or it is gone. */
  async findable(): Promise<void> {
    await Promise.race([this.#held.promise, this.gone]);
  }

  /** Whether the agent answers on the present connection. */
  get isConnected(): boolean {
    return this.#supervisor?.isConnected ?? false;
  }

  /** Whether `session` is served by this agent, and not by one before or after it. */
  serves(session: Session): boolean {
    return session.agentId === this.#session.agentId;
  }

  /** Makes the agent refuse calls with an older epoch. */
  async setEpoch(epoch: number): Promise<void> {
    await this.#supervisor?.setEpoch(epoch);
  }

  /**
   * Ends the agent of a session that is STOPPING. Resolves when it is gone.
   *
   * @param graceMs What running commands get, in milliseconds.
   * @returns false: it is another orchestrator's by now, and so is its end.
   */
  async stop(graceMs: number): Promise<boolean> {
    if (this.#stopGraceMs === undefined) {
      this.#stopGraceMs = graceMs;
      clearTimeout(this.#startTimer);
      const timer = setTimeout(() => this.#killIfAllowed(), graceMs + this.#options.killAfterMs);
      this.gone.then(() => clearTimeout(timer));
      if (this.#supervisor) void this.#supervisor.stop(graceMs);
      else this.#givenUp.abort(new AgentStartError("The start was given up.", true));
    }
    await this.gone;
    return !this.#isLetGo;
  }

  /**
   * Leaves the agent to the orchestrator that has the session by now, or will have it. If it cannot be found in the
   * store, it ends.
   */
  letGo(): void {
    this.#isLetGo = true;
    this.#letGo.resolve({ reason: "Another orchestrator has the session.", transient: true });
  }

  /** Ends the agent without ceremony. */
  kill(): void {
    this.#givenUp.abort(new AgentStartError("The start was given up.", true));
    this.#agent?.kill();
    this.#supervisor?.close();
  }

  async #live(adopt: boolean): Promise<void> {
    const { log, steps, startTimeoutMs } = this.#options;
    let failure: AgentFailure;
    try {
      if (this.#session.status !== "READY") {
        this.#startTimer = setTimeout(() => this.#startTimedOut(), startTimeoutMs);
      }
      const warm = adopt ? undefined : await this.#takeWarm();
      this.#agent = adopt ? this.#adopted() : warm?.agent ?? await this.#started();
      failure = await this.#supervised(this.#agent, warm?.supervisor);
      const mayGoOn = this.#stopGraceMs === undefined && !this.#givenUp.signal.aborted && !this.#isLetGo;
      if (this.#isUntried && mayGoOn && await this.#mayEnd()) {
        log(`session ${keyText(this.#session)}: its warm agent was lost (${failure.reason}), so it gets another`);
        this.#agent.kill();
        await this.#end();
        this.#isUntried = false;
        this.#agent = await this.#started();
        failure = await this.#supervised(this.#agent);
      }
    } catch (e) {
      failure = e instanceof AgentStartError
        ? e
        : { reason: `The agent could not be started (${sentence(e)}); try again.`, transient: true };
      if (!(e instanceof AgentStartError)) {
        log(`session ${keyText(this.#session)}: ${trace(e)}`);
      }
    }
    clearTimeout(this.#startTimer);
    this.#settled();
    await this.#end();
    // Before another start of the session can publish its own.
    steps.clear(this.#session);
    try {
      if (this.#stopGraceMs === undefined && !this.#isLetGo) {
        await this.#advance("fail", { failure: failure.reason, failureTransient: failure.transient });
      }
    } catch (e) {
      log(`session ${keyText(this.#session)}: ${sentence(e)}`);
    }
  }

  #adopted(): RunningAgent {
    return this.#options.compute.adopt(this.#session.handle, endpointOf(this.#session)!, this.#session);
  }

  /** The agent that the store gave to the session, if it did and the agent is still there. */
  async #takeWarm(): Promise<HeldAgent | undefined> {
    const { pool, steps } = this.#options;
    const held = await pool?.take(this.#session.agentId, this.#givenUp.signal);
    this.#givenUp.signal.throwIfAborted();
    if (!held) return undefined;
    this.#agent = held.agent;
    this.#supervisor = held.supervisor;
    this.#settled = held.settled;
    steps.publish(this.#session, "taking an agent that waits");
    this.#isUntried = true;
    // One that had not been started yet when the session took it.
    if (!endpointOf(this.#session)) await this.#listening(held.agent);
    return held;
  }

  async #started(): Promise<RunningAgent> {
    const { compute, steps, trust } = this.#options;
    const session = this.#session;
    steps.publish(session, "starting agent");
    const { agentId } = session;
    const blank = { agentId, leaseSeconds: this.#options.leaseSeconds, trust: await bootstrap(agentId, trust) };
    const agent = await compute.start(blank, {
      session,
      signal: this.#givenUp.signal,
      onStep: (step) => steps.publish(session, step),
    });
    this.#agent = agent;
    await this.#listening(agent);
    return agent;
  }

  /** From here on an orchestrator after this one can adopt the agent. */
  async #listening({ handle, endpoint }: RunningAgent): Promise<void> {
    const isKnown = await this.#advance("listening", {
      handle,
      host: endpoint.host,
      agentPort: endpoint.port,
      commandPort: endpoint.commandPort,
    });
    if (!isKnown) throw new AgentStartError("The session was ended while its agent started.", true);
  }

  #spec(): AgentSpec {
    const session = this.#session;
    return {
      userId: session.userId,
      repoHash: session.repoHash,
      serverId: session.serverId,
      sessionId: session.sessionId,
      epoch: session.epoch,
      sourcePath: session.sourcePath,
      startupOptions: session.startupOptions,
      accessToken: session.accessToken,
      agentId: session.agentId,
      synced: session.synced,
      hiddenPaths: [...this.#options.hiddenPaths],
      limits: this.#options.sessionLimits,
      unshareNet: this.#options.unshareNet,
    };
  }

  /**
   * Holds the agent until it is over.
   *
   * @param waiting The hold on an agent that was started ahead.
   * @returns why it is over
   */
  async #supervised(agent: RunningAgent, waiting?: Supervisor): Promise<AgentFailure> {
    const { answerTimeoutMs, trust } = this.#options;
    const session = this.#session;
    // Also of an adopted one: the orchestrator before may have ended before it told the agent.
    const spec = session.status === "PENDING" ? agent.assign(this.#spec()) : undefined;
    const supervisor = this.#supervisor = waiting ?? new Supervisor({
      endpoint: agent.endpoint,
      agentId: session.agentId,
      trust,
      epoch: await this.#epoch(),
      term: session.term,
      wasReady: session.status === "READY",
      answerTimeoutMs,
      events: this.#events(),
      spec,
    });
    if (spec) waiting?.assign(spec, session.epoch, this.#events());
    const unheard = waiting && setTimeout(() => {
      if (this.#isUntried) waiting.close();
    }, answerTimeoutMs ?? 5000);
    this.#held.resolve();
    // A stop that came while the supervisor was being made.
    if (this.#stopGraceMs !== undefined) void supervisor.stop(this.#stopGraceMs);
    const over = Promise.race([
      this.#over.promise,
      this.#letGo.promise,
      // The agent's own words, which it says before it ends, explain more than that it ended.
      agent.ended.then(async (failure) => await this.#saidBefore(failure)),
      supervisor.lost.then(async (reason) => {
        const failure: AgentFailure = {
          reason: `The agent of ${JSON.stringify(session.sourcePath)} does not answer any more (${reason}); ` +
            `the next command starts another.`,
          transient: true,
        };
        // While it stops, the end of the connection is the beginning of the process's end.
        const { killAfterMs } = this.#options;
        return await this.#endOr(agent, failure, this.#stopGraceMs === undefined ? 200 : killAfterMs + KILLED_MS);
      }),
    ]);
    return await over.finally(() => clearTimeout(unheard));
  }

  /** The session's epoch by now. */
  async #epoch(): Promise<number> {
    const current = await this.#options.store.get(this.#session);
    return current && this.serves(current) ? current.epoch : this.#session.epoch;
  }

  #events(): SupervisorEvents {
    const { store, steps, log } = this.#options;
    const session = this.#session;
    return {
      step: (step) => {
        this.#isUntried = false;
        steps.publish(session, step);
      },
      ready: ({ warnings, samePaths, missingInstallBase }) => {
        this.#isUntried = false;
        this.lastCommand = (this.#options.now ?? Date.now)();
        clearTimeout(this.#startTimer);
        this.#settled();
        for (const warning of warnings) log(`session ${keyText(session)}: ${warning}`);
        this.#advance("ready", { warnings, samePaths, missingInstallBase }).then(() => steps.clear(session), (e) => {
          // Said again by one that was ready before, it is nothing new.
          if (session.status === "READY") return log(`session ${keyText(session)}: ${sentence(e)}`);
          this.#over.resolve({ reason: sentence(e), transient: true });
        });
      },
      failed: ({ reason, transient }) => {
        this.#isUntried = false;
        this.#over.resolve({ reason, transient });
      },
      activity: (runningCommands) => {
        this.runningCommands = runningCommands;
        this.lastCommand = (this.#options.now ?? Date.now)();
        store.touch(session, undefined, this.lastCommand).catch((e) => log(sentence(e)));
      },
    };
  }

  /** What the agent said of its own failure, if it did so in what still arrives of its last connection. */
  async #saidBefore(failure: AgentFailure): Promise<AgentFailure> {
    const nothing = this.#supervisor?.lost.then(() => failure) ?? failure;
    return await Promise.race([this.#over.promise, nothing]);
  }

  /** An agent whose connection broke is most often one that just ended; then its own end is the better reason. */
  async #endOr(agent: RunningAgent, failure: AgentFailure, milliseconds: number): Promise<AgentFailure> {
    const timer = Promise.withResolvers<AgentFailure>();
    const id = setTimeout(() => timer.resolve(failure), milliseconds);
    try {
      return await Promise.race([agent.ended, timer.promise]);
    } finally {
      clearTimeout(id);
    }
  }

  /** Makes sure that the agent is gone; one that said that it failed gets a moment to end by itself. */
  async #end(): Promise<void> {
    const agent = this.#agent;
    const timer = setTimeout(() => this.#killIfAllowed(), this.#options.killAfterMs);
    try {
      if (!await this.#mayEnd()) {
        this.#isLetGo = true;
        agent?.letGo();
      } else if (agent) {
        // Not reachable through its connection any more, or told to end already.
        agent.terminate();
        if (await endsWithin(agent, this.#options.killAfterMs + KILLED_MS)) return;
        // The next one waits for the lock of the storage.
        this.#options.log(
          `session ${
            keyText(this.#session)
          }: its agent does not end (its log is ${agent.log}), and is left to its lease`,
        );
        agent.letGo();
      }
    } finally {
      clearTimeout(timer);
      this.#supervisor?.close();
    }
  }

  async #killIfAllowed(): Promise<void> {
    if (await this.#mayEnd()) this.kill();
  }

  /**
   * Whether the agent may be ended from here: the session is this orchestrator's, or no session wants the agent. A holder
   * that was stopped or cut off for longer than its lease must not end what is another's by now.
   */
  async #mayEnd(): Promise<boolean> {
    const { store, lease } = this.#options;
    const { holder } = this.#session;
    try {
      for (;;) {
        if (!this.#isLetGo && lease.holds(holder)) return true;
        const session = await store.get(this.#session);
        const isWanted = session && this.serves(session) && session.agentPort === this.#agent?.endpoint.port &&
          (session.status === "PENDING" || session.status === "READY");
        if (!isWanted) return true;
        if (this.#isLetGo || session.holder !== holder || !await lease.confirm(holder)) return false;
      }
    } catch {
      return false; // The store is out of reach. The agent ends by its own lease, or is adopted.
    }
  }

  #startTimedOut(): void {
    const failure = new AgentStartError(
      `The agent of ${JSON.stringify(this.#session.sourcePath)} was not ready after ` +
        `${this.#options.startTimeoutMs / 1000} s${
          this.#agent ? ` (its log is ${this.#agent.log})` : ""
        }; try again, or ` +
        `raise --start-timeout of the orchestrator.`,
      true,
    );
    this.#givenUp.abort(failure);
    this.#over.resolve(failure);
  }

  /**
   * Lets an event happen to the session, whatever epoch it has by now, as long as it is this orchestrator's and this agent
   * serves it.
   *
   * @returns whether it happened
   */
  async #advance(event: SessionEvent, change: SessionChange): Promise<boolean> {
    const { store } = this.#options;
    for (;;) {
      const session = await store.get(this.#session);
      const isOurs = session && this.serves(session) && session.holder === this.#session.holder;
      if (!isOurs || !TRANSITIONS[session.status][event]) return false;
      if (await store.transition({ ...session, state: session.status }, event, change)) return true;
    }
  }
}
