/**
 * Admission control of a listener: what callers may cost before it is known who they are, and how much of everything there
 * is afterwards. Each listener has one, and each of its connections passes through it:
 *
 *     accepted ──> handshake (TLS only) ──> stranger ──admit──> admitted
 *
 * Strangers share few connections and one small budget of bytes. Where one more asks for room, the one goes that has been
 * a stranger for longest, or that holds the most: so neither many silent callers nor a few large ones keep others out.
 */

/** Bounds of one listener. */
export interface AdmissionLimits {
  /** Connections in all. @default 4096 */
  connections: number;
  /** Connections of one identity. @default 512 */
  connectionsPerIdentity: number;
  /** TLS handshakes at a time. @default 64 */
  handshakes: number;
  /** How long a handshake may take, in milliseconds. @default 5 s */
  handshakeMs: number;
  /** Connections at a time that have proved nothing. @default 256 */
  strangers: number;
  /** How long a connection may stay that proves nothing, in milliseconds. @default 30 s */
  strangerMs: number;
  /** Bytes that are held for all strangers together: their requests, headers and unfinished frames. @default 1 MB */
  strangerBytes: number;
}

const DEFAULTS: AdmissionLimits = {
  connections: 4096,
  connectionsPerIdentity: 512,
  handshakes: 64,
  handshakeMs: 5_000,
  strangers: 256,
  strangerMs: 30_000,
  strangerBytes: 1 << 20,
};

/**
 * At most one refusal in so many milliseconds is reported, since whoever can reach the port could fill the log; twice as
 * many after each, up to the most, until there was none for that long.
 */
const REPORT_MS = 1_000;
const REPORT_MOST_MS = 60_000;

type State = "handshake" | "stranger" | "admitted" | "over";

/** See the file's head. */
export class AdmissionControl {
  /** @ignore */ readonly limits: AdmissionLimits;
  readonly #onRefused: ((why: string) => void) | undefined;
  /** @ignore In the order in which they came. */ readonly handshaking = new Set<Admission>();
  /** @ignore In the order in which they came. */ readonly unknown = new Set<Admission>();
  readonly #perIdentity = new Map<string, number>();
  #connections = 0;
  #held = 0;
  #refusedAt = -Infinity;
  #reportedAt = -Infinity;
  #reportMs = REPORT_MS;
  #unreported = 0;

  /** @param onRefused Told why a caller was refused, in one sentence; not of each when there are many. */
  constructor(limits: Partial<AdmissionLimits> = {}, onRefused?: (why: string) => void) {
    this.limits = { ...DEFAULTS, ...limits };
    this.#onRefused = onRefused;
  }

  /** Connections in all. */
  get connections(): number {
    return this.#connections;
  }

  /** Connections in mid-handshake. */
  get handshakes(): number {
    return this.handshaking.size;
  }

  /** Connections whose handshake is over, and that have proved nothing. */
  get strangers(): number {
    return this.unknown.size;
  }

  /** Bytes that are held for strangers. */
  get heldBytes(): number {
    return this.#held;
  }

  /**
   * Takes a connection in that was accepted just now. Undefined: there is no room for it, and the caller closes it.
   *
   * @param cut Closes the connection; called at most once, when it has to go.
   * @param state "handshake": the connection tells of its end by {@link Admission.secured}.
   */
  enter(cut: () => void, state: "handshake" | "stranger"): Admission | undefined {
    if (this.#connections >= this.limits.connections) {
      const [oldest] = [...this.handshaking.size > 0 ? this.handshaking : this.unknown];
      if (!oldest) {
        this.refused(`there are ${this.#connections} connections already`);
        return undefined;
      }
      oldest.evict("others came while it had proved nothing");
    }
    this.#connections++;
    return new Admission(this, cut, state);
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

  /** @ignore Changes what is held for strangers. False: `by` holds the most, and there is too much of it. */
  hold(by: Admission, bytes: number): boolean {
    this.#held += bytes;
    while (this.#held > this.limits.strangerBytes) {
      let most = by;
      for (const other of this.unknown) if (other.held > most.held) most = other;
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
  left(identity: string | undefined): void {
    this.#connections--;
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
  #timer?: ReturnType<typeof setTimeout>;
  /** Called once, when the connection is admitted after its HTTP/2 has begun. */
  onAdmitted: () => void = () => {};

  /** @ignore */
  constructor(control: AdmissionControl, cut: () => void, state: "handshake" | "stranger") {
    this.#control = control;
    this.#cut = cut;
    this.#become(state);
  }

  /** Whether it is known who calls. */
  get admitted(): boolean {
    return this.#state === "admitted";
  }

  /** Bytes that are held for it while it is a stranger. */
  get held(): number {
    return this.#held;
  }

  /** The handshake is over; if the caller has proved nothing by it, it is a stranger now. */
  secured(): void {
    if (this.#state === "handshake") this.#become("stranger");
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

  /** Says that bytes of {@link hold} are not held any more. */
  release(bytes: number): void {
    const released = Math.min(bytes, this.#held);
    this.#held -= released;
    this.#control.release(released);
  }

  /** The connection is over. */
  end(): void {
    if (this.#state === "over") return;
    this.#become("over");
    this.#control.left(this.#identity);
  }

  /** @ignore */
  evict(why: string): void {
    this.#control.refused(why);
    this.end();
    this.#cut();
  }

  #become(state: State): void {
    const { handshaking, unknown, limits } = this.#control;
    clearTimeout(this.#timer);
    handshaking.delete(this);
    unknown.delete(this);
    this.#state = state;
    if (state === "admitted" || state === "over") return this.release(this.#held);
    const [crowd, most, milliseconds, what] = state === "handshake"
      ? [handshaking, limits.handshakes, limits.handshakeMs, "its handshake took too long"] as const
      : [unknown, limits.strangers, limits.strangerMs, "it proved nothing for too long"] as const;
    crowd.add(this);
    this.#timer = setTimeout(() => this.evict(what), milliseconds);
    Deno.unrefTimer(this.#timer as unknown as number);
    if (crowd.size > most) {
      const [oldest] = crowd;
      oldest.evict("others came while it had proved nothing");
    }
  }
}
