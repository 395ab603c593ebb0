/** A node:tls socket as a {@link Transport}, for a reader that keeps up. */
import type { TLSSocket } from "node:tls";
import type { Transport } from "../transport.ts";

/**
 * Bytes that may wait for the reader, more than our HTTP/2 lets a peer have on its way to us. A connection whose reader
 * lets more come together is given up.
 *
 * It is not held back instead, because it cannot be: in Deno 2.9.6 a node:tls socket that is paused goes on receiving,
 * without a limit and where nobody sees it; and if the connection ends meanwhile, that is never told. (Nor can it be read
 * by "readable" events: those pause it as well.) Our HTTP/2 takes what comes as it comes, and holds its peers back by its
 * windows, so that all of this is for a reader with a fault.
 */
const MAX_HELD = 32 << 20;

/** How long the kernel may take to say whether an ended connection can be written to. Milliseconds. */
const ANSWER_MS = 1_000;

/** Takes a connected socket over, before anything was read of it. */
export class SocketTransport implements Transport {
  readonly #socket: TLSSocket;
  /** What came, and was not read yet; of the first, bytes before `#at` were. */
  readonly #held: Uint8Array[] = [];
  #at = 0;
  #heldBytes = 0;
  /** A reader that waits. */
  #into?: { bytes: Uint8Array; done: (length: number) => void };
  #ended: boolean;
  #error?: Error;
  #changed = () => {};
  /** Those who wait for their writes: a socket that is destroyed need not call them all back. */
  readonly #writes = new Set<(e: Error) => void>();

  /**
   * @param options `flows`, unless it is false: it takes what comes by itself; otherwise whoever made the socket calls
   * {@link receive}. `onReceived`: told how many bytes came, once they were taken.
   */
  constructor(
    socket: TLSSocket,
    { flows = true, onReceived }: { flows?: boolean; onReceived?(bytes: number): void } = {},
  ) {
    this.#socket = socket;
    this.#ended = socket.destroyed;
    if (flows) {
      socket.on("data", (chunk: Uint8Array) => {
        this.receive(chunk);
        onReceived?.(chunk.length);
      });
    }
    socket.on("end", () => this.#askHowItEnded());
    socket.on("close", () => this.#end(new Error("the connection was closed")));
    socket.on("error", (e) => {
      this.#error ??= e;
      this.#end(e);
    });
  }

  /**
   * Deno 2.9.6 says "end" for a connection that was reset, too (read() gives ECONNRESET, and its TLS takes that for the
   * end). A write tells: it fails at once with EPIPE after a reset, and not after an end. Nobody reads what is written,
   * since a peer of HTTP/2 that has ended has closed.
   */
  #askHowItEnded(): void {
    const socket = this.#socket;
    // Behind what waits already, the answer might not come.
    if (!socket.writable || socket.writableLength > 0) return this.#end();
    const timer = setTimeout(() => this.#end(), ANSWER_MS);
    socket.write(Uint8Array.of(0), (e) => {
      clearTimeout(timer);
      if (e) this.#error ??= new Error("the connection was reset", { cause: e });
      this.#end(this.#error);
    });
  }

  /** @param error For those who write. Who reads gets the end in order, unless there was a real one. */
  #end(error?: Error): void {
    this.#ended = true;
    this.#changed();
    if (!error) return;
    for (const reject of this.#writes) reject(error);
    this.#writes.clear();
  }

  /** Takes what came; the bytes are only lent. */
  receive(chunk: Uint8Array): void {
    if (this.#into) {
      // The usual case: the reader waits already.
      const { bytes, done } = this.#into;
      const length = Math.min(chunk.length, bytes.length);
      bytes.set(chunk.subarray(0, length));
      this.#into = undefined;
      done(length);
      chunk = chunk.subarray(length);
    }
    if (chunk.length === 0) return;
    this.#held.push(new Uint8Array(chunk)); // a copy
    this.#heldBytes += chunk.length;
    if (this.#heldBytes > MAX_HELD) this.#socket.destroy(new Error("more came than was read"));
    this.#changed();
  }

  /** Waits until something can be read. False: that is the end. */
  async readable(): Promise<boolean> {
    while (this.#heldBytes === 0) {
      if (this.#error) throw this.#error;
      if (this.#ended) return false;
      await new Promise<void>((resolve) => this.#changed = resolve);
    }
    return true;
  }

  /** One read at a time. */
  async read(into: Uint8Array): Promise<number | null> {
    if (this.#heldBytes === 0 && !this.#ended) {
      const length = await new Promise<number>((resolve) => {
        this.#into = { bytes: into, done: resolve };
        this.#changed = () => resolve(0);
      });
      this.#into = undefined;
      if (length > 0) return length;
    }
    if (this.#heldBytes === 0 && !await this.readable()) return null;
    let length = 0;
    while (this.#held.length > 0 && length < into.length) {
      const first = this.#held[0];
      const taken = Math.min(first.length - this.#at, into.length - length);
      into.set(first.subarray(this.#at, this.#at + taken), length);
      length += taken;
      this.#at += taken;
      if (this.#at < first.length) break;
      this.#held.shift();
      this.#at = 0;
    }
    this.#heldBytes -= length;
    return length;
  }

  /** Resolves with all of the bytes' number, when their memory may be used again. */
  write(bytes: Uint8Array): Promise<number> {
    if (this.#error || this.#socket.destroyed) {
      return Promise.reject(this.#error ?? new Error("the connection was closed"));
    }
    return new Promise((resolve, reject) => {
      this.#writes.add(reject);
      this.#socket.write(bytes, (e) => {
        this.#writes.delete(reject);
        if (e) reject(e);
        else resolve(bytes.length);
      });
    });
  }

  close(): void {
    this.#socket.destroy();
  }
}
