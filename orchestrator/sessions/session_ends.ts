import { endpointOf } from "../store/agent_endpoint.ts";
import type { Session, SessionKey } from "../store/session.ts";
import type { Adoption } from "./adoption.ts";
import type { SessionAgents } from "./session_agents.ts";
import type { SessionContext } from "./session_context.ts";
import type { SessionServiceOptions } from "./session_service_options.ts";
import { servedBy } from "./without_server_id.ts";

/** When the orchestrator ends: how long starts get until others can find their agents. Milliseconds. */
const HAND_OVER_MS = 10_000;
/** What callers are told of an orchestrator that ends. */
export const ENDING = "The orchestrator is being stopped; start it again.";

/** How sessions end: by request, by idleness, and with their orchestrator. */
export class SessionEnds {
  readonly #context: SessionContext;
  readonly #options: SessionServiceOptions;
  readonly #agents: SessionAgents;
  readonly #adoption: Adoption;
  /** Whether other orchestrators get the agents when this one ends. */
  #hasHeirs = false;
  readonly #hurry = Promise.withResolvers<void>();

  constructor(context: SessionContext, agents: SessionAgents, adoption: Adoption) {
    this.#context = context;
    this.#options = context.options;
    this.#agents = agents;
    this.#adoption = adoption;
  }

  /**
   * Ends a session and its agent. Resolves when it has ended.
   *
   * @param sessionId Requires this id; empty for any.
   * @returns whether this call ended something
   */
  async release(of: SessionKey, sessionId: string, reason = "The session was released."): Promise<boolean> {
    const { store } = this.#options;
    const key = await servedBy(of, store);
    for (;;) {
      const session = await store.get(key);
      if (!session || (sessionId !== "" && session.sessionId !== sessionId)) return false;
      switch (session.status) {
        case "FAILED":
          if (await store.transition({ ...session, state: "FAILED" }, "forget")) return true;
          break;
        case "STOPPING":
          await this.#adoption.mendIfOrphan(session);
          await this.#agents.of(key)?.gone;
          await this.#until(key, (now) => now?.status !== "STOPPING" || now.epoch !== session.epoch);
          return false;
        default: {
          const stopping = await this.#agents.stop(session, reason, true);
          if (!stopping) break;
          await stopping.done;
          return true;
        }
      }
    }
  }

  /** Ends a session that was idle for too long. */
  async expire(session: Session): Promise<void> {
    if (session.status === "FAILED") await this.#options.store.transition({ ...session, state: "FAILED" }, "forget");
    else await this.#agents.stop(session, "The session was idle for too long.", true);
  }

  /**
   * Leaves the sessions to other orchestrators; if there are none, ends all sessions and their agents. Resolves when that
   * is done.
   *
   * @param pool Resolves when the waiting warm agents have ended.
   */
  async endAll(pool?: Promise<void>): Promise<void> {
    const { store, log } = this.#options;
    for (let isHandedOver = false;;) {
      if ((await this.#context.lease.others()).length > 0) {
        if (isHandedOver) return this.#agents.letGo();
        log(`${this.#agents.all.length} agents are left to the other orchestrators`);
        this.#hasHeirs = true;
        const timer = setTimeout(this.#hurry.resolve, HAND_OVER_MS);
        await Promise.race([
          this.#hurry.promise,
          Promise.all(this.#agents.all.map((one) => one.findable())),
        ]);
        clearTimeout(timer);
        // Other orchestrators that end at this moment have done the same before they looked for others.
        await pool;
        await this.#context.lease.end();
        isHandedOver = true;
        continue;
      }
      // Repeated, in case a start was in progress during the last look.
      this.#hasHeirs = false;
      const sessions = (await store.list()).filter((session) => session.status !== "FAILED");
      if (sessions.length === 0 && this.#agents.all.length === 0) {
        await pool;
        return await this.#context.lease.end();
      }
      await Promise.all([
        ...sessions.map((session) => this.#endAlone(session)),
        ...this.#agents.all.map((runner) => runner.gone),
      ]);
    }
  }

  /** Kills all agents of this orchestrator, unless others get them, so that {@link endAll} finishes. */
  kill(): void {
    this.#hurry.resolve();
    if (this.#hasHeirs) return;
    for (const runner of this.#agents.all) runner.kill();
    this.#options.pool?.kill();
  }

  /** Ends a session of any holder: there is no other orchestrator. */
  async #endAlone(session: Session): Promise<void> {
    if (session.status !== "STOPPING") return void await this.release(session, "", ENDING);
    if (this.#agents.isFinishing(session)) return await this.#agents.of(session)?.gone;
    const runner = this.#agents.of(session);
    if (!runner && !endpointOf(session)) {
      return void await this.#options.store.transition({ ...session, state: "STOPPING" }, "stopped");
    }
    await this.#agents.finishStop(session, runner ?? this.#agents.adopt(session));
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
