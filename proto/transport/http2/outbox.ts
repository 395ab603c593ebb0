/**
 * What waits to be written to the transport: pieces in order, one write at a time.
 *
 *     send ──> pieces ──(joined in a reused buffer)──> transport ──> memory released, streams settled
 */
import { Buffer } from "node:buffer";
import type { Transport } from "../transport.ts";
import { ConnectionError } from "./errors.ts";
import { ErrorCode } from "./frames.ts";
import type { Lifecycle } from "./lifecycle.ts";
import type { Stream } from "./stream.ts";

/** Bytes queued for the transport at which writers have to wait. */
const HIGH_WATER = 1 << 20;
/** Maximum size of one write to the transport, unless a single piece is larger. */
const WRITE_BYTES = 256 << 10;
/**
 * Maximum number of frames that need an answer (PING, SETTINGS, resets) while the peer reads no answers. More is an
 * attack.
 */
const MAX_UNREAD_ANSWERS = 10_000;

/** Whom an outbox tells. */
interface OutboxOwner {
  /** All that was queued a moment ago is written. There may be more. */
  written(): void;
  /** A write failed. */
  broken(error: unknown): void;
  /** Nothing is being written any more: everything was, or the connection is over. */
  idle(): void;
}

export class Outbox {
  readonly #transport: Transport;
  readonly #lifecycle: Lifecycle;
  readonly #owner: OutboxOwner;
  #pieces: Uint8Array[] = [];
  #bytes = 0;
  /** Callbacks for when a piece is no longer used. */
  readonly #released = new Map<Uint8Array, () => void>();
  /** Streams that both sides have ended, but whose last frames are not yet written. */
  readonly #leaving: Stream[] = [];
  #buffer: Buffer = Buffer.alloc(0);
  #flushing = false;
  #unreadAnswers = 0;
  #writingMs = 0;

  constructor(transport: Transport, lifecycle: Lifecycle, owner: OutboxOwner) {
    this.#transport = transport;
    this.#lifecycle = lifecycle;
    this.#owner = owner;
  }

  /** Whether writers have to wait. */
  get congested(): boolean {
    return this.#bytes > HIGH_WATER;
  }

  /** Whether something is being written. */
  get flushing(): boolean {
    return this.#flushing;
  }

  /** How long writes to the transport have taken in total, in milliseconds. */
  get writingMs(): number {
    return this.#writingMs;
  }

  /** Number of streams that wait for their last frames to be written. */
  get leavingStreams(): number {
    return this.#leaving.length;
  }

  /** Queues bytes, which must not change until they are written. */
  send(bytes: Uint8Array): void {
    if (!this.#lifecycle.allows.sends) return;
    this.#pieces.push(bytes);
    this.#bytes += bytes.length;
    if (!this.#flushing) {
      this.#flushing = true;
      // Everything sent in the current turn goes out in one write.
      queueMicrotask(() => this.#flush());
    }
  }

  /** Has `released` called once the memory of this piece may be reused. Not called if it is never sent. */
  whenReleased(piece: Uint8Array, released: () => void): void {
    this.#released.set(piece, released);
  }

  /** Sends a frame that only answers one of the peer. Throws when the peer reads too few answers. */
  answer(bytes: Uint8Array): void {
    if (++this.#unreadAnswers > MAX_UNREAD_ANSWERS) {
      throw new ConnectionError(ErrorCode.ENHANCE_YOUR_CALM, "too many frames to answer");
    }
    this.send(bytes);
  }

  /** Counts a reset of the peer as a frame that was answered: it undoes our work. */
  countReset(): void {
    if (++this.#unreadAnswers > MAX_UNREAD_ANSWERS) {
      throw new ConnectionError(ErrorCode.ENHANCE_YOUR_CALM, "too many resets");
    }
  }

  /** Settles a stream once all that is queued now is written. */
  settleWhenWritten(stream: Stream): void {
    this.#leaving.push(stream);
  }

  /** The streams of {@link settleWhenWritten} whose frames will not be written, since the connection is over. */
  takeLeaving(): Stream[] {
    return this.#leaving.splice(0);
  }

  /** The connection is over: nothing more is written. */
  discard(): void {
    this.#pieces = [];
    this.#released.clear();
  }

  async #flush(): Promise<void> {
    try {
      while (this.#pieces.length + this.#leaving.length > 0 && this.#lifecycle.allows.sends) {
        const leaving = this.#leaving.length;
        // Writes the pieces that are here now, in several writes if necessary. Then the last frames of leaving streams
        // are written.
        for (let pieces = this.#pieces.length; pieces > 0 && this.#lifecycle.allows.sends;) {
          const before = this.#pieces.length;
          const batch = this.#gather();
          pieces -= before - this.#pieces.length;
          const began = performance.now();
          for (let at = 0; at < batch.length;) at += await this.#transport.write(batch.subarray(at));
          this.#writingMs += performance.now() - began;
          this.#release(batch);
          this.#bytes -= batch.length;
        }
        this.#unreadAnswers = 0;
        for (const stream of this.#leaving.splice(0, leaving)) stream.settle();
        this.#owner.written();
      }
    } catch (e) {
      this.#owner.broken(e);
    }
    this.#flushing = false;
    this.#owner.idle();
  }

  /**
   * Takes out up to one write's worth of pieces. Joins them in a reused buffer, since fresh memory of that size costs
   * more than the copy.
   */
  #gather(): Uint8Array {
    const [first] = this.#pieces;
    if (this.#pieces.length === 1 || first.length >= WRITE_BYTES) return this.#pieces.shift()!;
    const size = Math.min(this.#bytes, WRITE_BYTES);
    // Small writes need no buffer that is kept: many connections never send more.
    if (size <= 1 << 10) {
      const batch = Buffer.concat(this.#pieces);
      for (const piece of this.#pieces.splice(0)) this.#release(piece);
      return batch;
    }
    if (this.#buffer.length < size) {
      this.#buffer = Buffer.allocUnsafeSlow(size <= 1 << 14 ? 1 << 14 : WRITE_BYTES);
    }
    let filled = 0, taken = 0;
    for (const piece of this.#pieces) {
      if (filled + piece.length > this.#buffer.length) break;
      this.#buffer.set(piece, filled);
      this.#release(piece);
      filled += piece.length;
      taken++;
    }
    this.#pieces.splice(0, taken);
    return this.#buffer.subarray(0, filled);
  }

  #release(piece: Uint8Array): void {
    const released = this.#released.get(piece);
    if (!released) return;
    this.#released.delete(piece);
    released();
  }
}
