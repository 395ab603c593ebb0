/**
 * The class-data archives of one user: made by agents, read by Bazel servers.
 *
 *     <directory>/kept/<key>.jsa    an archive
 *     <directory>/kept/<key>.json   what is in it, or why there can be none; its time is that of the last use
 *     <directory>/making/           of the one agent that makes one
 *     <directory>/lock              held by that agent
 *
 * Sessions see `kept`, read-only, and nothing else of it. A file with an archive's name is never written: JVMs map it.
 */
import { createHash } from "node:crypto";
import { closeSync, openSync, readSync, statSync } from "node:fs";
import { join } from "node:path";
import { sentence } from "../../../proto/base/errors.ts";
import { log } from "../../log.ts";

/** How long it counts that there can be no archive of a kind. Milliseconds. */
const IN_VAIN_MS = 3_600_000;
/** All archives of a user together. Bytes. */
const MAX_BYTES = 1 << 30;
const CHUNK_BYTES = 1 << 20;

/** How a {@link ClassArchives} is bounded. */
export interface ClassArchivesOptions {
  /** Where they are. Its parent exists. Absolute. */
  readonly directory: string;
  /** How many there may be. */
  readonly max: number;
  /** How large they may be together. Bytes. @default 1 GiB */
  readonly maxBytes?: number;
}

/** What is written beside an archive. */
interface Note {
  /** Of the archive's content, in hex; undefined: there can be none. */
  sha256?: string;
  /** The file, as it was when its content was looked at. */
  file?: string;
  /** Why there can be none, in one sentence. */
  why?: string;
}

/** See the file's head. */
export class ClassArchives {
  readonly #options: ClassArchivesOptions;

  constructor(options: ClassArchivesOptions) {
    this.#options = options;
  }

  /** The folder that sessions see. Absolute. */
  get kept(): string {
    return join(this.#options.directory, "kept");
  }

  /** The folder of the agent that makes one. Absolute. */
  get making(): string {
    return join(this.#options.directory, "making");
  }

  /** Makes the folder that sessions see, for who shall see it. Throws what the disk throws. */
  prepare(): void {
    // Sessions of root are others than the agent, and read what everybody may. Above it, the storage is closed.
    for (const folder of [this.#options.directory, this.kept]) {
      Deno.mkdirSync(folder, { recursive: true });
      Deno.chmodSync(folder, 0o755);
    }
  }

  /**
   * The archive of a kind, by its path; it counts as used now. One that is not what was put here is removed. Undefined: there
   * is none.
   */
  find(key: string): string | undefined {
    const note = this.#note(key);
    if (note?.sha256 === undefined) return undefined;
    const path = this.#archive(key);
    try {
      const file = appearance(path);
      if (file !== note.file) {
        // Another's doing, or a backup that was put back: only the content tells.
        if (digest(path) !== note.sha256) throw new Error("it is damaged");
        this.#write(key, { ...note, file });
      }
      const now = new Date();
      Deno.utimeSync(this.#noteFile(key), now, now);
      return path;
    } catch (e) {
      log(`the class-data archive ${path} is not used (${sentence(e)})`);
      this.#remove(key);
      return undefined;
    }
  }

  /** Whether there is none of a kind, and can be one. */
  isWanted(key: string): boolean {
    const note = this.#note(key);
    return note === undefined || (note.sha256 === undefined && Date.now() - this.#usedAt(key) > IN_VAIN_MS);
  }

  /**
   * For the one who makes an archive, until it is disposed of or its process ends: `making` is there, and empty. Undefined:
   * somebody is at it. Rejects with what the disk says.
   */
  async begin(): Promise<Disposable | undefined> {
    const file = await Deno.open(join(this.#options.directory, "lock"), { write: true, create: true, mode: 0o600 });
    if (!await file.tryLock(true)) {
      file.close();
      return undefined;
    }
    try {
      // Of an agent that was killed.
      this.#clear();
      Deno.mkdirSync(this.making, { mode: 0o700 });
    } catch (e) {
      file.close();
      throw e;
    }
    return {
      [Symbol.dispose]: () => {
        try {
          this.#clear();
        } catch (e) {
          log(`${this.making} could not be removed (${sentence(e)})`);
        }
        file.close();
      },
    };
  }

  /**
   * Keeps a new archive, which is moved. Only between {@link begin} and its end. Throws what the disk throws, and a RangeError
   * for one that is larger than all may be.
   */
  keep(key: string, made: string): void {
    if (size(made) > this.#maxBytes) throw new RangeError(`it is larger than ${this.#maxBytes} bytes`);
    const sha256 = digest(made);
    Deno.chmodSync(made, 0o444);
    Deno.renameSync(made, this.#archive(key));
    this.#write(key, { sha256, file: appearance(this.#archive(key)) });
    this.#trim(key);
  }

  /** Remembers that there can be none of a kind. Throws what the disk throws. */
  giveUp(key: string, why: string): void {
    this.#write(key, { why });
    this.#trim(key);
  }

  /** Removes those that were not used for longest, until the others are within the bounds; and what is no archive. */
  #trim(newest: string): void {
    const keys = new Set<string>();
    for (const { name } of Deno.readDirSync(this.kept)) {
      const key = /^([0-9a-f]{32})\.(jsa|json)$/.exec(name)?.[1];
      if (key !== undefined && (name === `${key}.json` || this.#note(key))) keys.add(key);
      else Deno.removeSync(join(this.kept, name), { recursive: true });
    }
    const byUse = [...keys].map((key) => ({ key, used: key === newest ? Infinity : this.#usedAt(key) }))
      .sort((a, b) => b.used - a.used);
    let bytes = 0;
    for (const [rank, { key }] of byUse.entries()) {
      bytes += size(this.#archive(key));
      if (rank >= this.#options.max || bytes > this.#maxBytes) this.#remove(key);
    }
  }

  get #maxBytes(): number {
    return this.#options.maxBytes ?? MAX_BYTES;
  }

  #archive(key: string): string {
    return join(this.kept, `${key}.jsa`);
  }

  #noteFile(key: string): string {
    return join(this.kept, `${key}.json`);
  }

  #note(key: string): Note | undefined {
    try {
      return JSON.parse(Deno.readTextFileSync(this.#noteFile(key)));
    } catch {
      return undefined;
    }
  }

  #write(key: string, note: Note): void {
    // By its name it appears as a whole.
    const fresh = join(this.kept, `${key}.${crypto.randomUUID()}`);
    try {
      Deno.writeTextFileSync(fresh, JSON.stringify(note));
      Deno.renameSync(fresh, this.#noteFile(key));
    } catch (e) {
      removeIfThere(fresh);
      throw e;
    }
  }

  #usedAt(key: string): number {
    return statSync(this.#noteFile(key), { throwIfNoEntry: false })?.mtimeMs ?? 0;
  }

  /** A server that maps it keeps it. */
  #remove(key: string): void {
    for (const path of [this.#noteFile(key), this.#archive(key)]) removeIfThere(path);
  }

  #clear(): void {
    removeIfThere(this.making, true);
  }
}

function removeIfThere(path: string, recursive = false): void {
  try {
    Deno.removeSync(path, { recursive });
  } catch (e) {
    if (!(e instanceof Deno.errors.NotFound)) throw e;
  }
}

function size(path: string): number {
  return statSync(path, { throwIfNoEntry: false })?.size ?? 0;
}

/** What changes whenever somebody changes the file: nobody can set the time of the last change. */
function appearance(path: string): string {
  const { dev, ino, size, ctimeMs } = statSync(path);
  return [dev, ino, size, ctimeMs].join();
}

/** SHA-256 of a file's content, in hex. 50 MB take some 50 ms. */
function digest(path: string): string {
  const hash = createHash("sha256");
  const chunk = new Uint8Array(CHUNK_BYTES);
  const fd = openSync(path, "r");
  try {
    for (let n = 0; (n = readSync(fd, chunk)) > 0;) hash.update(chunk.subarray(0, n));
  } finally {
    closeSync(fd);
  }
  return hash.digest("hex");
}
