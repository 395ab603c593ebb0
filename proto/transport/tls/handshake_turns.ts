/**
 * Which handshakes of TLS are under way. Each takes a millisecond of this thread and 64 kB, and whoever sends a hello can
 * have one. So there are only so many at a time, addresses take turns, and of one address the newest goes first: neither
 * thousands that never answer nor a crowd at one address keep another's handshake waiting.
 */
import { setImmediate } from "node:timers";

/** A handshake that wants to begin. */
export interface Handshake {
  /** Whose it is, as far as that can be told: an IP address. */
  readonly address: string;
  /** Begins it. */
  begin(): void;
  /** Ends it, since others have more right to its place. */
  cut(): void;
}

/** Handshakes at a time. Where hundreds of addresses say nothing after their hellos, it is so many that wait for them. */
const SLOTS = 64;
/**
 * Of one address. One that has its turn waits in each of its steps for what all others compute: with 64 of them an honest
 * caller waited 500 ms. Of peers that are 60 ms away these are still more than a hundred a second.
 */
const OF_ONE = 16;
/** After this time one may be cut for another one of the same address. Milliseconds. */
const PATIENCE_MS = 500;

/** See the file's head. */
export class HandshakeTurns {
  readonly #slots: number;
  readonly #ofOne: number;
  readonly #patienceMs: number;
  /** In the order of their coming, by address. An address that had its turn goes to the end. */
  readonly #waiting = new Map<string, Set<Handshake>>();
  /** Those under way by when they began, oldest first; and by address. */
  readonly #active = new Map<Handshake, number>();
  readonly #activeOf = new Map<string, Set<Handshake>>();
  #turning = false;
  #timer?: ReturnType<typeof setTimeout>;
  /** When the timer ends, by performance.now(). */
  #turnsAt = 0;

  /** @param options For tests. */
  constructor({ slots = SLOTS, ofOne = OF_ONE, patienceMs = PATIENCE_MS } = {}) {
    this.#slots = slots;
    this.#ofOne = ofOne;
    this.#patienceMs = patienceMs;
  }

  /** Has it begin, now or later. */
  add(handshake: Handshake): void {
    let waiting = this.#waiting.get(handshake.address);
    if (!waiting) this.#waiting.set(handshake.address, waiting = new Set());
    waiting.add(handshake);
    this.#turn();
  }

  /** It is over, or its connection is: call it for each that was added. */
  remove(handshake: Handshake): void {
    const { address } = handshake;
    leave(this.#waiting, address, handshake);
    if (!this.#active.delete(handshake)) return;
    leave(this.#activeOf, address, handshake);
    if (this.#waiting.size > 0) this.#turn();
    else {
      clearTimeout(this.#timer);
      this.#timer = undefined;
    }
  }

  /** One at a time, so that whoever comes meanwhile is seen. */
  #turn(): void {
    if (this.#turning) return;
    this.#turning = true;
    setImmediate(() => {
      this.#turning = false;
      if (this.#beginNext() && this.#waiting.size > 0) this.#turn();
    });
  }

  /** @returns whether one has begun */
  #beginNext(): boolean {
    for (const [address, waiting] of this.#waiting) {
      if (!this.#makeRoom(address)) continue;
      const next = newest(waiting);
      waiting.delete(next);
      this.#waiting.delete(address);
      if (waiting.size > 0) this.#waiting.set(address, waiting);
      this.#active.set(next, performance.now());
      let active = this.#activeOf.get(address);
      if (!active) this.#activeOf.set(address, active = new Set());
      active.add(next);
      next.begin();
      return true;
    }
    return false;
  }

  #turnIn(milliseconds: number): void {
    const at = performance.now() + milliseconds;
    // The first of several that wait for something.
    if (this.#timer !== undefined && this.#turnsAt <= at) return;
    clearTimeout(this.#timer);
    this.#turnsAt = at;
    this.#timer = setTimeout(() => {
      this.#timer = undefined;
      this.#turn();
    }, milliseconds);
  }

  /** Whether there is a place for one more of an address. */
  #makeRoom(address: string): boolean {
    const ofIt = this.#activeOf.get(address);
    const own = ofIt?.size ?? 0;
    if (own >= this.#ofOne) return this.#isOver(ofIt!.values().next().value!);
    if (this.#active.size < this.#slots) return true;
    let most: Set<Handshake> | undefined;
    for (const active of this.#activeOf.values()) if (active.size > (most?.size ?? own + 1)) most = active;
    // Who has less than others takes a place of theirs.
    if (most) {
      this.#cut(most.values().next().value!);
      return true;
    }
    return this.#isOver(this.#active.keys().next().value!);
  }

  /** Cuts one that had its time. If it has some left, all is looked at again then. */
  #isOver(oldest: Handshake): boolean {
    const left = this.#active.get(oldest)! + this.#patienceMs - performance.now();
    if (left <= 0) this.#cut(oldest);
    else this.#turnIn(left);
    return left <= 0;
  }

  #cut(handshake: Handshake): void {
    this.#active.delete(handshake);
    leave(this.#activeOf, handshake.address, handshake);
    handshake.cut();
  }
}

/** The member of a set that came last. */
function newest(waiting: Set<Handshake>): Handshake {
  let last!: Handshake;
  for (const handshake of waiting) last = handshake;
  return last;
}

function leave(sets: Map<string, Set<Handshake>>, address: string, member: Handshake): void {
  const set = sets.get(address);
  if (set?.delete(member) && set.size === 0) sets.delete(address);
}
