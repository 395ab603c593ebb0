import { sentence } from "../../proto/base/errors.ts";
import { endpointOf } from "../store/agent_endpoint.ts";
import { keyText, type Session } from "../store/session.ts";
import type { SessionAgents } from "./session_agents.ts";
import type { SessionContext } from "./session_context.ts";
import type { SessionServiceOptions } from "./session_service_options.ts";

/** Number of sessions adopted concurrently. */
const ADOPTED_AT_ONCE = 20;
const LOST = "The agent was lost while it started or while the orchestrator was restarted; run the command again.";

/** What becomes of sessions that nobody serves: this orchestrator holds their agents from now on, or ends them. */
export class Adoption {
  readonly #context: SessionContext;
  readonly #options: SessionServiceOptions;
  readonly #agents: SessionAgents;
  #hasOtherMode = false;

  constructor(context: SessionContext, agents: SessionAgents) {
    this.#context = context;
    this.#options = context.options;
    this.#agents = agents;
  }

  /** Whether there were sessions of the other mode when this orchestrator looked for orphans. */
  get hasOtherMode(): boolean {
    return this.#hasOtherMode;
  }

  /** Adopts what orchestrators that are gone have left. */
  async adoptOrphans(): Promise<void> {
    if (this.#context.ending.aborted) return;
    const { synced, log } = this.#options;
    const living = new Set([this.#context.lease.id, ...(await this.#context.lease.others()).map(({ id }) => id)]);
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
      for (let next = orphans.shift(); next; next = orphans.shift()) await this.mendIfOrphan(next);
    };
    await Promise.all(Array.from({ length: ADOPTED_AT_ONCE }, adoptNext));
    await this.#options.pool?.adopt();
  }

  /**
   * {@link mend} for a stale copy of a session: takes the key's mutex and reads again. Does not disturb a start that
   * has a runner.
   */
  async mendIfOrphan(session: Session): Promise<void> {
    if (session.status === "FAILED") return;
    if (this.#agents.of(session) && session.status !== "STOPPING") return;
    await this.#context.mutex.run(keyText(session), async () => {
      const now = await this.#options.store.get(session);
      if (now && now.status !== "FAILED") await this.mend(now);
    });
  }

  /**
   * Recovers a session that is not served: its orchestrator is gone; or it is ours, and a write took effect without our
   * knowledge, or failed (a full disk). Call it with the key's mutex.
   */
  async mend(session: Session): Promise<void> {
    const runner = this.#agents.of(session);
    if (this.#agents.isFinishing(session) || await this.#agents.isHeldElsewhere(session)) return;
    if (runner?.serves(session) && session.status === "STOPPING") return void this.#agents.finishStop(session, runner);
    if (runner) return;
    if (session.holder !== this.#context.lease.id) await this.#adopt(session);
    else await this.#serve(session);
  }

  /** Adopts a session whose orchestrator is gone, unless another is faster. */
  async #adopt(session: Session): Promise<void> {
    const { store, log } = this.#options;
    const holder = await this.#agents.holder();
    const mine = await store.transition({ ...session, state: session.status }, "adopt", { holder });
    // Another was faster, or our lease was lost.
    if (!mine) return await this.#context.lease.refresh();
    if (endpointOf(mine)) log(`session ${keyText(mine)}: adopting its agent on port ${mine.agentPort}`);
    await this.#serve(mine);
    // Without an orchestrator no heartbeat could be recorded.
    await store.touch(mine, undefined, this.#context.now()).catch((e) => log(sentence(e)));
  }

  /** Serves a session of ours based on what is known of its agent, which may be gone. */
  async #serve(session: Session): Promise<void> {
    // Its agent is unknown, and ends by its lease.
    if (!endpointOf(session)) return await this.#giveUp(session);
    const runner = this.#agents.adopt(session);
    if (session.status === "STOPPING") void this.#agents.finishStop(session, runner);
    else this.#context.reaper.schedule(session);
  }

  /** Records that the agent of a session of ours is gone. */
  async #giveUp(session: Session): Promise<void> {
    const expected = { ...session, state: session.status };
    if (session.status === "STOPPING") await this.#options.store.transition(expected, "stopped");
    else await this.#options.store.transition(expected, "fail", { failure: LOST, failureTransient: true });
    this.#agents.lookForRoom();
  }
}
