/**
 * Sends a tree to an agent that has nothing of it, while the tree is still being scanned: neither waits for the other.
 *
 *     scan ──entries of a directory──> queue ──> records ──> Apply
 *
 * If the agent already has something of the tree, or the connection breaks, the first sync ends. The tree is then
 * scanned and compared as usual; what arrived is not lost.
 */
import type { ScannedEntry } from "../../proto/tree/scan.ts";
import { ApplyCall, openRoots, type WorkspaceLink } from "./agent_calls.ts";
import type { Finder, LocalTree } from "./pending_tree.ts";
import { planOf, type SendOptions, sendPlan } from "./upload.ts";

/** At this many queued entries the scan pauses for the sender, unless the sender is waiting for the network. */
const ENOUGH = 1_000;

/** Finder that sends each directory's entries as the scan finds them. */
export class FirstSync implements Finder {
  readonly #call: ApplyCall;
  readonly #tree: LocalTree;
  readonly #options: SendOptions;
  readonly #queue: ScannedEntry[][] = [];
  #queued = 0;
  #complete = false;
  #failure?: { error: unknown };
  /** `#wake` wakes the sender, `#goOn` the scan. */
  #wake = () => {};
  #goOn = () => {};
  readonly #sending: Promise<void>;

  private constructor(call: ApplyCall, tree: LocalTree, options: SendOptions) {
    this.#call = call;
    this.#tree = tree;
    this.#options = options;
    call.onBlocked = () => this.#goOn();
    this.#sending = this.#send();
    this.#sending.catch((error) => {
      this.#failure = { error };
      this.#goOn();
    });
  }

  /**
   * Asks the agent for its generation, and begins to send. Throws a StatusError FAILED_PRECONDITION, here or in a later
   * call, if the agent already has something of the tree.
   */
  static async begin(
    link: WorkspaceLink,
    tree: LocalTree,
    options: Omit<SendOptions, "partials"> & { onAnswer(): void },
  ): Promise<FirstSync> {
    const { signal, progress, onAnswer } = options;
    const partials = new Map<string, number>();
    const generation = await openRoots(link, [], {
      root() {},
      entry() {},
      partial: (digest, received) => partials.set(digest.toHex(), received),
    }, signal);
    onAnswer();
    const call = await ApplyCall.begin(link, signal);
    try {
      await call.start({ generation, root: tree.path, readOnly: false, single: tree.single, fresh: true });
    } catch (e) {
      call.cancel();
      throw e;
    }
    progress.begin(0, 0, { complete: false });
    return new FirstSync(call, tree, { ...options, partials });
  }

  /**
   * Queues the entries of a directory. Returns a promise if the scan should wait. Throws or rejects when sending has
   * failed.
   */
  found(entries: ScannedEntry[]): Promise<void> | undefined {
    if (this.#failure) throw this.#failure.error;
    let files = 0, bytes = 0;
    for (const { kind, size } of entries) {
      if (kind === "directory") continue;
      files++;
      bytes += size;
    }
    this.#options.progress.more(files, bytes);
    this.#queue.push(entries);
    this.#queued += entries.length;
    this.#wake();
    return this.#queued < ENOUGH || this.#call.blocked ? undefined : this.#turn();
  }

  async #turn(): Promise<void> {
    await new Promise<void>((resolve) => this.#goOn = resolve);
    if (this.#failure) throw this.#failure.error;
  }

  /** Waits until everything that was found is sent. */
  async foundAll(): Promise<void> {
    this.#options.progress.complete();
    this.#complete = true;
    this.#wake();
    await this.#sending;
  }

  /**
   * Waits until the agent has applied everything.
   * @returns the new generation
   */
  finish(): Promise<string> {
    return this.#call.finish();
  }

  /** Cancels the call and stops sending. */
  cancel(): void {
    this.#call.cancel();
    this.#complete = true;
    this.#wake();
  }

  async #send(): Promise<void> {
    for (;;) {
      const entries = this.#queue.shift();
      if (entries) {
        this.#queued -= entries.length;
        await sendPlan(this.#call, planOf(this.#tree, entries), this.#options);
      } else if (this.#complete) return;
      else {
        this.#goOn();
        await new Promise<void>((resolve) => this.#wake = resolve);
      }
    }
  }
}
