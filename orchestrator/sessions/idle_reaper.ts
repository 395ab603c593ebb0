import { unref } from "../../proto/base/timers.ts";
import { sentence } from "../../proto/base/errors.ts";
import type { Log } from "../../proto/base/log.ts";
import { secondServers } from "./second_servers.ts";
import { keyText, type Session } from "../store/session.ts";
import type { SessionStore } from "../store/session_store.ts";

/** Options of {@link IdleReaper}. */
export interface IdleReaperOptions {
  readonly store: SessionStore;
  /** Milliseconds. */
  readonly idleTimeoutMs: number;
  /** The same for sessions beside a main one, counted from their last command: see second_servers.ts. Milliseconds. */
  readonly secondIdleTimeoutMs: number;
  readonly log: Log;
  /** This machine's clock, for tests: milliseconds since 1970. @default Date.now */
  now?(): number;
  /** Whether the session is for this orchestrator to end: others look after their own. A failure is anybody's. */
  isOurs(session: Session): boolean;
  /** Whether a command runs in the session. */
  isBusy(session: Session): boolean;
  /** When a command last began or ended in the session, as far as is known. Milliseconds since 1970. */
  lastCommand(session: Session): number | undefined;
  /** Begins to end a session that is READY, or FAILED; does not wait for its agent's end. */
  expire(session: Session): Promise<void>;
}

/** The longest delay that a timer takes, in milliseconds. */
const LONGEST = 2 ** 31 - 1;

/**
 * Ends sessions that nobody has used for a while. There is one timer, for the nearest expiry; whoever is heard of in
 * the meantime is found alive when it fires.
 */
export class IdleReaper {
  readonly #options: IdleReaperOptions;
  #timer?: ReturnType<typeof setTimeout>;
  /** When it fires. Milliseconds since 1970. */
  #at = Infinity;
  #stopped = false;
  readonly #now: () => number;

  constructor(options: IdleReaperOptions) {
    this.#options = options;
    this.#now = options.now ?? Date.now;
  }

  /** Looks at what the store holds, and goes on from there. */
  async start(): Promise<void> {
    await this.#reap();
  }

  /** Sees to it that a session which just began will be looked at. */
  schedule(session: Session): void {
    // It may be one that ends early, and is not looked for here.
    const at = session.lastHeartbeat + Math.min(this.#options.idleTimeoutMs, this.#options.secondIdleTimeoutMs);
    if (at < this.#at) this.#schedule(at);
  }

  stop(): void {
    this.#stopped = true;
    clearTimeout(this.#timer);
  }

  #schedule(at: number): void {
    if (this.#stopped) return;
    clearTimeout(this.#timer);
    this.#at = at;
    this.#timer = setTimeout(() => this.#reap(), Math.min(Math.max(at - this.#now(), 0), LONGEST));
    // The timer alone is no reason for the program to go on.
    unref(this.#timer);
  }

  async #reap(): Promise<void> {
    const { store, idleTimeoutMs, secondIdleTimeoutMs, isBusy, isOurs, lastCommand, expire, log } = this.#options;
    this.#at = Infinity;
    try {
      let nearest = Infinity;
      const expired: Session[] = [];
      const sessions = await store.list();
      const seconds = secondServers(sessions.filter(({ status }) => status === "PENDING" || status === "READY"));
      for (const session of sessions) {
        if (session.status !== "FAILED" && !isOurs(session)) continue;
        const busy = isBusy(session) || session.status === "PENDING" || session.status === "STOPPING";
        const used = busy ? this.#now() : session.lastHeartbeat;
        const early = seconds.has(session)
          ? (busy ? used : lastCommand(session) ?? session.createdAt) + secondIdleTimeoutMs
          : Infinity;
        const expiry = Math.min(used + idleTimeoutMs, early);
        if (expiry > this.#now()) nearest = Math.min(nearest, expiry);
        else if (!this.#stopped) expired.push(session);
      }
      // All at once; one that cannot be ended now is no reason for the others to go on.
      await Promise.all(expired.map((session) =>
        expire(session).catch((e) => {
          log(`session ${keyText(session)}, which is idle, could not be ended: ${sentence(e)}`);
          nearest = Math.min(nearest, this.#now() + idleTimeoutMs);
        })
      ));
      if (nearest < this.#at) this.#schedule(nearest);
    } catch (e) {
      log(`idle sessions could not be ended: ${sentence(e)}`);
      this.#schedule(this.#now() + idleTimeoutMs);
    }
  }
}
