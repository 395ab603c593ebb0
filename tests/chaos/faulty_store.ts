import { RbsError } from "../../proto/base/errors.ts";
import type { Store } from "../../orchestrator/store/store.ts";

/** How a store behaves. */
export type StoreState =
  | "works"
  /** Nothing can be written: the disk is full. */
  | "full"
  /** It does not answer until it works again: the orchestrator, or the way to the store, stands still. */
  | "silent"
  /** Nothing works any more: the orchestrator is dead. */
  | "dead";

/** A fault of one write: it does not happen, or it happens and the answer is lost. */
export type WriteFault = "refused" | "unheard";

/** What a caller of a faulty store is told. */
export class InjectedFault extends RbsError {}

const READS: ReadonlySet<PropertyKey> = new Set(["get", "list"]);

/**
 * What sessions need of a Store, and fails on demand. Each orchestrator has its own. (Transactions that are ABORTED
 * are the Spanner emulator's own: it aborts all but one of those that run at once.)
 */
export class FaultyStore {
  state: StoreState = "works";
  readonly #faults: WriteFault[] = [];
  #works = Promise.withResolvers<void>();
  /** The store, with its faults. */
  readonly faulty: Pick<Store, "sessions" | "leases">;

  constructor(readonly store: Store) {
    this.faulty = { sessions: this.#before(store.sessions), leases: this.#before(store.leases) };
  }

  #before<Part extends object>(part: Part): Part {
    return new Proxy(part, {
      get: (_, name) => {
        const value = Reflect.get(part, name);
        if (typeof value !== "function") return value;
        const method = value.bind(part);
        if (name === "watch") return method;
        return (...args: unknown[]) => this.#call(method, args, READS.has(name));
      },
    });
  }

  /** The next writes fail so. */
  failNext(fault: WriteFault, count: number): void {
    for (let i = 0; i < count; i++) this.#faults.push(fault);
  }

  become(state: StoreState): void {
    if (this.state === "dead") return;
    this.state = state;
    this.#faults.length = 0;
    if (state === "silent") return;
    this.#works.resolve();
    this.#works = Promise.withResolvers();
  }

  async #call(method: (...args: unknown[]) => unknown, args: unknown[], isRead: boolean): Promise<unknown> {
    while (this.state === "silent") await this.#works.promise;
    if (this.state === "dead") throw new InjectedFault("the orchestrator is dead");
    if (isRead) return await this.#answer(method(...args));
    if (this.state === "full") throw new InjectedFault("the disk is full");
    const fault = this.#faults.shift();
    if (fault === "refused") throw new InjectedFault("the store refused");
    const answer = await this.#answer(method(...args));
    if (fault === "unheard") throw new InjectedFault("the store did not answer in time");
    return answer;
  }

  async #answer(answer: unknown): Promise<unknown> {
    const value = await answer;
    // What arrives while the orchestrator stands still is heard when it goes on.
    while (this.state === "silent") await this.#works.promise;
    if ((this.state as StoreState) === "dead") throw new InjectedFault("the orchestrator is dead");
    return value;
  }
}
