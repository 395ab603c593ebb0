import { unref } from "../../proto/base/timers.ts";
import { Backoff, type BackoffClock } from "../../proto/base/backoff.ts";
import { sentence } from "../../proto/base/errors.ts";
import { randomToken } from "../../proto/base/state_directory.ts";
import type { ComputeService, RunningAgent } from "../compute/compute_service.ts";
import { type AgentTrust, bootstrap } from "./agent_trust.ts";
import { endsWithin, KILLED_MS } from "./agent_end.ts";
import { Supervisor } from "./supervisor.ts";
import type { Log } from "../../proto/base/log.ts";
import type { OwnLease } from "../peers/orchestrator_lease.ts";
import { endpointOf } from "../store/agent_endpoint.ts";
import type { AgentLimits } from "../store/agent_limits.ts";
import type { WarmAgent, WarmAgentStore, WarmClaim } from "../store/warm_agent_store.ts";

/** What a {@link WarmPool} works with. */
export interface WarmPoolOptions {
  readonly store: WarmAgentStore;
  readonly compute: ComputeService;
  readonly log: Log;
  /** So many agents wait for a session, as far as the limits allow. */
  readonly size: number;
  readonly limits?: AgentLimits;
  readonly leaseSeconds: number;
  /** @default plain text, for tests */
  readonly trust?: AgentTrust;
  /** An agent that does not wait for a session after this time has failed. Milliseconds. */
  readonly startTimeoutMs: number;
  /** What an agent gets to end by itself before it is killed. Milliseconds. */
  readonly killAfterMs: number;
  /** See SupervisorOptions. */
  readonly answerTimeoutMs?: number;
  /** After an agent was taken, the machine is its session's until that is settled, or for so long. Milliseconds. @default 10_000 */
  readonly settleMs?: number;
  /** How often memory and store are compared. Milliseconds. @default 60_000 */
  readonly sweepIntervalMs?: number;
  /** The time between attempts to start an agent, for tests. */
  readonly backoffClock?: BackoffClock;
}

/** The orchestrator that a pool belongs to. */
export type PoolOwner = Pick<OwnLease, "id" | "confirm" | "others">;

/** An agent without a session, and the hold on it. */
export interface HeldAgent {
  readonly agent: RunningAgent;
  readonly supervisor: Supervisor;
  /** Its session has started, or is gone: the next one may be started in its place. */
  settled(): void;
}

/**
 * Agents that were started ahead: a session's start takes one in the store ({@link claim}) and then here ({@link take}),
 * and the next one is started in the background. The store knows all of them, so that they count as agents, and that
 * other orchestrators take them over when this one is gone; those that nobody takes over end by their lease.
 */
export class WarmPool {
  readonly #options: WarmPoolOptions;
  /** By agent id: what tells agents apart in sessions, too. */
  readonly #waiting = new Map<string, WarmHold>();
  /** All that are not gone, those that are being ended, too; not those that were taken. */
  readonly #alive = new Set<WarmHold>();
  readonly #backoff: Backoff;
  readonly #ending = new AbortController();
  #filling = false;
  #fillAgain = false;
  /** When nothing is started, since the sessions of those that were taken last have the machine. */
  readonly #settling = new Map<WarmHold, number>();
  #settled = Promise.withResolvers<void>();
  #owner?: PoolOwner;
  #sweepTimer?: ReturnType<typeof setInterval>;
  /** Those that were not in the store at the last sweep. */
  #missing = new Set<WarmHold>();
  constructor(options: WarmPoolOptions) {
    this.#options = options;
    this.#backoff = new Backoff({ least: 1000, most: 60_000, clock: options.backoffClock });
  }

  /** The agents that wait, or are about to. */
  get size(): number {
    return this.#waiting.size;
  }

  /** What a start says to the store to take one of these. */
  get claim(): WarmClaim {
    return { owner: this.#owner?.id ?? "", computeService: this.#options.compute.name };
  }

  /**
   * Takes over the agents that orchestrators which are gone have left, ends those that are too many, and starts others.
   *
   * @param owner This orchestrator, whose lease has begun.
   */
  async start(owner: PoolOwner): Promise<void> {
    this.#owner = owner;
    await this.adopt();
    this.#sweepTimer = setInterval(() => void this.#sweep(), this.#options.sweepIntervalMs ?? 60_000);
    // The timer alone is no reason for the program to go on.
    unref(this.#sweepTimer);
    this.look();
  }

  /** Takes over the agents that orchestrators which are gone have left, and ends those that are too many. */
  async adopt(): Promise<void> {
    const { store, compute, size } = this.#options;
    if (!this.#owner || this.#ending.signal.aborted) return;
    const living = new Set([this.#owner.id, ...(await this.#owner.others()).map(({ id }) => id)]);
    for (const row of await store.list()) {
      if (row.computeService !== compute.name || living.has(row.owner)) continue;
      const { owner } = this.claim;
      // One whose endpoint nobody knows ends by its lease.
      if (!endpointOf(row)) await store.remove(row.id, row.owner);
      else if (await store.change(row.id, { owner }, row.owner)) this.#hold({ ...row, owner });
    }
    for (const hold of [...this.#waiting.values()].slice(size)) void this.#discard(hold);
    this.look();
  }

  /** Leaves all agents that wait to other orchestrators, since this one has lost them. */
  letGo(): void {
    this.#waiting.clear();
    for (const hold of this.#alive) hold.letGo();
    this.#alive.clear();
  }

  /** There may be room for more. */
  look(): void {
    if (!this.#owner) return;
    this.#fillAgain = true;
    if (!this.#filling) void this.#fill();
  }

  /**
   * The agent that the store gave to a session, once it waits; undefined: it is none of this pool, or was and is gone. It
   * is the caller's from now on, to be ended too.
   *
   * @param signal The session is given up.
   */
  async take(agentId: string, signal: AbortSignal): Promise<HeldAgent | undefined> {
    const hold = this.#waiting.get(agentId);
    if (!hold) return undefined;
    this.#waiting.delete(agentId);
    this.#settling.set(hold, performance.now() + (this.#options.settleMs ?? 10_000));
    this.look();
    const settled = () => {
      this.#settling.delete(hold);
      this.#settled.resolve();
    };
    const giveUp = () => hold.end(0);
    signal.addEventListener("abort", giveUp);
    if (signal.aborted) giveUp();
    try {
      const held = await hold.taken();
      if (!held) return settled(), undefined;
      this.#alive.delete(hold);
      return { ...held, settled };
    } finally {
      signal.removeEventListener("abort", giveUp);
    }
  }

  /** Ends all agents that wait, and starts no more. Resolves when they are gone. */
  async stop(): Promise<void> {
    this.#ending.abort();
    clearInterval(this.#sweepTimer);
    await Promise.all([...this.#alive].map((hold) => this.#discard(hold)));
  }

  /** Ends all agents that wait at once, so that {@link stop} comes to its end. */
  kill(): void {
    for (const hold of this.#alive) hold.end(0);
  }

  async #fill(): Promise<void> {
    this.#filling = true;
    const { signal } = this.#ending;
    try {
      while (this.#fillAgain && !signal.aborted) {
        this.#fillAgain = false;
        while (this.#waiting.size < this.#options.size && !signal.aborted) {
          const wait = Math.max(0, ...this.#settling.values()) - performance.now();
          if (wait > 0) {
            this.#settled = Promise.withResolvers();
            await sleep(wait, signal, this.#settled.promise);
            continue;
          }
          this.#settling.clear();
          if (!await this.#startOne()) break;
        }
      }
    } catch (e) {
      this.#options.log(`the warm pool could not be filled: ${sentence(e)}`);
    } finally {
      this.#filling = false;
    }
  }

  /** @returns whether there was room */
  async #startOne(): Promise<boolean> {
    const { store, limits } = this.#options;
    const id = randomToken();
    const row: WarmAgent = {
      ...this.claim,
      id,
      handle: "",
      host: "",
      agentPort: 0,
      commandPort: 0,
      agentId: randomToken(),
      createdAt: Date.now(),
    };
    if (!await store.add(row, limits)) return false;
    const hold = this.#hold(row);
    if (await hold.waits) this.#backoff.reset();
    else await this.#backoff.wait(this.#ending.signal);
    return true;
  }

  #hold(row: WarmAgent): WarmHold {
    const owner = this.#owner!;
    const hold = new WarmHold(row, this.#options, () => owner.confirm(row.owner));
    this.#waiting.set(row.agentId, hold);
    this.#alive.add(hold);
    hold.gone.then((why) => {
      this.#alive.delete(hold);
      // Who was taken is not the pool's to mourn.
      if (!this.#waiting.delete(row.agentId) || this.#ending.signal.aborted) return;
      this.#options.log(`warm agent ${row.id}: ${why}`);
      this.look();
    });
    if (this.#ending.signal.aborted) void this.#discard(hold);
    return hold;
  }

  async #discard(hold: WarmHold): Promise<void> {
    this.#waiting.delete(hold.row.agentId);
    // First, so that no session takes it.
    await this.#forget(hold);
    hold.end(this.#options.killAfterMs);
    await hold.gone;
  }

  async #forget(hold: WarmHold): Promise<void> {
    await this.#options.store.remove(hold.row.id, hold.row.owner).catch((e) => {
      this.#options.log(`warm agent ${hold.row.id}: ${sentence(e)}`);
    });
  }

  /** Ends agents that the store does not know, and forgets those that only the store knows. */
  async #sweep(): Promise<void> {
    try {
      const rows = await this.#options.store.list();
      const ids = new Set(rows.map(({ id }) => id));
      const missing = new Set([...this.#waiting.values()].filter((hold) => !ids.has(hold.row.id)));
      // A session that takes one has it in a moment, but not at this one.
      for (const hold of missing) if (this.#missing.has(hold)) void this.#discard(hold);
      this.#missing = missing;
      const known = new Set([...this.#alive].map(({ row }) => row.id));
      for (const { id, owner } of rows) {
        if (owner === this.claim.owner && !known.has(id)) await this.#options.store.remove(id);
      }
    } catch (e) {
      this.#options.log(`warm agents could not be compared with the store: ${sentence(e)}`);
    }
    this.look();
  }
}

type Hold = Omit<HeldAgent, "settled">;

/** One agent without a session: started or adopted, held, and ended unless a session takes it. */
class WarmHold {
  readonly #options: WarmPoolOptions;
  readonly #givenUp = new AbortController();
  readonly #waits = Promise.withResolvers<Hold | undefined>();
  #agent?: RunningAgent;
  #supervisor?: Supervisor;
  #isTaken = false;
  /** Resolves when the agent is gone, or a session's, with what became of it. Never rejects. */
  readonly gone: Promise<string>;

  /** @param isOurs Whether the agent still is this orchestrator's. */
  constructor(readonly row: WarmAgent, options: WarmPoolOptions, readonly isOurs: () => Promise<boolean>) {
    this.#options = options;
    this.gone = this.#live();
  }

  /** Resolves with true when the agent waits for a session, with false when it is gone before. */
  get waits(): Promise<boolean> {
    return this.#waits.promise.then((held) => held !== undefined);
  }

  /** Hands the agent over once it waits; undefined: it is gone. */
  async taken(): Promise<Hold | undefined> {
    const held = await this.#waits.promise;
    if (held && !this.#givenUp.signal.aborted) this.#isTaken = true;
    return this.#isTaken ? held : undefined;
  }

  /** @param graceMs What the agent gets before it is killed; 0: it is killed at once. */
  end(graceMs: number): void {
    if (this.#isTaken) return;
    this.#givenUp.abort(new Error("It is not needed any more."));
    void this.#supervisor?.stop(0);
    if (graceMs === 0) return this.#kill();
    const timer = setTimeout(() => this.#kill(), graceMs);
    this.gone.then(() => clearTimeout(timer));
  }

  /** Leaves the agent to the orchestrator that has it by now. One that is only being started nobody can find: it ends. */
  letGo(): void {
    if (this.#supervisor) this.#supervisor.close();
    else this.#givenUp.abort(new Error("Another orchestrator has the pool."));
  }

  #kill(): void {
    this.#agent?.kill();
    this.#supervisor?.close();
  }

  async #live(): Promise<string> {
    const { startTimeoutMs, compute, store, trust, leaseSeconds } = this.#options;
    const { row } = this;
    const { agentId } = row;
    const over = Promise.withResolvers<string>();
    const timer = setTimeout(() => over.resolve(`it was not ready after ${startTimeoutMs / 1000} s`), startTimeoutMs);
    try {
      const endpoint = endpointOf(row);
      const agent = this.#agent = endpoint
        ? compute.adopt(row.handle, endpoint)
        : await compute.start({ agentId, leaseSeconds, trust: await bootstrap(agentId, trust) }, {
          signal: this.#givenUp.signal,
          onStep() {},
        });
      const supervisor = this.#supervisor = new Supervisor({
        endpoint: agent.endpoint,
        agentId,
        trust,
        epoch: 0,
        // The session that takes it goes on with it.
        term: 1,
        wasReady: endpoint !== undefined,
        answerTimeoutMs: this.#options.answerTimeoutMs,
        events: {
          waiting: () => {
            clearTimeout(timer);
            this.#said().then(() => this.#waits.resolve({ agent, supervisor }), (e) => over.resolve(sentence(e)));
          },
          step() {},
          ready() {},
          failed: ({ reason }) => over.resolve(reason),
          activity() {},
        },
      });
      if (this.#givenUp.signal.aborted) void supervisor.stop(0);
      const lost = supervisor.lost.then((reason) => `it does not answer any more (${reason})`);
      const ended = agent.ended.then(({ reason }) => reason);
      const why = await Promise.race([over.promise, lost, ended]);
      if (this.#isTaken) return "it was taken";
      supervisor.close();
      // A session may have it by now, at another orchestrator.
      if (!await this.isOurs().catch(() => false)) {
        agent.letGo();
        return "it is another orchestrator's";
      }
      agent.kill();
      if (!await endsWithin(agent, KILLED_MS)) agent.letGo();
      return why;
    } catch (e) {
      return sentence(e);
    } finally {
      clearTimeout(timer);
      this.#waits.resolve(undefined);
      if (!this.#isTaken) await store.remove(row.id, row.owner).catch(() => {});
    }
  }

  /** Tells the store where the agent is, unless a session has taken it already. */
  async #said(): Promise<void> {
    if (endpointOf(this.row)) return;
    const { handle, endpoint } = this.#agent!;
    const change = { handle, host: endpoint.host, agentPort: endpoint.port, commandPort: endpoint.commandPort };
    await this.#options.store.change(this.row.id, change, this.row.owner);
  }
}

/** Ends early with the signal, and with `wake`. */
async function sleep(milliseconds: number, signal: AbortSignal, wake: Promise<void>): Promise<void> {
  const over = Promise.withResolvers<void>();
  const timer = setTimeout(over.resolve, milliseconds);
  signal.addEventListener("abort", () => over.resolve(), { once: true });
  if (signal.aborted) over.resolve();
  await Promise.race([over.promise, wake]);
  clearTimeout(timer);
}
