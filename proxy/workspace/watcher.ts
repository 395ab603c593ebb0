/**
 * Reports which paths may have changed since the last call. These hints make a sync barrier cheap. When an event may
 * have been missed, the watcher says so, and a scan establishes the truth.
 *
 * Faults of Deno.watchFs (2.9.6), and what follows from them:
 * - It queues 16 events for its reader and silently drops the rest. After that many events without a moment in which
 *   the queue was empty, hints are not trusted.
 * - It drops an event unless a watched path leads, with symlinks followed, to the event's path. So a symlink out of the
 *   workspace could appear and vanish unseen. The comparison also costs 10 µs per directory and event. Therefore "/" is
 *   watched too, as the first path: every event matches it at once.
 * - It does not report the kernel's own overflow. An overflow comes with more than 16 events.
 * - An event with a name that is not UTF-8 is an error of the iterator, which continues after it.
 * - `recursive: true` follows symlinks. So each directory is watched separately.
 * - A directory that was renamed or recreated is no longer watched, and cannot be watched again while a watcher exists
 *   that was made with its path.
 * - It opens the file of an event to compare it. For a named pipe (mkfifo) this blocks until there is a writer, with
 *   all later events. Starting or stopping a watch then blocks as well, and with it the whole process.
 */
import { statfsSync } from "node:fs";
import { exists } from "../../proto/base/files.ts";

/** What may have changed. Absolute paths. */
export interface Hints {
  /** Entries that changed, appeared or vanished. */
  changed: Set<string>;
  /** Those that may be different files or directories. Such a directory has new contents and is no longer watched. */
  replaced: Set<string>;
}

/** Number of events that Deno.watchFs queues for a slow reader. */
const EVENT_QUEUE = 16;
/** Timeout for a cookie's event, in milliseconds. */
const COOKIE_MS = 250;
/** Interval at which the cookie is touched again, since its event may be among those dropped. Milliseconds. */
const TOUCH_AGAIN_MS = 20;
/** The system counts as blocked after this multiple of the cookie's timeout without an event. */
const DEAF = 8;
/** Number of watchers beside the main one before all are merged into one. */
const MAX_WATCHERS = 8;
/** Number of directories that cannot be watched for now before all watches are set again. */
const MAX_UNWATCHED = 50;
/** Pause before the next attempt after the system refused to watch so many directories. Milliseconds. */
const LIMIT_PAUSE_MS = 60_000;
/** The wall clock and the steady clock drift apart by more than this when the machine sleeps. Milliseconds. */
const SLEEP_MS = 2_000;

/** File systems that others may change without an event from this kernel, by their magic number in statfs(2). */
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

/** Dependencies of a {@link FolderWatcher} that tests replace. */
export interface WatcherOptions {
  /** @default Deno.watchFs, not recursive */
  open?(paths: string[]): Deno.FsWatcher;
  /** The type of a directory's file system, from statfs(2). */
  fileSystem?(folder: string): number;
  /** @default 250 */
  cookieMs?: number;
  /** Wall clock and steady clock, in milliseconds. */
  clock?: { wall(): number; steady(): number };
  /** Called when events were lost, so that a new look would help. */
  onLoss?(): void;
}

/** One Deno.FsWatcher. */
interface Handle {
  readonly events: Deno.FsWatcher;
  /** Number of events in all (`count`), and since the queue was last empty (`row`). */
  count: number;
  row: number;
  quiet?: ReturnType<typeof setTimeout>;
  /** Resolves when the event of the last touch of the cookie arrives. */
  cookie: PromiseWithResolvers<void>;
  closed: boolean;
  /** Resolves when the reader has ended. */
  ended: Promise<void>;
}

/** Watches directories and files, each separately, and collects hints. */
export class FolderWatcher implements Disposable {
  readonly #cookieFolder: string;
  readonly #options: Required<WatcherOptions>;
  readonly #folders = new Set<string>();
  /** Directories that were replaced while a watcher holds their paths, so that they cannot be watched again yet. */
  readonly #dead = new Set<string>();
  /** Those in `#dead` whose paths only retired watchers hold. */
  readonly #dying = new Set<string>();
  #devices = new Set<number>();
  #handles: Handle[] = [];
  /** Watchers that were replaced by another one. They are closed when their queued events have been read. */
  #retired: Handle[] = [];
  #hints: Hints = { changed: new Set(), replaced: new Set() };
  #doubt: string | undefined = "watching has just begun";
  /** The doubt comes from lost events; many more may still be on their way. */
  #isLossy = false;
  /** Resolves when a doubt arises. */
  #doubted = Promise.withResolvers<void>();
  #notBefore = 0;
  #lead: number;
  /** Directories in which a named pipe was found; they are not watched. */
  readonly #pipes = new Set<string>();
  /** The system is blocked on a pipe that is gone: no watcher can be closed. */
  #deaf = false;
  /** Pipes that are held open, so that opening them does not block. */
  readonly #opened: Deno.FsFile[] = [];
  #cookies = 0;
  #cookie = "";
  /** Late events of the current cookie may be on their way. The next wait uses a new cookie. */
  #isSpent = false;

  /** @param cookieFolder Absolute path of a directory of RBS's own, for the file that is touched to make an event. */
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

  /** Whether hints cannot be trusted because events were lost. {@link restart} then waits until no more arrive. */
  get isLossy(): boolean {
    return this.#doubt !== undefined && this.#isLossy;
  }

  /** Whether a directory or file is watched. */
  watches(folder: string): boolean {
    return this.#folders.has(folder);
  }

  /**
   * All changes since the last call, up to this moment. Undefined if an event may have been missed: then call
   * {@link restart} and look at everything afterwards.
   */
  async collect(): Promise<Hints | undefined> {
    const lead = this.#clockLead();
    if (Math.abs(lead - this.#lead) > SLEEP_MS) this.#mistrust("this machine slept, or its clock was set");
    this.#lead = lead;
    if (this.#doubt === undefined && !(await this.#settled())) this.#mistrust("events do not come", true);
    if (this.#doubt !== undefined) return undefined;
    if (this.#retired.length === 0) {
      // The retired watchers were closed in the previous collect, so nothing holds these paths now.
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
   * Watches exactly these directories and files, absolute. A file is watched under each of its names, and must be in
   * one of the directories. Clears the doubt, unless watching is impossible.
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
   * Watches more directories, absolute, as far as possible now: see {@link watches}. Look at each once more after the
   * next {@link collect}, since it was not watched until now.
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

  /** Distrusts all hints: something watched was replaced without an event. */
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

  /** Makes a new cookie, so that late events of the last one do not count. Throws Deno's errors. */
  #bake(): void {
    const former = this.#cookie;
    this.#cookie = `${this.#cookieFolder}/cookie-${Deno.pid}-${++this.#cookies}`;
    Deno.writeFileSync(this.#cookie, new Uint8Array());
    this.#isSpent = false;
    try {
      if (former !== "") Deno.removeSync(former);
    } catch { /* it is gone */ }
  }

  /** Whether the watchers can be closed. If not, they are blocked on a pipe, and closing them would block too. */
  async #responds(): Promise<boolean> {
    // If the cookie's directory was emptied or replaced, no event can arrive.
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

  /** Opens the pipes in watched directories for reading and writing, which unblocks those who wait for a writer. */
  #letGo(): void {
    for (const folder of this.#folders) {
      let names: Deno.DirEntry[];
      try {
        names = [...Deno.readDirSync(folder)];
      } catch {
        // A file, or a directory that is gone.
        continue;
      }
      for (const { name, isFile, isDirectory, isSymlink } of names) {
        if (isFile || isDirectory || isSymlink) continue;
        try {
          if (!Deno.lstatSync(`${folder}/${name}`).isFifo) continue;
          this.#pipes.add(folder);
          // Opening a pipe for both never blocks.
          this.#opened.push(Deno.openSync(`${folder}/${name}`, { read: true, write: true }));
        } catch { /* it is gone, or may not be opened */ }
      }
    }
  }

  /**
   * Touches the cookie and waits until each watcher has seen that, and thus all earlier events.
   * @returns false on timeout, and at once when a new doubt arises
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
          // A path has vanished or may not be read: watch the others.
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

  /** Stops regarding these paths and everything below as watched. */
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

  /** Counts events until a moment in which the queue was empty. */
  #count(handle: Handle): void {
    handle.count++;
    if (++handle.row >= EVENT_QUEUE) this.#lost("many files changed at once");
    if (handle.quiet !== undefined) return;
    const look = () => {
      const before = handle.count;
      // Two turns of the event loop: a waiting event is read in one of them.
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
    // Deno releases a path in the turn after its last watcher has ended.
    if (handles.length === 0) return;
    await Promise.all(handles.map((h) => h.ended));
    await new Promise((resolve) => setTimeout(resolve));
  }
}
