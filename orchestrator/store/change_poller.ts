import { ChangeFeed } from "./change_feed.ts";

/** What tells one moment of a life from another, of a session or of what else others may wait for. */
export interface Moment {
  readonly status: string;
  /** 0 for NONE. */
  readonly epoch: number;
}

/** The moment of a row, or of no row. */
export function momentOf(row: { readonly status: string; readonly epoch: number } | undefined): Moment {
  return row ? { status: row.status, epoch: row.epoch } : { status: "NONE", epoch: 0 };
}

/** Options of {@link SharedChanges}. */
export interface SharedChangesOptions<Key> {
  /** A key as one string, different for each. */
  readonly text: (key: Key) => string;
  /** What the database says of each of these keys now, in their order. May throw: it is asked again after the interval. */
  readonly look: (keys: readonly Key[]) => Promise<readonly Moment[]> | readonly Moment[];
  /** Milliseconds between two looks. @default 250 */
  readonly intervalMs?: number;
}

interface Watched<Key> {
  readonly key: Key;
  listeners: number;
  /** What those who watch were last shown; undefined: nothing yet. */
  shown: Moment | undefined;
  /** Own transitions of the key that are under way. */
  writing: number;
  /** Counts what was heard of the key beside the looks: a look that is older is worth nothing. */
  news: number;
}

/**
 * The ChangeFeed of a database that several orchestrators share. Own transitions wake at once. Those of others are
 * found by looking at (epoch, status) of all watched keys together, once per interval and only while somebody watches.
 * That is a decision: people wait for a start for seconds, so that a quarter of one is little, and one small query is
 * cheap. Spanner's change streams would say the same unasked, but each reader has to follow the partitions of the
 * stream by a standing query each, and SQLite has nothing like them.
 *
 * Several changes between two looks are one; a change that leaves epoch and status alone wakes nobody elsewhere.
 */
export class SharedChanges<Key> {
  readonly #feed = new ChangeFeed();
  readonly #text: SharedChangesOptions<Key>["text"];
  readonly #look: SharedChangesOptions<Key>["look"];
  readonly #intervalMs: number;
  readonly #watched = new Map<string, Watched<Key>>();
  #timer: ReturnType<typeof setTimeout> | undefined;
  #looking: Promise<void> | undefined;

  constructor({ text, look, intervalMs = 250 }: SharedChangesOptions<Key>) {
    this.#text = text;
    this.#look = look;
    this.#intervalMs = intervalMs;
  }

  /** Calls `listener` after each change that is found from what is {@link show}n next. @returns the end of it */
  watch(key: Key, listener: () => void): () => void {
    const text = this.#text(key);
    const watched = this.#watched.get(text) ?? { key, listeners: 0, shown: undefined, writing: 0, news: 0 };
    this.#watched.set(text, watched);
    watched.listeners++;
    this.#schedule();
    let leave: (() => void) | undefined = this.#feed.watch(text, listener);
    return () => {
      if (!leave) return;
      leave();
      leave = undefined;
      if (--watched.listeners > 0) return;
      this.#watched.delete(text);
      if (this.#watched.size === 0) this.#cancel();
    };
  }

  /** Notes what a caller is about to be told of a key. */
  show(key: Key, moment: Moment): void {
    const watched = this.#watched.get(this.#text(key));
    if (!watched) return;
    watched.news++;
    this.#compare(watched, moment);
  }

  /**
   * Runs an own transition, and wakes the key's listeners when it happened.
   *
   * @param write Resolves with whether it happened, and the key's moment after it or instead of it.
   */
  async write<T extends { happened: boolean; moment: Moment }>(key: Key, write: () => Promise<T>): Promise<T> {
    const before = this.#watched.get(this.#text(key));
    if (before) before.writing++;
    let result;
    try {
      result = await write();
    } finally {
      if (before) {
        before.writing--;
        before.news++;
      }
    }
    const watched = this.#watched.get(this.#text(key));
    if (!result.happened) {
      this.show(key, result.moment);
      return result;
    }
    if (watched) {
      watched.shown = result.moment;
      watched.news++;
    }
    this.#feed.changed(this.#text(key));
    return result;
  }

  /** Ends the looking. Resolves when no look is under way. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#watched.clear();
    this.#cancel();
    await this.#looking;
  }

  #compare(watched: Watched<Key>, moment: Moment): void {
    const { shown } = watched;
    watched.shown = moment;
    if (shown && (shown.status !== moment.status || shown.epoch !== moment.epoch)) {
      this.#feed.changed(this.#text(watched.key));
    }
  }

  #schedule(): void {
    if (this.#timer !== undefined || this.#looking || this.#watched.size === 0) return;
    this.#timer = setTimeout(() => {
      this.#timer = undefined;
      this.#looking = this.#lookOnce().finally(() => {
        this.#looking = undefined;
        this.#schedule();
      });
    }, this.#intervalMs);
  }

  #cancel(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
  }

  async #lookOnce(): Promise<void> {
    const before = [...this.#watched.values()].filter(({ writing }) => writing === 0)
      .map((watched) => ({ watched, news: watched.news }));
    let moments: readonly Moment[] = [];
    try {
      if (before.length > 0) moments = await this.#look(before.map(({ watched }) => watched.key));
    } catch {
      return; // Whoever uses the store hears of it there.
    }
    before.forEach(({ watched, news }, i) => {
      if (watched.news === news && watched.writing === 0) this.#compare(watched, moments[i]);
    });
  }
}
