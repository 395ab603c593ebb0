/**
 * gRPC's length-prefixed messages within a stream of HTTP/2 DATA, whose borders have nothing to do with theirs:
 *
 *     [flags: 1 byte][length: 4 bytes, big endian][message] [flags][length][message] …
 */
import { Buffer } from "node:buffer";
import { WireError } from "../../base/protobuf_fields.ts";

/** The largest message that is taken apart. Bazel's own are at most a few MB (a command line with its environment). */
export const MAX_MESSAGE_BYTES = 256 << 20;

/** Gathers messages and changes each as it passes. */
export class MessageStream {
  #pending: Buffer[] = [];
  #pendingBytes = 0;
  /** Bytes that must be there before it makes sense to look again. */
  #needed = 5;
  readonly #patch: (message: Buffer) => Uint8Array[] | undefined;
  readonly #limit: number;

  /**
   * @param patch Gets each message (without its prefix) and returns the pieces that replace it; undefined drops it, while
   * no pieces are an empty message.
   * @param limit The largest message, in bytes; a larger one makes {@link push} throw a RangeError before it is gathered.
   */
  constructor(patch: (message: Buffer) => Uint8Array[] | undefined, limit: number = MAX_MESSAGE_BYTES) {
    this.#patch = patch;
    this.#limit = limit;
  }

  /** True if no part of a message is waiting for its rest. */
  get atBoundary(): boolean {
    return this.#pendingBytes === 0;
  }

  /**
   * Takes the next bytes (they stay the caller's); returns what can be passed on now, or undefined. Throws a WireError on
   * what is no plain message: nobody on this path compresses. After an error the stream is of no use any more.
   */
  push(chunk: Uint8Array): Buffer | undefined {
    let data: Buffer = Buffer.from(chunk.buffer, chunk.byteOffset, chunk.byteLength);
    if (this.#pendingBytes > 0) {
      this.#pending.push(Buffer.from(data));
      this.#pendingBytes += data.length;
      // A large message comes in many chunks: put them together once, not at each.
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

/** What stands in front of a message of so many bytes. */
export function framePrefix(length: number): Buffer {
  const prefix = Buffer.allocUnsafe(5);
  prefix[0] = 0;
  prefix.writeUInt32BE(length, 1);
  return prefix;
}
