/** Reads frames from the transport. */
import { Buffer } from "node:buffer";
import type { Transport } from "../transport.ts";
import { ConnectionError } from "./errors.ts";
import { ErrorCode, FRAME_HEADER_BYTES } from "./frames.ts";
import type { Lifecycle } from "./lifecycle.ts";
import type { PeerBudget } from "./peer_budget.ts";

/** Initial size of the buffer in bytes: an idle connection costs no more. */
const FIRST_READ_BYTES = 4 << 10;
/** Size of the buffer once a known peer has filled the first, in bytes. */
const READ_BYTES = 1 << 17;
/** Maximum number of bytes read and discarded for a peer that broke the rules. */
const MAX_DISCARDED = 64 << 10;

/** Takes the frames. */
interface FrameHandler {
  /** May throw, which ends the reading. @param payload Valid during the call. */
  frame(type: number, flags: number, streamId: number, payload: Buffer): void;
}

/** Whom a reader tells how it ended. Exactly one is called, in the turn in which the transport told it. */
interface ReaderOwner {
  /** The peer closed the connection, or the connection is over. */
  ended(): void;
  /** The client's preface is another one. */
  noHttp2(): void;
  /** The transport or the handler has thrown. */
  failed(error: unknown): void;
}

export class FrameReader {
  readonly #transport: Transport;
  readonly #lifecycle: Lifecycle;
  readonly #budget: PeerBudget;
  /** Bytes of the buffer that count for a stranger. */
  #held = 0;
  /** When bytes last arrived, by performance.now(). */
  #heardAt = performance.now();

  constructor(transport: Transport, lifecycle: Lifecycle, budget: PeerBudget) {
    this.#transport = transport;
    this.#lifecycle = lifecycle;
    this.#budget = budget;
  }

  /** When bytes last arrived, by performance.now(). */
  get heardAt(): number {
    return this.#heardAt;
  }

  /** The peer is known: the buffer does not count for it any more. */
  becomeKnown(): void {
    this.#held = 0;
  }

  /** Reads frames until the end. @param preface What has to come before them. */
  async read(preface: Uint8Array, handler: FrameHandler, owner: ReaderOwner): Promise<void> {
    let buffer = Buffer.allocUnsafeSlow(FIRST_READ_BYTES);
    // Bytes from `at` to `filled` are not processed yet.
    let at = 0, filled = 0;
    let awaited = preface.length;
    try {
      for (;;) {
        const n = await this.#transport.read(buffer.subarray(filled));
        if (n === null || !this.#lifecycle.allows.receives) return owner.ended();
        this.#heardAt = performance.now();
        filled += n;
        if (awaited > 0) {
          const length = Math.min(filled, awaited);
          if (!buffer.subarray(0, length).equals(preface.subarray(0, length))) return owner.noHttp2();
          if (filled < awaited) continue;
          at = awaited;
          awaited = 0;
        }
        let need = FRAME_HEADER_BYTES;
        while (filled - at >= FRAME_HEADER_BYTES) {
          const length = buffer.readUIntBE(at, 3);
          if (length > this.#budget.limits.frameBytes) {
            throw new ConnectionError(ErrorCode.FRAME_SIZE_ERROR, `a frame of ${length} bytes`);
          }
          need = FRAME_HEADER_BYTES + length;
          if (filled - at < need) break;
          const payload = buffer.subarray(at + FRAME_HEADER_BYTES, at + need);
          handler.frame(buffer[at + 3], buffer[at + 4], buffer.readUInt32BE(at + 5) & 0x7fffffff, payload);
          if (!this.#lifecycle.allows.receives) return owner.ended();
          at += need;
          need = FRAME_HEADER_BYTES;
        }
        const full = filled === buffer.length;
        if (at === filled) at = filled = 0;
        if (need > buffer.length || (full && buffer.length < READ_BYTES && !this.#budget.stranger)) {
          const larger = this.#allocate(need);
          buffer.copy(larger, 0, at, filled);
          buffer = larger;
          filled -= at;
          at = 0;
        } else if (at + need > buffer.length) {
          // The start of a frame is moved only if the rest does not fit behind it.
          buffer.copyWithin(0, at, filled);
          filled -= at;
          at = 0;
        }
      }
    } catch (e) {
      owner.failed(e);
    }
  }

  /** A larger buffer. A stranger's is only as large as its frame, and is counted. */
  #allocate(need: number): Buffer<ArrayBuffer> {
    if (!this.#budget.stranger) return Buffer.allocUnsafeSlow(Math.max(READ_BYTES, 4 * need));
    this.#budget.hold(need - this.#held);
    this.#held = need;
    return Buffer.allocUnsafeSlow(need);
  }

  /** Reads and discards what a peer still sends that broke the rules, so that it can read the GOAWAY. */
  async discard(): Promise<void> {
    const into = Buffer.allocUnsafeSlow(FIRST_READ_BYTES);
    try {
      for (let most = MAX_DISCARDED; most > 0 && this.#lifecycle.state.name !== "over";) {
        most -= await this.#transport.read(into) ?? most;
      }
    } catch { /* it is over */ }
  }
}
