import { unref } from "../../proto/base/timers.ts";
import { sentence } from "../../proto/base/errors.ts";
import { randomToken } from "../../proto/base/state_directory.ts";
import type { Log } from "../../proto/base/log.ts";
import type { LeaseStore, OrchestratorLease } from "../store/lease_store.ts";

/** Options of {@link OwnLease}. */
export interface OwnLeaseOptions {
  readonly store: LeaseStore;
  /** Where this orchestrator listens: "HOST:PORT". Asked for when it does. */
  address(): string;
  /** What others wait for a sign of life before they adopt what this one holds. Milliseconds. */
  readonly durationMs: number;
  readonly log: Log;
  /** Whether it is certain that nobody listens at an address any more. @default nothing is */
  isGone?(address: string): Promise<boolean>;
  /** This machine's clock, for tests: milliseconds since 1970. @default Date.now */
  now?(): number;
  /** Another orchestrator has ended the lease `id`: what it held may be another's. */
  onLost(id: string): void;
  /** The leases of others were ended: what they held is to be adopted. */
  onOrphans(): void;
}

/** How much longer than it must a lease is left alone when it was not renewed: clocks may run differently fast. */
const MARGIN = 1.1;

/** Milliseconds. */
const JUST_RENEWED_MS = 200;

/** A lease of another orchestrator, as it was last seen. */
interface Seen {
  readonly lease: OrchestratorLease;
  /** When it was first seen like that, by performance.now(). */
  readonly since: number;
}

/**
 * One orchestrator's lease in the store: renews it, sees that others are alive by their doing so, and ends the lease of
 * one that is not. So each orchestrator writes one row per heartbeat, however much it holds.
 *
 * No clock is compared with that of another machine. A lease has run out for others when they saw it unchanged for
 * longer than it lasts; its own orchestrator acts on it for no longer than it lasts, counted from before the renewal was
 * sent, and by the wall clock too, since the other one stands still while a machine sleeps. After that it may neither
 * write nor kill anything before it knows that the lease was not ended: see {@link confirm}.
 */
export class OwnLease {
  readonly #options: OwnLeaseOptions;
  readonly #now: () => number;
  #id = randomToken();
  #begun?: Promise<void>;
  #renewing?: Promise<void>;
  /** When the last renewal that succeeded was sent; undefined: none has. */
  #renewed?: { wall: number; steady: number };
  #others = new Map<string, Seen>();
  #timer?: ReturnType<typeof setTimeout>;
  #over = false;

  constructor(options: OwnLeaseOptions) {
    this.#options = options;
    this.#now = options.now ?? Date.now;
  }

  /** The present life's name; another one after the lease was lost. */
  get id(): string {
    return this.#id;
  }

  /** Begins the lease, unless it has begun. Throws an RbsError when the store fails. */
  async begin(): Promise<void> {
    this.#begun ??= this.#begin().catch((e) => {
      this.#begun = undefined;
      throw e;
    });
    await this.#begun;
  }

  /** Whether it is certain at this moment that what `id` held is still this orchestrator's. */
  holds(id: string): boolean {
    if (id !== this.#id || !this.#renewed || this.#over) return false;
    const { durationMs } = this.#options;
    const wall = this.#now() - this.#renewed.wall;
    return performance.now() - this.#renewed.steady < durationMs && wall >= 0 && wall < durationMs;
  }

  /** The same, after a look at the store if need be. Throws an RbsError when it fails. */
  async confirm(id: string): Promise<boolean> {
    if (id !== this.#id || this.#over) return false;
    await this.begin();
    if (!this.holds(id)) await this.#renew();
    return this.holds(id);
  }

  /** Whether it was ended by this orchestrator itself. */
  get isOver(): boolean {
    return this.#over;
  }

  /** Renews the lease, unless that has just been done: something did not happen that needs it. */
  async refresh(): Promise<void> {
    await this.begin();
    if (this.#over || (this.#renewed && performance.now() - this.#renewed.steady < JUST_RENEWED_MS)) return;
    await this.#renew();
  }

  /** Whether the orchestrator `id` has a lease, as far as is known. */
  async isAlive(id: string): Promise<boolean> {
    if (id === "") return false;
    if (id === this.#id || this.#others.has(id)) return true;
    // It may have begun a moment ago.
    await this.#look();
    return this.#others.has(id);
  }

  /** The other orchestrators that are alive. */
  async others(): Promise<OrchestratorLease[]> {
    await this.#look();
    return [...this.#others.values()].map(({ lease }) => lease);
  }

  /** Ends the lease: what it held is free at once. */
  async end(): Promise<void> {
    this.stop();
    await this.#renewing?.catch(() => {});
    const lease = (await this.#options.store.list()).find(({ id }) => id === this.#id);
    if (lease) await this.#options.store.end(lease);
  }

  /** Renews it no more. */
  stop(): void {
    this.#over = true;
    clearTimeout(this.#timer);
  }

  async #begin(): Promise<void> {
    await this.#beginAnew();
    await this.#look();
    this.#schedule();
  }

  async #beginAnew(): Promise<void> {
    const renewed = this.#moment();
    await this.#options.store.begin(this.#lease(renewed.wall));
    this.#renewed = renewed;
  }

  #moment() {
    return { wall: this.#now(), steady: performance.now() };
  }

  #lease(wall: number): OrchestratorLease {
    const { address, durationMs } = this.#options;
    return { id: this.#id, address: address(), durationMs, expiresAt: Math.round(wall + durationMs) };
  }

  #schedule(): void {
    if (this.#over) return;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(async () => {
      try {
        await this.#renew();
        await this.#look();
      } catch (e) {
        this.#options.log(`the orchestrator's lease could not be renewed: ${sentence(e)}`);
      }
      this.#schedule();
    }, this.#options.durationMs / 3);
    // The timer alone is no reason for the program to go on.
    unref(this.#timer);
  }

  async #renew(): Promise<void> {
    this.#renewing ??= this.#renewOnce().finally(() => this.#renewing = undefined);
    await this.#renewing;
  }

  async #renewOnce(): Promise<void> {
    const { store, log, onLost, onOrphans } = this.#options;
    const id = this.#id;
    const renewed = this.#moment();
    if (await store.renew(this.#lease(renewed.wall))) {
      this.#renewed = renewed;
      return;
    }
    if (this.#over) return;
    log(`the orchestrator's lease was ended by another, which could not see that this one is alive: it begins anew`);
    this.#renewed = undefined;
    this.#id = randomToken();
    onLost(id);
    await this.#beginAnew();
    onOrphans();
  }

  /** Sees who else is there, and ends the leases of those who are not any more. */
  async #look(): Promise<void> {
    const { store, log, isGone, onOrphans } = this.#options;
    const now = performance.now();
    const others = new Map<string, Seen>();
    let orphans = false;
    await Promise.all((await store.list()).map(async (lease) => {
      if (lease.id === this.#id) return;
      const before = this.#others.get(lease.id);
      const seen = before?.lease.expiresAt === lease.expiresAt ? before : { lease, since: now };
      const silent = now - seen.since > lease.durationMs * MARGIN;
      if (silent || await isGone?.(lease.address)) {
        if (await store.end(lease)) {
          log(
            `the orchestrator at ${lease.address} ${silent ? "shows no sign of life" : "is gone"}: its lease is ended`,
          );
          orphans = true;
          return;
        }
      }
      others.set(lease.id, seen);
    }));
    // Those whose lease another one has ended, which may not live to adopt what they held.
    for (const id of this.#others.keys()) if (!others.has(id)) orphans = true;
    this.#others = others;
    if (orphans && !this.#over) onOrphans();
  }
}
