/**
 * Sends the files that a command's options name while the command writes them, part by part, as a local Bazel server
 * would write them. A user may be reading along, or the file is a pipe.
 */
import { unref } from "../../proto/base/timers.ts";
import { type Files, type OpenFile } from "../../proto/tree/files.ts";
import { encodeFields } from "../../proto/base/protobuf_fields.ts";
import { encodeName } from "../../proto/tree/names.ts";
import type { NamedFile } from "./named_files.ts";

/** Interval between two looks for new content. Milliseconds. */
const STEP_MS = 100;
/** A larger file of which nothing was sent yet comes with the outputs. Bytes. */
const SMALL_BYTES = 1 << 20;
/** Maximum content of one message. Bytes. */
const PART_BYTES = 256 << 10;

/** Field numbers of NamedPart in command.proto. */
const NamedPart = { path: 1, offset: 2, content: 3 } as const;

/** Takes an encoded NamedPart. A returned promise is awaited. */
export type TakePart = (part: Uint8Array) => Promise<void> | undefined;

/** Follows the named files of one command. */
export class FollowedFiles {
  readonly #files: Files;
  readonly #find: (path: string) => NamedFile | undefined;
  readonly #paths: readonly string[];
  readonly #pipes: ReadonlySet<string>;
  /** Files of which something was sent, and how many bytes. Held open, so that no other file gets their inodes. */
  readonly #sent = new Map<string, { file: OpenFile; ino: number; bytes: number }>();
  #working: Promise<void> = Promise.resolve();
  #timer?: ReturnType<typeof setTimeout>;
  #ended = false;

  /**
   * @param paths The developer's absolute paths.
   * @param pipes Those that are pipes on the laptop: their whole content is sent.
   * @param find Finds a file that the command has written.
   */
  constructor(
    files: Files,
    { paths, pipes, find }: {
      paths: readonly string[];
      pipes: readonly string[];
      find(path: string): NamedFile | undefined;
    },
  ) {
    this.#files = files;
    this.#paths = paths;
    this.#pipes = new Set(pipes);
    this.#find = find;
  }

  /** Sends new content until {@link finish}. */
  begin(take: TakePart): void {
    if (this.#paths.length === 0) return;
    const step = () => {
      this.#working = this.#send(this.#paths, take).catch(() => {}).then(() => {
        if (this.#ended) return;
        this.#timer = setTimeout(step, STEP_MS);
        unref(this.#timer);
      });
    };
    this.#timer = setTimeout(step, STEP_MS);
    unref(this.#timer);
  }

  /**
   * Call it when the command has ended: sends the rest of files that were begun, of pipes, and small files. Never
   * rejects.
   */
  async finish(take: TakePart): Promise<void> {
    this.#ended = true;
    clearTimeout(this.#timer);
    await this.#working;
    await this.#send(this.#paths, take, SMALL_BYTES).catch(() => {});
    for (const { file } of this.#sent.values()) file.close();
    this.#sent.clear();
  }

  /** @param most A larger file of which nothing was sent is skipped, unless it is for a pipe. Bytes. */
  async #send(paths: readonly string[], take: TakePart, most = Infinity): Promise<void> {
    for (const path of paths) {
      const found = this.#find(path);
      if (!found) continue;
      let sent = this.#sent.get(path);
      const { ino, size } = found.info;
      // The next command writes the file again from its start, and what was written to a pipe cannot be taken back.
      if (sent && this.#pipes.has(path) && (sent.ino !== ino || size < sent.bytes)) continue;
      // Another file, or the same from its start.
      if (!sent || sent.ino !== ino || size < sent.bytes) {
        if (!sent && size > most && !this.#pipes.has(path)) continue;
        const file = this.#open(found.here);
        if (!file) continue;
        sent?.file.close();
        this.#sent.set(path, sent = { file, ino: file.stat().ino, bytes: 0 });
      }
      const { file } = sent;
      file.seek(sent.bytes);
      const buffer = new Uint8Array(PART_BYTES);
      // Bounded by the size seen: a program may write as fast as this reads.
      while (sent.bytes < size) {
        const read = file.read(buffer);
        if (read === 0) break;
        const part = encodeFields([
          [NamedPart.path, encodeName(path)],
          [NamedPart.offset, sent.bytes],
          [NamedPart.content, buffer.subarray(0, read)],
        ]);
        sent.bytes += read;
        await take(part);
      }
    }
  }

  #open(path: string): OpenFile | undefined {
    try {
      return this.#files.open(path);
    } catch {
      return undefined; // It is gone again.
    }
  }
}
