/** Finds out within 10 s that a peer is gone, by PING. */
import { type Timer, unref } from "../../base/timers.ts";

/** A peer that was silent for this long gets a PING. Milliseconds. */
const QUIET_MS = 4_000;
/** Timeout for the answer to that PING, in milliseconds. With QUIET_MS and STEP_MS it stays below 10 s. */
const ANSWER_MS = 3_500;
/** The timeout when a caller waits, or when this machine has slept and the peer may have dropped the connection. */
const ANSWER_SOON_MS = 1_500;
/** Interval of the check, in milliseconds. */
const STEP_MS = 500;
/** The machine has slept if the wall clock went ahead by more than this in one step. Milliseconds. */
const SLEPT_MS = 5_000;

/** The wall clock's lead over the steady clock, which stands still while the machine sleeps. Milliseconds. */
const lead = () => Date.now() - performance.now();

/** What the keep-alive needs of its connection. */
interface KeptAlive {
  /** When bytes last arrived, by performance.now(). */
  heardAt(): number;
  /** Sends a PING. */
  ping(): void;
  /** The peer does not answer. May be called again until {@link KeepAlive.stop}. */
  silent(): void;
}

/** Sends a PING to a silent peer, and says if there is no answer. */
export class KeepAlive {
  readonly #connection: KeptAlive;
  readonly #timer: Timer;
  /** When the PING was sent that has no answer yet, by performance.now(). */
  #asked?: number;
  #patience = ANSWER_MS;
  #lead = lead();

  constructor(connection: KeptAlive) {
    this.#connection = connection;
    this.#timer = setInterval(() => this.#check(), STEP_MS);
    unref(this.#timer);
  }

  /** Sends a PING now. Its answer has to come soon. */
  probe(): void {
    this.#patience = ANSWER_SOON_MS;
    this.#ask(performance.now());
  }

  stop(): void {
    clearInterval(this.#timer);
  }

  #ask(now: number): void {
    this.#asked = now;
    this.#connection.ping();
  }

  #check(): void {
    const now = performance.now(), heard = this.#connection.heardAt();
    const slept = lead() - this.#lead > SLEPT_MS;
    this.#lead = lead();
    if (this.#asked !== undefined && heard > this.#asked) {
      this.#asked = undefined;
      this.#patience = ANSWER_MS;
    }
    if (slept) this.#patience = ANSWER_SOON_MS;
    if (this.#asked === undefined && (slept || now - heard >= QUIET_MS)) this.#ask(now);
    else if (this.#asked !== undefined && now - this.#asked >= this.#patience) this.#connection.silent();
  }
}
