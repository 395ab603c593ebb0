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

/**
 * Handshakes that compute, at a time. One that has its turn waits in each of its steps for all others: with 64 of them an
 * honest caller waited 500 ms.
 */
const BUSY = 16;
/** One that has not come to its end by then waits for its peer, and keeps no other from its turn. Milliseconds. */
const BUSY_MS = 100;
/** Handshakes in all, nearly all of which wait for peers that are far away, or that say nothing. */
const SLOTS = 64;
/** After this time one may be cut for another one of the same address. Milliseconds. */
const PATIENCE_MS = 500;

/** See the file's head. */
export class HandshakeTurns {
  readonly #slots: number;
  readonly #busy: number;
  readonly #patienceMs: number;
  /** In the order of their coming, by address. An address that had its turn goes to the end. */
  readonly #waiting = new Map<string, Set<Handshake>>();
  /** Those under way by when they began, oldest first; and by address. */
  readonly #active = new Map<Handshake, number>();
  readonly #activeOf = new Map<string, Set<Handshake>>();
  #turning = false;
  #timer?: ReturnType<typeof setTimeout>;

  /** @param options For tests. */
  constructor({ slots = SLOTS, busy = BUSY, patienceMs = PATIENCE_MS } = {}) {
    this.#slots = slots;
    this.#busy = busy;
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
    else clearTimeout(this.#timer);
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
    if (!this.#isIdleEnough()) return false;
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

  /** Whether few enough compute. If not, it is looked at again when the first of them has had its time. */
  #isIdleEnough(): boolean {
    const now = performance.now();
    let busy = 0, first = 0;
    // The oldest come first.
    for (const began of this.#active.values()) {
      if (now - began < BUSY_MS && busy++ === 0) first = began;
    }
    if (busy < this.#busy) return true;
    this.#turnIn(first + BUSY_MS - now);
    return false;
  }

  #turnIn(milliseconds: number): void {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#turn(), milliseconds);
  }

  /** Whether there is a place for one more of an address. */
  #makeRoom(address: string): boolean {
    if (this.#active.size < this.#slots) return true;
    const own = this.#activeOf.get(address)?.size ?? 0;
    let most: Set<Handshake> | undefined;
    for (const active of this.#activeOf.values()) if (active.size > (most?.size ?? own + 1)) most = active;
    // Who has less than others takes a place of theirs.
    if (most) {
      this.#cut(most.values().next().value!);
      return true;
    }
    const [oldest, began] = this.#active.entries().next().value!;
    const left = began + this.#patienceMs - performance.now();
    if (left <= 0) {
      this.#cut(oldest);
      return true;
    }
    this.#turnIn(left);
    return false;
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
