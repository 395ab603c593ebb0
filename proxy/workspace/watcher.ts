/**
 * Tells which paths may have changed since it was asked last: a hint, which makes a sync barrier cheap. Whenever something
 * may have been missed it says so, and a scan is the proof.
 *
 * What Deno.watchFs (2.9.6) does not tell, and what follows from it:
 * - It holds 16 events for its reader, and drops what comes beyond that without a word. So many events in a row, without
 *   a moment in which none was waiting, are a reason for doubt.
 * - It drops an event unless one of the watched paths leads, links followed, to the event's. A symlink out of the
 *   workspace would come and go unseen. That comparison also costs 10 µs for each folder, for each event. Therefore "/" is
 *   watched too, as the first path: each event matches it at once.
 * - The kernel's own overflow is not passed on. It comes with more than 16 events.
 * - An event about a name that is not UTF-8 is an error of the iterator, which then goes on.
 * - recursive: true would follow symlinks. So each folder is watched by itself.
 * - A folder that was renamed or made anew is not watched any more, and cannot be watched again while any watcher was made
 *   with its path.
 * - It opens the file that an event is about, to compare it. Of a named pipe (mkfifo) that waits for a writer, with all
 *   events behind it; and who then watches or stops watching waits with it, with the whole process.
 */
import { statfsSync } from "node:fs";
import { exists } from "../../proto/base/files.ts";

/** What may have changed. Absolute paths. */
export interface Hints {
  /** Paths of entries that changed, came or went. */
  changed: Set<string>;
  /** Those that may be others than before: a folder among them has new contents, and is not watched any more. */
  replaced: Set<string>;
}

/** Events that Deno.watchFs keeps for a slow reader. */
const EVENT_QUEUE = 16;
/** How long a cookie's event may take, in milliseconds. */
const COOKIE_MS = 250;
/** After this time the cookie is touched again: its event may be among those that were dropped. Milliseconds. */
const TOUCH_AGAIN_MS = 20;
/** How many times as long nobody may hear of a cookie before nothing is expected any more. */
const DEAF = 8;
/** Watchers, beside the main one, before all are made into one. */
const MAX_WATCHERS = 8;
/** Folders that cannot be watched for now before all is watched anew. */
const MAX_UNWATCHED = 50;
/** How long it is not tried again to watch, after the system said that there are too many folders. Milliseconds. */
const LIMIT_PAUSE_MS = 60_000;
/** Clocks that drift apart by more than this tell of a machine that slept. Milliseconds. */
const SLEEP_MS = 2_000;

/** File systems on which others may write without this kernel's knowing, by their magic numbers of statfs(2). */
const SILENT_FILE_SYSTEMS = new Map([
  [0x6969, "NFS"],
  [0x65735546, "FUSE"],
  [0x01021997, "9P"],
  [0xff534d42, "CIFS"],
  [0xfe534d42, "SMB"],
  [0x517b, "SMB"],
  [0x5346414f, "AFS"],
  [0x00c36400, "Ceph"],
  [0x0bd00bd0, "Lustre"],
  [0x47504653, "GPFS"],
  [0x01161970, "GFS2"],
  [0x7461636f, "OCFS2"],
  [0x786f4256, "vboxsf"],
  [0xbacbacbc, "vmhgfs"],
  [0x7c7c6673, "prl_fs"],
]);

/** What a {@link FolderWatcher} takes from its surroundings; for tests. */
export interface WatcherOptions {
  /** @default Deno.watchFs, not recursive */
  open?(paths: string[]): Deno.FsWatcher;
  /** The type of the file system that holds a folder, as statfs(2) has it. */
  fileSystem?(folder: string): number;
  /** @default 250 */
  cookieMs?: number;
  /** Wall clock and steady clock, in milliseconds. */
  clock?: { wall(): number; steady(): number };
  /** Told when events were lost, so that a new look would help. */
  onLoss?(): void;
}

/** One Deno.FsWatcher. */
interface Handle {
  readonly events: Deno.FsWatcher;
  /** Events in all, and since the last moment in which none was waiting. */
  count: number;
  row: number;
  quiet?: ReturnType<typeof setTimeout>;
  /** Resolves when the cookie that was touched last was seen. */
  cookie: PromiseWithResolvers<void>;
  closed: boolean;
  /** Resolves when nothing more is read from it. */
  ended: Promise<void>;
}

/** See the file's head. */
export class FolderWatcher implements Disposable {
  readonly #cookieFolder: string;
  readonly #options: Required<WatcherOptions>;
  readonly #folders = new Set<string>();
  /** Folders that were replaced by others while a watcher has their paths. */
  readonly #dead = new Set<string>();
  /** Those of the dead whose paths only retired watchers have. */
  readonly #dying = new Set<string>();
  #devices = new Set<number>();
  #handles: Handle[] = [];
  /** Those that another one has replaced: they are closed when what they still hold was read. */
  #retired: Handle[] = [];
  #hints: Hints = { changed: new Set(), replaced: new Set() };
  #doubt: string | undefined = "watching has just begun";
  /** There is doubt because events were lost, many of which may be on their way still. */
  #isLossy = false;
  /** Resolves when there is doubt. */
  #doubted = Promise.withResolvers<void>();
  #notBefore = 0;
  #lead: number;
  /** Folders in which there was a named pipe once: they are not watched. */
  readonly #pipes = new Set<string>();
  /** The system waits for a pipe that is gone: nobody can close a watcher any more. */
  #deaf = false;
  /** Pipes that are held open so that the system need not wait for somebody else to write. */
  readonly #opened: Deno.FsFile[] = [];
  #cookies = 0;
  #cookie = "";
  /** Events of the cookie may be on their way that nobody has waited for: the next one who waits takes another. */
  #isSpent = false;

  /** @param cookieFolder An absolute path: a folder of ours, with a file that is touched so that its event comes. */
  constructor(cookieFolder: string, options: WatcherOptions = {}) {
    this.#cookieFolder = cookieFolder;
    this.#options = {
      open: (paths) => Deno.watchFs(paths, { recursive: false }),
      fileSystem: (folder) => statfsSync(folder).type >>> 0,
      cookieMs: COOKIE_MS,
      clock: { wall: () => Date.now(), steady: () => performance.now() },
      onLoss: () => {},
      ...options,
    };
    this.#lead = this.#clockLead();
  }

  /** Why hints cannot be trusted; undefined if they can. */
  get doubt(): string | undefined {
    return this.#doubt;
  }

  /** Whether hints cannot be trusted because events were lost: {@link restart} waits until no more are on their way. */
  get isLossy(): boolean {
    return this.#doubt !== undefined && this.#isLossy;
  }

  /** Whether a folder or file is watched. */
  watches(folder: string): boolean {
    return this.#folders.has(folder);
  }

  /**
   * All that changed since the last call, up to this moment. Undefined if something may have been missed: then call
   * {@link restart} and look at everything afterwards.
   */
  async collect(): Promise<Hints | undefined> {
    const lead = this.#clockLead();
    if (Math.abs(lead - this.#lead) > SLEEP_MS) this.#mistrust("this machine slept, or its clock was set");
    this.#lead = lead;
    if (this.#doubt === undefined && !(await this.#settled())) this.#mistrust("events do not come", true);
    if (this.#doubt !== undefined) return undefined;
    if (this.#retired.length === 0) {
      // Those that were retired were closed one collect ago: nothing holds these paths any more.
      for (const folder of this.#dying) this.#dead.delete(folder);
      this.#dying.clear();
    }
    for (const handle of this.#retired.splice(0)) this.#close(handle);
    const hints = this.#hints;
    this.#hints = { changed: new Set(), replaced: new Set() };
    this.#unwatch(hints.replaced);
    return hints;
  }

  /**
   * Watches exactly these folders, absolute. A file among them is watched by each of its names; it must be in one of the
   * folders. What was missed until now is forgiven, unless watching is impossible.
   */
  async restart(folders: Iterable<string>): Promise<void> {
    if (!await this.#responds()) return this.#mistrust("the system does not answer");
    await this.#closeAll();
    for (const pipe of this.#opened.splice(0)) pipe.close();
    this.#folders.clear();
    this.#dead.clear();
    this.#dying.clear();
    this.#devices.clear();
    this.#hints = { changed: new Set(), replaced: new Set() };
    if (this.#options.clock.steady() < this.#notBefore) return;
    this.#doubt = undefined;
    this.#isLossy = false;
    this.#doubted = Promise.withResolvers();
    try {
      Deno.mkdirSync(this.#cookieFolder, { recursive: true, mode: 0o700 });
      for (const { name, isFile } of Deno.readDirSync(this.#cookieFolder)) {
        if (isFile && name.startsWith("cookie-")) Deno.removeSync(`${this.#cookieFolder}/${name}`);
      }
      this.#bake();
    } catch (e) {
      return this.#mistrust(`${this.#cookieFolder} cannot be written (${(e as Error).message})`);
    }
    this.#watch([...folders]);
  }

  /**
   * Watches more folders, absolute, as far as that is possible now: see {@link watches}. Look at each once more after the
   * next {@link collect}, since until now it was not watched.
   */
  add(folders: Iterable<string>): void {
    if (this.#doubt !== undefined) return;
    const wanted = [...folders].filter((folder) => !this.#folders.has(folder));
    const fresh = wanted.filter((folder) => !this.#dead.has(folder));
    if (wanted.length - fresh.length > MAX_UNWATCHED) return this.#mistrust("many folders were replaced");
    if (fresh.length === 0) return;
    if (this.#handles.length > MAX_WATCHERS) {
      this.#retired.push(...this.#handles.splice(0));
      for (const folder of this.#dead) this.#dying.add(folder);
      this.#watch([...this.#folders, ...fresh]);
    } else this.#watch(fresh);
  }

  /** What is watched is another than it was, and no event has told it. */
  doubtAll(why: string): void {
    this.#mistrust(why);
  }

  /** Stops watching. */
  close(): void {
    if (!this.#deaf) void this.#closeAll();
    this.#mistrust("watching has ended");
  }

  [Symbol.dispose](): void {
    this.close();
  }

  #clockLead(): number {
    return this.#options.clock.wall() - this.#options.clock.steady();
  }

  #mistrust(why: string, isLossy = false): void {
    if (this.#doubt !== undefined) return;
    this.#doubt = why;
    this.#isLossy = isLossy;
    this.#doubted.resolve();
  }

  #lost(why: string): void {
    if (this.#doubt !== undefined) return;
    this.#mistrust(why, true);
    this.#options.onLoss();
  }

  /** Makes another cookie, so that late events of the last one are not taken for it. Throws Deno's errors. */
  #bake(): void {
    const former = this.#cookie;
    this.#cookie = `${this.#cookieFolder}/cookie-${Deno.pid}-${++this.#cookies}`;
    Deno.writeFileSync(this.#cookie, new Uint8Array());
    this.#isSpent = false;
    try {
      if (former !== "") Deno.removeSync(former);
    } catch { /* it is gone */ }
  }

  /** Whether what watches can be closed: else it waits for a pipe, and whoever closes it would wait with it. */
  async #responds(): Promise<boolean> {
    // Of a folder that somebody has emptied or exchanged no event can come.
    const isThere = exists(this.#cookie);
    if (this.#handles.length === 0 || await this.#settled()) {
      this.#deaf = false;
      return true;
    }
    if (this.#deaf) return false;
    this.#letGo();
    if (!isThere || !exists(this.#cookie)) return true;
    this.#deaf = !await this.#settled(DEAF);
    return !this.#deaf;
  }

  /** Opens the pipes in watched folders, so that who waits for a writer need not wait. */
  #letGo(): void {
    for (const folder of this.#folders) {
      let names: Deno.DirEntry[];
      try {
        names = [...Deno.readDirSync(folder)];
      } catch {
        // A file, or one that is gone.
        continue;
      }
      for (const { name, isFile, isDirectory, isSymlink } of names) {
        if (isFile || isDirectory || isSymlink) continue;
        try {
          if (!Deno.lstatSync(`${folder}/${name}`).isFifo) continue;
          this.#pipes.add(folder);
          // For both: that never waits.
          this.#opened.push(Deno.openSync(`${folder}/${name}`, { read: true, write: true }));
        } catch { /* it is gone, or not ours */ }
      }
    }
  }

  /**
   * Touches the cookie, and waits until all watchers have seen that: then they have seen all before it. @returns false also
   * as soon as there is doubt where there was none
   */
  async #settled(times = 1): Promise<boolean> {
    const handles = [...this.#handles, ...this.#retired];
    for (const handle of handles) handle.cookie = Promise.withResolvers();
    let timer: ReturnType<typeof setTimeout> | undefined, again: ReturnType<typeof setInterval> | undefined;
    let touches = 0;
    const touch = () => {
      Deno.utimeSync(this.#cookie, new Date(), new Date());
      touches++;
    };
    try {
      if (this.#isSpent) this.#bake();
      this.#isSpent = true;
      touch();
      again = setInterval(() => {
        try {
          touch();
        } catch { /* it is gone, and no event comes */ }
      }, TOUCH_AGAIN_MS);
      const isSeen = await Promise.race([
        Promise.all(handles.map((h) => h.cookie.promise)).then(() => true),
        ...this.#doubt === undefined ? [this.#doubted.promise.then(() => false)] : [],
        new Promise<false>((resolve) => timer = setTimeout(resolve, times * this.#options.cookieMs, false)),
      ]);
      this.#isSpent = !isSeen || touches > 1;
      return isSeen;
    } catch {
      return false;
    } finally {
      clearTimeout(timer);
      clearInterval(again);
    }
  }

  #watch(folders: string[]): void {
    const watchable = folders.filter((folder) => this.#canBeWatched(folder));
    if (this.#doubt !== undefined) return;
    for (;;) {
      try {
        const events = this.#options.open(["/", this.#cookieFolder, ...watchable]);
        const handle: Handle = {
          events,
          count: 0,
          row: 0,
          cookie: Promise.withResolvers(),
          closed: false,
          ended: Promise.resolve(),
        };
        handle.ended = this.#read(handle);
        this.#handles.push(handle);
        for (const folder of watchable) this.#folders.add(folder);
        return;
      } catch (e) {
        if (e instanceof Deno.errors.NotFound || e instanceof Deno.errors.PermissionDenied) {
          // One of them vanished, or may not be read: watch the others.
          const good = watchable.filter((folder) => this.#canBeOpened(folder));
          if (good.length < watchable.length) {
            watchable.splice(0, watchable.length, ...good);
            continue;
          }
        }
        this.#notBefore = this.#options.clock.steady() + LIMIT_PAUSE_MS;
        return this.#mistrust(`${folders.length} folders cannot be watched (${(e as Error).message})`);
      }
    }
  }

  #canBeWatched(folder: string): boolean {
    if (this.#pipes.has(folder)) return false;
    let device: number;
    try {
      const stat = Deno.lstatSync(folder);
      if (!stat.isDirectory && !stat.isFile) return false;
      device = stat.dev;
    } catch {
      return false;
    }
    if (this.#devices.has(device)) return true;
    try {
      const silent = SILENT_FILE_SYSTEMS.get(this.#options.fileSystem(folder));
      if (silent) this.#mistrust(`${folder} is on ${silent}, which tells of no changes that others make`);
    } catch (e) {
      this.#mistrust(`the file system of ${folder} cannot be told (${(e as Error).message})`);
    }
    this.#devices.add(device);
    return true;
  }

  #canBeOpened(folder: string): boolean {
    try {
      this.#options.open([folder]).close();
      return true;
    } catch {
      return false;
    }
  }

  /** These and all below them are others now. */
  #unwatch(replaced: Set<string>): void {
    if (![...replaced].some((path) => this.#folders.has(path))) return;
    for (const folder of this.#folders) {
      for (let at = folder; at.length > 1; at = at.slice(0, at.lastIndexOf("/"))) {
        if (!replaced.has(at)) continue;
        this.#folders.delete(folder);
        this.#dead.add(folder);
        break;
      }
    }
  }

  async #read(handle: Handle): Promise<void> {
    const events = handle.events[Symbol.asyncIterator]();
    for (;;) {
      let event: Deno.FsEvent;
      try {
        const next = await events.next();
        if (handle.closed) return;
        if (next.done) return this.#mistrust("the system has ended the watching");
        event = next.value;
      } catch (e) {
        if (handle.closed) return;
        this.#lost(`an event cannot be read (${(e as Error).message})`);
        this.#count(handle);
        if (e instanceof TypeError) continue;
        return;
      }
      this.#count(handle);
      this.#take(handle, event);
    }
  }

  #take(handle: Handle, event: Deno.FsEvent): void {
    const { kind, paths, flag } = event;
    if (flag || kind === "other" || kind === "any") this.#lost("events were lost");
    const same = kind === "modify" || kind === "access";
    for (const path of paths) {
      if (path === this.#cookie && kind === "modify") handle.cookie.resolve();
      else if (!path.startsWith(this.#cookieFolder)) {
        this.#hints.changed.add(path);
        if (!same) this.#hints.replaced.add(path);
      }
    }
  }

  /** Counts events in a row, until a moment in which none was waiting. */
  #count(handle: Handle): void {
    handle.count++;
    if (++handle.row >= EVENT_QUEUE) this.#lost("many files changed at once");
    if (handle.quiet !== undefined) return;
    const look = () => {
      const before = handle.count;
      // Two turns of the event loop: in one of them, an event that waits is certainly read.
      handle.quiet = setTimeout(() => {
        handle.quiet = setTimeout(() => {
          handle.quiet = undefined;
          if (handle.count === before) handle.row = 0;
          else look();
        });
        handle.quiet.unref();
      });
      handle.quiet.unref();
    };
    look();
  }

  #close(handle: Handle): void {
    handle.closed = true;
    clearTimeout(handle.quiet);
    try {
      handle.events.close();
    } catch { /* the system was faster */ }
  }

  async #closeAll(): Promise<void> {
    const handles = [...this.#handles.splice(0), ...this.#retired.splice(0)];
    for (const handle of handles) this.#close(handle);
    // A path is let go in the turn after its last watcher has ended.
    if (handles.length === 0) return;
    await Promise.all(handles.map((h) => h.ended));
    await new Promise((resolve) => setTimeout(resolve));
  }
}
