import { unref } from "../../proto/base/timers.ts";
import { sentence } from "../../proto/base/errors.ts";
import type { Log } from "../../proto/base/log.ts";
import type { SessionKey } from "../store/session.ts";
import type { IdentityStore } from "../store/identity_store.ts";

/** What {@link RevokedSessions} works with. */
export interface RevokedSessionsOptions {
  readonly identities: IdentityStore;
  readonly sessions: {
    list(userId: string): Promise<readonly SessionKey[]>;
    release(key: SessionKey, sessionId: string): Promise<boolean>;
  };
  readonly log: Log;
  /** How often it is looked. Milliseconds. @default 10_000 */
  readonly lookMs?: number;
}

/** Ends the sessions of users who are locked out: an agent by itself would go on to take its owner's commands. */
export class RevokedSessions implements Disposable {
  readonly #options: RevokedSessionsOptions;
  readonly #timer: ReturnType<typeof setInterval>;

  constructor(options: RevokedSessionsOptions) {
    this.#options = options;
    this.#timer = setInterval(() => void this.look(), options.lookMs ?? 10_000);
    // The timer alone is no reason for the program to go on.
    unref(this.#timer);
  }

  /** Ends those that there are. Never rejects. */
  async look(): Promise<void> {
    const { identities, sessions, log } = this.#options;
    try {
      for (const userId of await identities.revokedUsers()) {
        for (const key of await sessions.list(userId)) {
          log(`the session of ${JSON.stringify(userId)}, who is locked out, is ended`);
          await sessions.release(key, "");
        }
      }
    } catch (e) {
      log(`sessions of users who are locked out could not be looked for: ${sentence(e)}`);
    }
  }

  [Symbol.dispose](): void {
    clearInterval(this.#timer);
  }
}
