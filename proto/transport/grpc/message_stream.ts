/**
 * gRPC's length-prefixed messages in a stream of HTTP/2 DATA. Frame boundaries are independent of message boundaries:
 *
 *     [flags: 1 byte][length: 4 bytes, big endian][message] [flags][length][message] …
 */
import { Buffer } from "node:buffer";
import { WireError } from "../../base/protobuf_fields.ts";

/** Maximum size of a message, in bytes. Bazel's own are at most a few MB (a command line with its environment). */
export const MAX_MESSAGE_BYTES = 256 << 20;

/** Splits a stream into messages and replaces each as it passes. */
export class MessageStream {
  #pending: Buffer[] = [];
  #pendingBytes = 0;
  /** Number of bytes at which the next attempt makes sense. */
  #needed = 5;
  readonly #patch: (message: Buffer) => Uint8Array[] | undefined;
  readonly #limit: number;

  /**
   * @param patch Gets each message without its prefix. Returns the pieces that replace it: no pieces are an empty
   * message, undefined drops the message.
   * @param limit Maximum size of a message, in bytes. For a larger one {@link push} throws a RangeError before it is
   * collected.
   */
  constructor(patch: (message: Buffer) => Uint8Array[] | undefined, limit: number = MAX_MESSAGE_BYTES) {
    this.#patch = patch;
    this.#limit = limit;
  }

  /** Whether no message is incomplete. */
  get atBoundary(): boolean {
    return this.#pendingBytes === 0;
  }

  /**
   * Processes the next bytes, which the caller keeps. Returns what can be passed on now, or undefined. Throws a
   * WireError for a compressed message, which no peer on this path sends, and for anything that is not a message. After
   * an error the stream is unusable.
   */
  push(chunk: Uint8Array): Buffer | undefined {
    let data: Buffer = Buffer.from(chunk.buffer, chunk.byteOffset, chunk.byteLength);
    if (this.#pendingBytes > 0) {
      this.#pending.push(Buffer.from(data));
      this.#pendingBytes += data.length;
      // A large message comes in many chunks, which are joined once.
      if (this.#pendingBytes < this.#needed) return undefined;
      data = Buffer.concat(this.#pending, this.#pendingBytes);
      this.#pending = [];
      this.#pendingBytes = 0;
    }
    const out: Uint8Array[] = [];
    let at = 0;
    for (;;) {
      const left = data.length - at;
      if (left < 5) {
        this.#needed = 5;
        break;
      }
      if (data[at] !== 0) throw new WireError(`a message is compressed, or is none (its flags are ${data[at]})`);
      const length = data.readUInt32BE(at + 1);
      if (length > this.#limit) {
        throw new RangeError(`a message of ${length} bytes is larger than ${this.#limit} bytes`);
      }
      if (left < 5 + length) {
        this.#needed = 5 + length;
        break;
      }
      const pieces = this.#patch(data.subarray(at + 5, at + 5 + length));
      if (pieces) {
        let size = 0;
        for (const piece of pieces) size += piece.length;
        const prefix = Buffer.allocUnsafe(5);
        prefix[0] = 0;
        prefix.writeUInt32BE(size, 1);
        out.push(prefix, ...pieces);
      }
      at += 5 + length;
    }
    if (at < data.length) {
      this.#pending = [Buffer.from(data.subarray(at))];
      this.#pendingBytes = data.length - at;
    }
    return out.length > 0 ? Buffer.concat(out) : undefined;
  }
}

/** One message with its prefix. */
export function frame(message: Uint8Array): Buffer {
  return Buffer.concat([framePrefix(message.length), message]);
}

/** The prefix of a message of `length` bytes. */
export function framePrefix(length: number): Buffer {
  const prefix = Buffer.allocUnsafe(5);
  prefix[0] = 0;
  prefix.writeUInt32BE(length, 1);
  return prefix;
}
