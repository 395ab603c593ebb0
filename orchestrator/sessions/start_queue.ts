import { sentence } from "../../proto/base/errors.ts";
import { WAITING_FOR_AGENT } from "../../proto/contract/start_steps.ts";
import type { Log } from "../../proto/base/log.ts";
import { AgentCount } from "../store/agent_count.ts";
import { keyText, type SessionKey } from "../store/session.ts";
import type { StepBoard } from "../agents/start_progress.ts";
import type { AgentLimits } from "../store/agent_limits.ts";
import type { SessionStore } from "../store/session_store.ts";

/** A caller that waits for an agent of the key's session. */
export interface Queued {
  readonly request: SessionKey;
  /** Lower numbers came first. */
  readonly arrival: number;
}

/** Options of {@link StartQueue}. */
export interface StartQueueOptions<Caller extends Queued> {
  readonly store: SessionStore;
  readonly steps: StepBoard;
  readonly log: Log;
  readonly limits: AgentLimits;
  /**
   * Starts an agent for the first of `callers`, who all want the same session. There is at least one; all may leave at
   * any time.
   *
   * @returns false if the store has no room; true if nothing is left to do
   */
  start(callers: ReadonlySet<Caller>): Promise<boolean>;
  /**
   * Interval at which the store is read without a local reason, in milliseconds: another orchestrator may have ended an
   * agent.
   * @default 5000
   */
  readonly lookAgainMs?: number;
}

/** A place in the queue. */
export interface Place {
  /** Resolves when the session was started; rejects if it could not be. */
  readonly started: Promise<void>;
  /** Gives up the place, without effect on others of the same session. May be called again. */
  leave(): void;
}

/** All callers for the same session. */
interface Entry<Caller> {
  readonly key: SessionKey;
  /** The lowest arrival number of its callers. */
  arrival: number;
  readonly callers: Set<Caller>;
  readonly started: PromiseWithResolvers<void>;
}

/**
 * Starts agents in order of arrival, as many as {@link AgentLimits} allow, and tells waiting callers why they wait and
 * how many are before them. A user at its own limit is skipped and blocks nobody.
 *
 * The store alone knows how many agents there are: it is read at each {@link look}, and decides at each start. The
 * queue is only in memory; after a restart its callers ask again.
 */
export class StartQueue<Caller extends Queued> {
  readonly #options: StartQueueOptions<Caller>;
  /** In order of arrival. */
  readonly #entries: Entry<Caller>[] = [];
  /** Keys whose agent is being replaced: its room is reserved for the successor. */
  readonly #held = new Map<string, SessionKey>();
  #looking = false;
  #lookAgain = false;
  #timer?: ReturnType<typeof setTimeout>;

  constructor(options: StartQueueOptions<Caller>) {
    this.#options = options;
  }

  /** Queues for a start of the caller's session, together with other callers for it. */
  join(caller: Caller): Place {
    const wanted = keyText(caller.request);
    let entry = this.#entries.find(({ key }) => keyText(key) === wanted);
    if (!entry) {
      entry = { key: caller.request, arrival: caller.arrival, callers: new Set(), started: Promise.withResolvers() };
      // Callers that have left need not handle the error.
      entry.started.promise.catch(() => {});
      this.#insert(entry);
    } else if (caller.arrival < entry.arrival) {
      // A caller that returns after a failed start keeps its arrival number.
      this.#remove(entry);
      entry.arrival = caller.arrival;
      this.#insert(entry);
    }
    entry.callers.add(caller);
    this.look();
    return { started: entry.started.promise, leave: () => this.#leave(entry, caller) };
  }

  /** Reserves the room of a session whose agent is being replaced, until it is disposed of. */
  hold(key: SessionKey): Disposable {
    this.#held.set(keyText(key), key);
    return {
      [Symbol.dispose]: () => {
        this.#held.delete(keyText(key));
        this.look();
      },
    };
  }

  /** Call it when something has changed: starts agents if possible, and updates the messages of the rest. */
  look(): void {
    this.#lookAgain = true;
    if (!this.#looking) void this.#lookUntilQuiet();
  }

  #leave(entry: Entry<Caller>, caller: Caller): void {
    if (!entry.callers.delete(caller) || entry.callers.size > 0 || !this.#remove(entry)) return;
    this.#options.steps.clear(entry.key);
    this.look();
  }

  #insert(entry: Entry<Caller>): void {
    const next = this.#entries.findIndex((other) => other.arrival > entry.arrival);
    this.#entries.splice(next < 0 ? this.#entries.length : next, 0, entry);
  }

  /** @returns whether it was still queued */
  #remove(entry: Entry<Caller>): boolean {
    const at = this.#entries.indexOf(entry);
    if (at >= 0) this.#entries.splice(at, 1);
    return at >= 0;
  }

  async #lookUntilQuiet(): Promise<void> {
    this.#looking = true;
    clearTimeout(this.#timer);
    while (this.#lookAgain) {
      this.#lookAgain = false;
      if (this.#entries.length === 0) continue;
      try {
        await this.#serve();
      } catch (e) {
        this.#options.log(`agents that are waited for could not be started: ${sentence(e)}`);
      }
    }
    this.#looking = false;
    if (this.#entries.length === 0) return;
    this.#timer = setTimeout(() => this.look(), this.#options.lookAgainMs ?? 5000);
  }

  /** Goes through the queue once. */
  async #serve(): Promise<void> {
    const { limits } = this.#options;
    const running = await this.#running();
    /** Once the first of the queue cannot be started, no later one is. */
    let isFull = false;
    let before = 0;
    const beforeOfUser = new Map<string, number>();
    for (const entry of [...this.#entries]) {
      const { userId } = entry.key;
      // Its callers have left, or learn from the store that they need not wait.
      if (entry.callers.size === 0 || running.has(entry.key)) continue;
      const { count } = running;
      if (limits.agentsPerUser > 0 && !count.isSecond(entry.key) && count.of(userId) >= limits.agentsPerUser) {
        const mine = beforeOfUser.get(userId) ?? 0;
        beforeOfUser.set(userId, mine + 1);
        this.#tell(
          entry,
          `waiting for one of your own agents to end: ${standing(count.of(userId), limits.agentsPerUser, mine)}`,
        );
        continue;
      }
      isFull ||= limits.agents > 0 && count.all >= limits.agents;
      if (!isFull && await this.#start(entry)) {
        running.add(entry.key);
        continue;
      }
      isFull = true;
      this.#tell(entry, `${WAITING_FOR_AGENT}: ${standing(count.all, limits.agents, before++)}`);
    }
  }

  #tell(entry: Entry<Caller>, step: string): void {
    // Nothing may stay on the board for callers that have left.
    if (entry.callers.size > 0) this.#options.steps.publish(entry.key, step);
  }

  /** @returns false if there is no room */
  async #start(entry: Entry<Caller>): Promise<boolean> {
    try {
      if (!await this.#options.start(entry.callers)) return false;
      entry.started.resolve();
    } catch (e) {
      entry.started.reject(e);
      // The session was counted as running.
      this.#lookAgain = true;
    }
    this.#remove(entry);
    return true;
  }

  /** The sessions that have an agent, or will get one without queueing. */
  async #running() {
    const keys = new Map(this.#held);
    for (const session of await this.#options.store.list()) {
      if (session.status !== "FAILED") keys.set(keyText(session), session);
    }
    const count = new AgentCount(keys.values());
    return {
      count,
      has: (key: SessionKey) => keys.has(keyText(key)),
      add(key: SessionKey) {
        keys.set(keyText(key), key);
        count.add(key);
      },
    };
  }
}

/** The state of the queue, for a waiting user. */
function standing(running: number, limit: number, before: number): string {
  const others = before === 0 ? "you are next" : before === 1 ? "1 is before you" : `${before} are before you`;
  return `${running} of ${limit} run, ${others}`;
}
