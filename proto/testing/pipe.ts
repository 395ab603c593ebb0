/** Test doubles of a network: a byte stream in memory, and an HTTP/2 peer that sends exactly what a test wants. */
import { Buffer } from "node:buffer";
import type { Transport } from "../transport/transport.ts";
import { FRAME_HEADER_BYTES, frameHeader, FrameType, settingsFrame } from "../transport/http2/frames.ts";

/** One end of a byte stream in memory. Writes wait while the other end holds `capacity` unread bytes. */
export class PipeEnd implements Transport {
  #other!: PipeEnd;
  #held: Uint8Array[] = [];
  #heldBytes = 0;
  #closed = false;
  #changed = Promise.withResolvers<void>();
  /** All bytes that were written into this end so far. */
  written = 0;
  /** Throws from reads and writes of this end when it returns an error. */
  fault: (operation: "read" | "write") => Error | undefined = () => undefined;
  /** The most that one read returns, in bytes. */
  grain = Infinity;

  private constructor(readonly capacity: number) {}

  /** Two ends that are connected. */
  static pair(capacity = 1 << 16): [PipeEnd, PipeEnd] {
    const a = new PipeEnd(capacity), b = new PipeEnd(capacity);
    a.#other = b;
    b.#other = a;
    return [a, b];
  }

  get closed(): boolean {
    return this.#closed;
  }

  async read(into: Uint8Array): Promise<number | null> {
    for (;;) {
      const error = this.fault("read");
      if (error) throw error;
      if (this.#closed) throw new Error("the pipe was closed");
      if (this.#held.length > 0) break;
      if (this.#other.#closed) return null;
      await this.#changed.promise;
    }
    const first = this.#held[0];
    const length = Math.min(first.length, into.length, this.grain);
    into.set(first.subarray(0, length));
    if (length === first.length) this.#held.shift();
    else this.#held[0] = first.subarray(length);
    this.#heldBytes -= length;
    this.#other.#change();
    return length;
  }

  async write(bytes: Uint8Array): Promise<number> {
    const to = this.#other;
    for (;;) {
      const error = this.fault("write");
      if (error) throw error;
      if (this.#closed || to.#closed) throw new Error("the pipe is broken");
      if (to.#heldBytes < this.capacity) break;
      await this.#changed.promise;
    }
    const length = Math.min(bytes.length, this.capacity - to.#heldBytes);
    // A Buffer's own slice would be a view.
    to.#held.push(Uint8Array.prototype.slice.call(bytes, 0, length));
    to.#heldBytes += length;
    this.written += length;
    to.#change();
    return length;
  }

  close(): void {
    this.#closed = true;
    this.#change();
    this.#other.#change();
  }

  /** Makes those who wait look again, after {@link fault} was changed. */
  poke(): void {
    this.#change();
  }

  #change(): void {
    this.#changed.resolve();
    this.#changed = Promise.withResolvers();
  }
}

/** A received frame. */
export interface Frame {
  type: number;
  flags: number;
  stream: number;
  payload: Buffer;
}

/** An HTTP/2 peer by hand. */
export class RawPeer {
  #buffer: Buffer = Buffer.alloc(0);
  readonly #chunk = new Uint8Array(1 << 16);

  /** @param transport Its own end. */
  constructor(readonly transport: Transport) {}

  /** Writes all of the bytes, whatever they are. */
  async send(...parts: Uint8Array[]): Promise<void> {
    const bytes = Buffer.concat(parts);
    for (let at = 0; at < bytes.length;) at += await this.transport.write(bytes.subarray(at));
  }

  /** Writes one frame, whatever its payload. */
  frame(type: number, flags: number, stream: number, payload: Uint8Array = new Uint8Array()): Promise<void> {
    return this.send(frameHeader(payload.length, type, flags, stream), payload);
  }

  /** Settings, as the first frame must be. */
  settings(...settings: [number, number][]): Promise<void> {
    return this.send(settingsFrame(settings));
  }

  /** Takes `length` bytes off, or undefined at the end. */
  async take(length: number): Promise<Buffer | undefined> {
    while (this.#buffer.length < length) {
      const n = await this.transport.read(this.#chunk).catch(() => null);
      if (n === null) return undefined;
      this.#buffer = Buffer.concat([this.#buffer, this.#chunk.subarray(0, n)]);
    }
    const taken = this.#buffer.subarray(0, length);
    this.#buffer = this.#buffer.subarray(length);
    return taken;
  }

  /** The next frame, or undefined at the end. */
  async next(): Promise<Frame | undefined> {
    const header = await this.take(FRAME_HEADER_BYTES);
    if (!header) return undefined;
    const payload = await this.take(header.readUIntBE(0, 3));
    return payload && { type: header[3], flags: header[4], stream: header.readUInt32BE(5), payload };
  }

  /** The next frame of a type; others are skipped. Undefined at the end. */
  async nextOf(type: number): Promise<Frame | undefined> {
    for (;;) {
      const frame = await this.next();
      if (!frame || frame.type === type) return frame;
    }
  }

  /** The error code of the GOAWAY that comes; undefined if the connection ends without one. */
  async goaway(): Promise<number | undefined> {
    return (await this.nextOf(FrameType.GOAWAY))?.payload.readUInt32BE(4);
  }
}

/** Small pseudo-random numbers that are the same in each run (mulberry32). */
export function random(seed: number): (below: number) => number {
  let state = seed;
  return (below) => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) % below;
  };
}
