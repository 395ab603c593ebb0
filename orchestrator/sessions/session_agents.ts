import { sentence } from "../../proto/base/errors.ts";
import { randomToken } from "../../proto/base/state_directory.ts";
import { AgentRunner, type AgentRunnerOptions } from "../agents/agent_runner.ts";
import type { ComputeService } from "../compute/compute_service.ts";
import { endpointOf } from "../store/agent_endpoint.ts";
import { keyText, type Session, type SessionKey } from "../store/session.ts";
import type { SessionChange } from "../store/session_store.ts";
import { hasDefaultOutputBase } from "./second_servers.ts";
import type { ServerRequest } from "./server_request.ts";
import type { SessionContext } from "./session_context.ts";
import type { SessionServiceOptions } from "./session_service_options.ts";
import { startupOptionsHash } from "./startup_options_hash.ts";
import { withoutServerId } from "./without_server_id.ts";

/** Of one orchestrator: the agents that it holds, and how sessions get one and lose it. */
export class SessionAgents {
  readonly #context: SessionContext;
  readonly #options: SessionServiceOptions;
  /** By the texts of their sessions' keys. */
  readonly #runners = new Map<string, AgentRunner>();
  /** Keys of STOPPING sessions that {@link finishStop} is finishing. */
  readonly #finishing = new Set<string>();

  constructor(context: SessionContext) {
    this.#context = context;
    this.#options = context.options;
  }

  /** The agent that is held for a session's key. */
  of(key: SessionKey): AgentRunner | undefined {
    return this.#runners.get(keyText(key));
  }

  /** All agents that are held. */
  get all(): AgentRunner[] {
    return [...this.#runners.values()];
  }

  /** Whether the end of a session is on its way here. */
  isFinishing(key: SessionKey): boolean {
    return this.#finishing.has(keyText(key));
  }

  /** Whether another orchestrator holds the session, and is alive as far as is known. */
  async isHeldElsewhere(session: Session): Promise<boolean> {
    return session.holder !== this.#context.lease.id && await this.#context.lease.isAlive(session.holder);
  }

  /** The holder for what begins or changes hands now; undefined while this orchestrator ends. */
  async holder(): Promise<string | undefined> {
    if (this.#context.lease.isOver) return undefined;
    await this.#context.lease.begin();
    if (!this.#context.lease.holds(this.#context.lease.id)) await this.#context.lease.refresh();
    return this.#context.lease.id;
  }

  /**
   * Starts an agent, unless another caller does. Throws if the orchestrator is ending.
   *
   * @returns the epoch of the start; undefined if another was faster, or there is no room
   */
  async start(request: ServerRequest, failed: Session | undefined): Promise<number | undefined> {
    const { store, synced, limits, pool } = this.#options;
    const { compute, elsewhere } = this.#options.compute.forRegion(request.region);
    const holder = await this.holder();
    this.#context.ending.throwIfAborted();
    if (!failed) await this.#inherit(request, compute);
    const now = this.#context.now();
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
      await this.#context.lease.refresh();
      return undefined;
    }
    if (elsewhere) this.#context.steps.publish(session, elsewhere);
    this.#run(session, AgentRunner.start);
    this.#context.reaper.schedule(session);
    return session.epoch;
  }

  /**
   * Before ServerIds, a workspace's storage had the name that a session without one has. The server with the client's
   * default output base, for which it was most likely made, inherits it.
   */
  async #inherit(request: ServerRequest, compute: ComputeService): Promise<void> {
    const { store, log } = this.#options;
    if (request.serverId === "" || !hasDefaultOutputBase(request)) return;
    const former = withoutServerId(request);
    if (await store.get(former)) return;
    const why = compute.inherit(former, request);
    if (why) log(`session ${keyText(request)} cannot go on with the storage of ${keyText(former)}: ${why}`);
  }

  /** Holds the agent of a session that another orchestrator left behind; it must have an endpoint. */
  adopt(session: Session): AgentRunner {
    return this.#run(session, AgentRunner.adopt);
  }

  #run(session: Session, begin: (session: Session, options: AgentRunnerOptions) => AgentRunner): AgentRunner {
    const { steps, lease } = this.#context;
    const compute = this.#options.compute.named(session.computeService);
    const runner = begin(session, { ...this.#options, compute, steps, lease });
    this.#runners.set(keyText(session), runner);
    runner.gone.then(() => {
      if (this.#runners.get(keyText(session)) === runner) this.#runners.delete(keyText(session));
      this.lookForRoom();
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
  async stop(
    session: Session,
    reason: string,
    transient: boolean,
    successor?: ServerRequest,
  ): Promise<{ done: Promise<void> } | undefined> {
    const text = keyText(session);
    const change: SessionChange = { failure: reason, failureTransient: transient, holder: await this.holder() };
    const wasFinishing = this.#finishing.has(text);
    this.#finishing.add(text);
    let stopping: Session | undefined;
    try {
      stopping = await this.#options.store.transition({ ...session, state: session.status }, "stop", change);
    } finally {
      if (!stopping && !wasFinishing) this.#finishing.delete(text);
    }
    if (!stopping) {
      await this.#context.lease.refresh();
      return undefined;
    }
    let runner = this.#runners.get(text);
    if (!runner?.serves(stopping)) runner = undefined;
    // Another orchestrator had it until now.
    if (!runner && endpointOf(stopping)) runner = this.adopt(stopping);
    return { done: this.finishStop(stopping, runner, successor) };
  }

  /** Ends the agent of a STOPPING session, and then the session. Never rejects. */
  async finishStop(session: Session, runner: AgentRunner | undefined, successor?: ServerRequest): Promise<void> {
    const { store, stopGraceMs, log } = this.#options;
    this.#finishing.add(keyText(session));
    if (await runner?.stop(stopGraceMs) === false) return void this.#finishing.delete(keyText(session));
    // Under one lock, so that no waiting caller can start an agent of another kind in between.
    await this.#context.mutex.run(keyText(session), async () => {
      this.#finishing.delete(keyText(session));
      // The successor gets the freed room before queued callers.
      using _room = successor && this.#context.queue?.hold(session);
      const stopped = await store.transition({ ...session, state: "STOPPING" }, "stopped");
      if (stopped && successor && !this.#context.ending.aborted) await this.start(successor, undefined);
    }).catch((e) => log(`session ${keyText(session)}: ${sentence(e)}`));
    this.lookForRoom();
  }

  /** Leaves all agents to others: their sessions no longer belong to this orchestrator. */
  letGo(): void {
    this.#options.pool?.letGo();
    for (const runner of this.#runners.values()) runner.letGo();
    this.#runners.clear();
    this.#finishing.clear();
  }

  /** Call it when agents have ended: there may be room for others, queued callers first. */
  lookForRoom(): void {
    this.#context.queue?.look();
    this.#options.pool?.look();
  }
}
