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
  /** The same for sessions beside a main one, since their last command: see second_servers.ts. Milliseconds. */
  readonly secondIdleTimeoutMs: number;
  readonly log: Log;
  /** The clock, for tests: milliseconds since 1970. @default Date.now */
  now?(): number;
  /**
   * Whether this orchestrator may end the session. Other orchestrators look after their own; any may end a FAILED one.
   */
  isOurs(session: Session): boolean;
  /** Whether a command runs in the session. */
  isBusy(session: Session): boolean;
  /** When a command last began or ended in the session, if known. Milliseconds since 1970. */
  lastCommand(session: Session): number | undefined;
  /** Starts to end a READY or FAILED session; does not wait for its agent's end. */
  expire(session: Session): Promise<void>;
}

/** Maximum delay of a timer, in milliseconds. */
const LONGEST = 2 ** 31 - 1;

/**
 * Ends idle sessions. There is one timer, for the nearest expiry; a session that was used in the meantime is found
 * alive when it fires.
 */
export class IdleReaper {
  readonly #options: IdleReaperOptions;
  #timer?: ReturnType<typeof setTimeout>;
  /** When the timer fires. Milliseconds since 1970. */
  #at = Infinity;
  #stopped = false;
  readonly #now: () => number;

  constructor(options: IdleReaperOptions) {
    this.#options = options;
    this.#now = options.now ?? Date.now;
  }

  /** Examines the store's sessions, and schedules the next look. */
  async start(): Promise<void> {
    await this.#reap();
  }

  /** Ensures that a new session will be examined. */
  schedule(session: Session): void {
    // Whether it expires early is decided when the timer fires.
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
    // The timer alone must not keep the program running.
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
      // All at once; a failure must not keep the others alive.
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
