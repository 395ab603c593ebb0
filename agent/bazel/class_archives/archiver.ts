import { unref } from "../../../proto/base/timers.ts";
import { sentence } from "../../../proto/base/errors.ts";
import { log } from "../../log.ts";
import type { ServerStart } from "./archive_key.ts";
import type { ClassArchives } from "./class_archives.ts";

/** How long an agent is idle before it makes one. Milliseconds. */
const IDLE_MS = 10_000;
/** The longest time between an interrupted attempt and the next. Milliseconds. */
const MAX_IDLE_MS = 5 * 60_000;

/** A missing or unfitting archive is nobody's business: a JVM would speak of it in the server's jvm.out, and newer ones do. */
const QUIET = "-Xlog:cds*=off";

/** What an {@link Archiver} works with. */
export interface ArchiverOptions {
  readonly archives: ClassArchives;
  /** The commands of the session. */
  readonly activity: { readonly running: number; readonly begun: number; onChange(listener: () => void): Disposable };
  /** Which archive fits a server, see archiveKey. */
  key(start: ServerStart): string | undefined;
  /** The path by which a server of the session sees an archive. @default the same */
  seenAs?(path: string): string;
  /** Makes an archive in `archives.making`. Rejects when it cannot, or the signal is aborted. @returns its path */
  make(start: ServerStart, signal: AbortSignal): Promise<string>;
  /** For tests. Milliseconds. @default ten seconds */
  readonly idleMs?: number;
}

/**
 * Has a session's Bazel server start with the archive that fits, and makes that when there is none: after a command has
 * ended, while none runs. A command that comes meanwhile ends it at once, and it is tried again later.
 */
export class Archiver {
  readonly #options: ArchiverOptions;
  readonly #listening: Disposable;
  /** What is wanted. */
  #missing?: { key: string; start: ServerStart };
  #timer?: ReturnType<typeof setTimeout>;
  #making?: { stop: AbortController; done: Promise<void> };
  #idleMs: number;
  #isClosed = false;

  constructor(options: ArchiverOptions) {
    this.#options = options;
    this.#idleMs = options.idleMs ?? IDLE_MS;
    this.#listening = options.activity.onChange(() => this.#plan());
  }

  /** What the JVM of a server that starts is told; nothing if there is no archive for it. */
  jvmOptions(start: ServerStart): string[] {
    this.#missing = undefined;
    try {
      const { archives } = this.#options;
      const key = this.#options.key(start);
      if (key === undefined) return [];
      const path = archives.find(key);
      if (path !== undefined) return [`-XX:SharedArchiveFile=${this.#options.seenAs?.(path) ?? path}`, QUIET];
      if (archives.isWanted(key)) this.#missing = { key, start };
    } catch (e) {
      log(`class-data archives are left alone (${sentence(e)})`);
    }
    return [];
  }

  /** Ends what runs for it. */
  async close(): Promise<void> {
    this.#isClosed = true;
    this.#listening[Symbol.dispose]();
    this.#plan();
    await this.#making?.done;
  }

  #plan(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    const { activity } = this.#options;
    if (this.#isClosed || activity.running > 0) {
      this.#making?.stop.abort(new Error("a command has come"));
      return;
    }
    if (this.#missing && activity.begun > 0) this.#timer = unref(setTimeout(() => this.#begin(), this.#idleMs));
  }

  #begin(): void {
    // A server that was started meanwhile may want none.
    if (this.#making || !this.#missing) return;
    const stop = new AbortController();
    const done = this.#make(stop.signal).finally(() => {
      this.#making = undefined;
      this.#plan();
    });
    this.#making = { stop, done };
  }

  async #make(signal: AbortSignal): Promise<void> {
    const { archives, make } = this.#options;
    const { key, start } = this.#missing!;
    const isMissing = () => this.#missing?.key === key;
    try {
      using turn = await archives.begin();
      if (!turn) return this.#later();
      // Another agent may have made it.
      if (!archives.isWanted(key)) return void (this.#missing = undefined);
      const began = performance.now();
      const made = await make(start, signal);
      // What it was made of must be what it was at first.
      if (this.#options.key(start) !== key) throw new Error("its files were changed meanwhile");
      archives.keep(key, made);
      log(`a class-data archive was made in ${Math.round((performance.now() - began) / 1000)} s`);
      if (isMissing()) this.#missing = undefined;
    } catch (e) {
      if (signal.aborted) return this.#later();
      if (isMissing()) this.#missing = undefined;
      log(`no class-data archive was made (${sentence(e)})`);
      try {
        archives.giveUp(key, sentence(e));
      } catch {
        // The disk is full, say: another agent will try.
      }
    }
  }

  #later(): void {
    this.#idleMs = Math.min(2 * this.#idleMs, MAX_IDLE_MS);
  }
}
