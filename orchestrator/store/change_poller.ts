import { ChangeFeed } from "./change_feed.ts";

/** Identifies a state of a session, or of anything else that others wait for. */
export interface Moment {
  readonly status: string;
  /** 0 for NONE. */
  readonly epoch: number;
}

/** The moment of a row; NONE without a row. */
export function momentOf(row: { readonly status: string; readonly epoch: number } | undefined): Moment {
  return row ? { status: row.status, epoch: row.epoch } : { status: "NONE", epoch: 0 };
}

/** Options of {@link SharedChanges}. */
export interface SharedChangesOptions<Key> {
  /** A key as a unique string. */
  readonly text: (key: Key) => string;
  /**
   * Reads the present moments of these keys from the database, in their order. May throw: it is called again after the
   * interval.
   */
  readonly look: (keys: readonly Key[]) => Promise<readonly Moment[]> | readonly Moment[];
  /** Interval between two looks, in milliseconds. @default 250 */
  readonly intervalMs?: number;
}

interface Watched<Key> {
  readonly key: Key;
  listeners: number;
  /** The moment that the listeners know; undefined if none yet. */
  shown: Moment | undefined;
  /** Number of own transitions of the key in progress. */
  writing: number;
  /** Incremented by news of the key from elsewhere: the result of an older look is then dropped. */
  news: number;
}

/**
 * The ChangeFeed of a database that several orchestrators share. Own transitions notify at once. Those of others are
 * found by reading (epoch, status) of all watched keys together, once per interval and only while there are listeners.
 *
 * Decision: users wait seconds for a start, so a quarter of one is little, and one small query is cheap. Spanner's
 * change streams would report the changes themselves, but each reader has to follow every partition of the stream by a
 * standing query, and SQLite has no equivalent.
 *
 * Several changes between two looks count as one. A change that leaves epoch and status alone notifies nobody
 * elsewhere.
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

  /** Calls `listener` after each change compared with what was last {@link show}n. @returns stops that */
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

  /** Records the moment that a caller is about to see. */
  show(key: Key, moment: Moment): void {
    const watched = this.#watched.get(this.#text(key));
    if (!watched) return;
    watched.news++;
    this.#compare(watched, moment);
  }

  /**
   * Runs an own transition, and notifies the key's listeners if it happened.
   *
   * @param write Resolves with whether it happened, and with the key's moment afterwards.
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

  /** Stops polling. Resolves when no look is in progress. */
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
      return; // Users of the store get the error themselves.
    }
    before.forEach(({ watched, news }, i) => {
      if (watched.news === news && watched.writing === 0) this.#compare(watched, moments[i]);
    });
  }
}
