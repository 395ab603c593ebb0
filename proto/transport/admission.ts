/**
 * Admission control of a listener: what callers may cost before it is known who they are, and how much of everything there
 * is afterwards. Each listener has one, and each of its connections passes through it:
 *
 *     accepted ──> handshake ──> stranger ──admit──> admitted
 *
 * Strangers share few connections and one small budget of bytes. Where one more asks for room, the one goes that has been
 * a stranger for longest, of those at the address where most come from, or that holds much for long: so neither many silent
 * callers nor a few large ones keep others out.
 */
import { Garbage } from "../base/garbage.ts";
import { patientTimer } from "../base/patient_timer.ts";

/** Bounds of one listener. */
export interface AdmissionLimits {
  /** Connections in all. @default 4096 */
  connections: number;
  /** Connections of one identity. @default 512 */
  connectionsPerIdentity: number;
  /**
   * Connections at a time that are not through with their handshake of TLS, nearly all of which wait for its turn; in plain
   * text, those that have said nothing yet. Each costs a socket. Who is sent away comes again at once, and a queue of those
   * who come again is what keeps others waiting: so they may rather stay. @default 1024
   */
  handshakes: number;
  /** How long a handshake may take, in milliseconds. @default 5 s */
  handshakeMs: number;
  /** Connections at a time that have proved nothing. @default 64 */
  strangers: number;
  /** How long a connection may stay that proves nothing, in milliseconds. @default 30 s */
  strangerMs: number;
  /** Bytes that are held for all strangers together: their requests, headers and unfinished frames. @default 1 MB */
  strangerBytes: number;
}

const DEFAULTS: AdmissionLimits = {
  connections: 4096,
  connectionsPerIdentity: 512,
  handshakes: 1024,
  handshakeMs: 5_000,
  strangers: 64,
  strangerMs: 30_000,
  strangerBytes: 1 << 20,
};

/**
 * Connections that the kernel may hold for a listener until they are taken, as far as it does (net.core.somaxconn). One
 * for which there is no room tries again a second later.
 */
export const BACKLOG = 4096;

/**
 * At most one refusal in so many milliseconds is reported, since whoever can reach the port could fill the log; twice as
 * many after each, up to the most, until there was none for that long.
 */
const REPORT_MS = 1_000;
const REPORT_MOST_MS = 60_000;

type State = "handshake" | "stranger" | "admitted" | "over";

const OTHERS_CAME = "others came while it had proved nothing";

/** Connections that have the same time, in the order in which they came; so that one timer does for all. */
class Crowd {
  readonly members = new Set<Admission>();
  /** The same by where they come from. */
  readonly #byOrigin = new Map<string, Set<Admission>>();
  readonly #tooLong: string;
  /** Stops the timer that runs. */
  #stop?: () => void;

  /** @param tooLong Why one goes whose time is over. */
  constructor(tooLong: string) {
    this.#tooLong = tooLong;
  }

  get oldest(): Admission | undefined {
    return this.members.values().next().value;
  }

  add(member: Admission, most: number, milliseconds: number): void {
    member.since = performance.now();
    this.members.add(member);
    let others = this.#byOrigin.get(member.origin);
    if (!others) this.#byOrigin.set(member.origin, others = new Set());
    others.add(member);
    if (!this.#stop) this.#wait(milliseconds, milliseconds);
    if (this.members.size > most) this.#oldestOfMost().evict(OTHERS_CAME);
  }

  /** Who has been here for longest of those who come from where most come from. */
  #oldestOfMost(): Admission {
    let most: Set<Admission> | undefined;
    for (const group of this.#byOrigin.values()) if (group.size > (most?.size ?? 0)) most = group;
    return most!.values().next().value!;
  }

  remove(member: Admission): void {
    if (!this.members.delete(member)) return;
    const others = this.#byOrigin.get(member.origin)!;
    others.delete(member);
    if (others.size === 0) this.#byOrigin.delete(member.origin);
    if (this.members.size > 0) return;
    this.#stop?.();
    this.#stop = undefined;
  }

  #wait(milliseconds: number, each: number): void {
    this.#stop = patientTimer(() => {
      this.#stop = undefined;
      for (const member of this.members) {
        const left = member.since + each - performance.now();
        if (left > 0) return this.#wait(left, each);
        member.evict(this.#tooLong);
      }
    }, milliseconds);
  }
}

/** See the file's head. */
export class AdmissionControl {
  /** @ignore */ readonly limits: AdmissionLimits;
  readonly #onRefused: ((why: string) => void) | undefined;
  readonly #handshakes = new Crowd("its handshake took too long");
  readonly #strangers = new Crowd("it proved nothing for too long");
  readonly #perIdentity = new Map<string, number>();
  readonly #garbage = new Garbage();
  #connections = 0;
  #held = 0;
  #refusedAt = -Infinity;
  #reportedAt = -Infinity;
  #reportMs = REPORT_MS;
  #unreported = 0;

  /** @ignore For tests: milliseconds. */
  readonly now: () => number;

  /** @param onRefused Told why a caller was refused, in one sentence; not of each when there are many. */
  constructor(
    limits: Partial<AdmissionLimits> = {},
    onRefused?: (why: string) => void,
    now = () => performance.now(),
  ) {
    this.now = now;
    this.limits = { ...DEFAULTS, ...limits };
    this.#onRefused = onRefused;
  }

  /** Connections in all. */
  get connections(): number {
    return this.#connections;
  }

  /** Connections in mid-handshake. */
  get handshakes(): number {
    return this.#handshakes.members.size;
  }

  /** Connections whose handshake is over, and that have proved nothing. */
  get strangers(): number {
    return this.#strangers.members.size;
  }

  /** Bytes that are held for strangers. */
  get heldBytes(): number {
    return this.#held;
  }

  /**
   * Takes a connection in that was accepted just now. Undefined: there is no room for it, and the caller closes it.
   *
   * @param cut Closes the connection; called at most once, when it has to go.
   * @param origin Where it comes from, as far as that can be told: many from one place do not push out one from another.
   */
  enter(cut: () => void, origin = ""): Admission | undefined {
    if (this.#connections >= this.limits.connections) {
      const oldest = this.#handshakes.oldest ?? this.#strangers.oldest;
      if (!oldest) {
        this.refused(`there are ${this.#connections} connections already`);
        return undefined;
      }
      oldest.evict(OTHERS_CAME);
    }
    this.#connections++;
    return new Admission(this, cut, origin);
  }

  /** Reports a refusal. @param why A clause. */
  refused(why: string): void {
    const now = performance.now();
    if (now - this.#refusedAt >= REPORT_MOST_MS) this.#reportMs = REPORT_MS;
    this.#refusedAt = now;
    if (now - this.#reportedAt < this.#reportMs) {
      this.#unreported++;
      return;
    }
    if (this.#unreported > 0) this.#reportMs = Math.min(2 * this.#reportMs, REPORT_MOST_MS);
    const others = this.#unreported > 0 ? ` (and ${this.#unreported} others before)` : "";
    this.#reportedAt = now;
    this.#unreported = 0;
    this.#onRefused?.(`A caller was refused${others}: ${why}.`);
  }

  /** @ignore Puts a connection where it is timed, and makes room there. */
  place(admission: Admission, state: "handshake" | "stranger"): void {
    const { handshakes, handshakeMs, strangers, strangerMs } = this.limits;
    if (state === "handshake") this.#handshakes.add(admission, handshakes, handshakeMs);
    else this.#strangers.add(admission, strangers, strangerMs);
  }

  /** @ignore */
  remove(admission: Admission): void {
    this.#handshakes.remove(admission);
    this.#strangers.remove(admission);
  }

  /** @ignore So many bytes came from a stranger, and the buffers in which they came are garbage by now. */
  received(bytes: number): void {
    this.#garbage.received(bytes);
  }

  /** @ignore Changes what is held for strangers. False: `by` holds the most, and there is too much of it. */
  hold(by: Admission, bytes: number): boolean {
    this.#held += bytes;
    while (this.#held > this.limits.strangerBytes) {
      // Who holds much for long. By bytes alone, many small ones would keep out one that is a little larger.
      let most = by;
      const now = this.now();
      for (const other of this.#strangers.members) if (other.costs(now) > most.costs(now)) most = other;
      if (most === by) {
        this.refused("it sent too much before it proved anything");
        return false;
      }
      most.evict("it sent too much before it proved anything");
    }
    return true;
  }

  /** @ignore */
  release(bytes: number): void {
    this.#held -= bytes;
  }

  /** @ignore False: there are too many of them already. */
  count(identity: string): boolean {
    const before = this.#perIdentity.get(identity) ?? 0;
    if (before >= this.limits.connectionsPerIdentity) return false;
    this.#perIdentity.set(identity, before + 1);
    return true;
  }

  /** @ignore */
  left(identity: string | undefined, wasAdmitted: boolean): void {
    this.#connections--;
    if (!wasAdmitted) this.#garbage.add();
    if (identity === undefined) return;
    const after = this.#perIdentity.get(identity)! - 1;
    if (after > 0) this.#perIdentity.set(identity, after);
    else this.#perIdentity.delete(identity);
  }
}

/** One connection's way through an {@link AdmissionControl}. */
export class Admission {
  readonly #control: AdmissionControl;
  readonly #cut: () => void;
  #state: State = "over";
  #identity?: string;
  #held = 0;
  readonly #came: number;
  /** @ignore When its state began, by performance.now(). */
  since = 0;
  /** Called once, when the connection is admitted after its HTTP/2 has begun. */
  onAdmitted: () => void = () => {};

  /** @ignore */
  constructor(control: AdmissionControl, cut: () => void, readonly origin: string) {
    this.#control = control;
    this.#came = control.now();
    this.#cut = cut;
    this.#become("handshake");
  }

  /** Whether it is known who calls. */
  get admitted(): boolean {
    return this.#state === "admitted";
  }

  /** Bytes that are held for it while it is a stranger. */
  get held(): number {
    return this.#held;
  }

  /** @ignore What it holds, by for how long it is there. */
  costs(now: number): number {
    return this.#held * (now - this.#came);
  }

  /**
   * The handshake is over; if the caller has proved nothing by it, it is a stranger now.
   *
   * @returns false: the connection had to go meanwhile
   */
  secured(): boolean {
    if (this.#state === "handshake") this.#become("stranger");
    return this.#state !== "over";
  }

  /**
   * The caller has proved who it is: from here on it has the larger limits.
   *
   * @param identity Whose connections are counted together.
   * @returns false: there are too many connections of that identity, and this one has to be closed.
   */
  admit(identity?: string): boolean {
    if (this.#state === "admitted" || this.#state === "over") return this.#state === "admitted";
    if (identity !== undefined && !this.#control.count(identity)) {
      this.#control.refused("there are too many connections of the same identity");
      return false;
    }
    this.#identity = identity;
    this.#become("admitted");
    this.onAdmitted();
    return true;
  }

  /**
   * Says that so many bytes more are held for the caller, while it is a stranger. False: it is one too much, and the
   * connection has to end.
   */
  hold(bytes: number): boolean {
    if (this.#state === "admitted") return true;
    if (this.#state === "over") return false;
    this.#held += bytes;
    return this.#control.hold(this, bytes);
  }

  /** Says that so many bytes came, in buffers that nobody keeps. */
  received(bytes: number): void {
    if (this.#state === "stranger") this.#control.received(bytes);
  }

  /** Says that bytes of {@link hold} are not held any more. */
  release(bytes: number): void {
    const released = Math.min(bytes, this.#held);
    this.#held -= released;
    this.#control.release(released);
  }

  /** The connection is over. */
  end(): void {
    if (this.#state === "over") return;
    const wasAdmitted = this.#state === "admitted";
    this.#become("over");
    this.#control.left(this.#identity, wasAdmitted);
  }

  /** @ignore */
  evict(why: string): void {
    this.#control.refused(why);
    this.end();
    this.#cut();
  }

  #become(state: State): void {
    this.#control.remove(this);
    this.#state = state;
    if (state === "admitted" || state === "over") return this.release(this.#held);
    this.#control.place(this, state);
  }
}
