/**
 * The states of a connection, and what each allows.
 *
 *     open ──retire──> retired ──goaway──> going away ──violation──> failing ──end──> over
 *
 * A connection only goes forward, and may skip states: each event leads there from every earlier state.
 *
 * | state      | new requests of ours | sends                  | handles frames | ends by itself                    |
 * | ---------- | -------------------- | ---------------------- | -------------- | --------------------------------- |
 * | open       | yes                  | yes                    | yes            | no                                |
 * | retired    | yes                  | yes                    | yes            | when no stream is open            |
 * | going away | no                   | yes                    | yes            | the same, if `endsWhenIdle`       |
 * | failing    | no                   | what is queued, GOAWAY | discards       | when that is written, or too late |
 * | over       | no                   | no                     | no             |                                   |
 *
 * The peer's requests are taken wherever frames are handled: a client's GOAWAY refuses only pushed streams, and a
 * retired server serves its client until the client has no stream left.
 */
import type { Timer } from "../../base/timers.ts";

export type State =
  | { readonly name: "open" }
  /** This side closes the connection once no stream is open. */
  | { readonly name: "retired" }
  /** The peer has sent GOAWAY. */
  | {
    readonly name: "going away";
    /** Always on a client, which opens all streams. On a server only if it is retired, too. */
    readonly endsWhenIdle: boolean;
    /** The GOAWAY said that the peer gave up on a silent link, see `Loss`. */
    readonly peerGaveUp: boolean;
  }
  /** The peer broke the rules. The connection ends for this reason once our GOAWAY is written. */
  | { readonly name: "failing"; readonly why: string; /** Ends it if that takes too long. */ readonly lastWords: Timer }
  | { readonly name: "over" };

export type Event =
  | { readonly name: "retire" }
  | { readonly name: "goaway"; readonly peerGaveUp: boolean }
  | { readonly name: "violation"; readonly why: string; readonly lastWords: Timer }
  | { readonly name: "end" };

/** What a state allows. */
export interface Allowed {
  /** Whether this side may open streams. */
  readonly requests: boolean;
  /** Whether frames are still taken for the transport. */
  readonly sends: boolean;
  /** Whether frames of the peer are handled. */
  readonly receives: boolean;
}

const ALLOWED: Readonly<Record<State["name"], Allowed>> = {
  "open": { requests: true, sends: true, receives: true },
  "retired": { requests: true, sends: true, receives: true },
  "going away": { requests: false, sends: true, receives: true },
  "failing": { requests: false, sends: true, receives: false },
  "over": { requests: false, sends: false, receives: false },
};

/** The state after an event. The same object if the event changes nothing. */
function next(state: State, event: Event, role: "client" | "server"): State {
  if (state.name === "over" || (state.name === "failing" && event.name !== "end")) return state;
  switch (event.name) {
    case "retire":
      if (state.name === "going away") return state.endsWhenIdle ? state : { ...state, endsWhenIdle: true };
      return state.name === "retired" ? state : { name: "retired" };
    case "goaway": {
      // A peer may send several: the first to announce its end, the last with the streams that it will not serve.
      const before = state.name === "going away" ? state : undefined;
      return {
        name: "going away",
        endsWhenIdle: role === "client" || state.name === "retired" || before?.endsWhenIdle === true,
        peerGaveUp: event.peerGaveUp || before?.peerGaveUp === true,
      };
    }
    case "violation":
      return { name: "failing", why: event.why, lastWords: event.lastWords };
    case "end":
      return { name: "over" };
  }
}

/** Holds the state of one connection. All its parts ask here. */
export class Lifecycle {
  readonly #role: "client" | "server";
  #state: State = { name: "open" };
  #allows: Allowed = ALLOWED.open;

  constructor(role: "client" | "server") {
    this.#role = role;
  }

  get state(): State {
    return this.#state;
  }

  /** What the state allows. Kept, since it is asked for each frame. */
  get allows(): Allowed {
    return this.#allows;
  }

  /** Whether the connection ends once no stream is open. */
  get endsWhenIdle(): boolean {
    return this.#state.name === "retired" || (this.#state.name === "going away" && this.#state.endsWhenIdle);
  }

  /** The only way from one state to another. @returns the state before, or undefined if the event changes nothing */
  move(event: Event): State | undefined {
    const before = this.#state;
    this.#state = next(before, event, this.#role);
    this.#allows = ALLOWED[this.#state.name];
    return this.#state === before ? undefined : before;
  }
}
