/** Turns what streams send into frames, as far as the peer's windows allow. */
import { Buffer } from "node:buffer";
import { ConnectionError } from "./errors.ts";
import { encodeFrame, ErrorCode, Flag, frameHeader, FrameType } from "./frames.ts";
import { encodeHeaders, type Headers } from "./hpack.ts";
import type { Outbox } from "./outbox.ts";
import type { PeerBudget } from "./peer_budget.ts";
import type { Stream } from "./stream.ts";
import type { Streams } from "./streams.ts";

/** Maximum size of a window (RFC 9113, 6.9.1). */
const MAX_WINDOW = 0x7fffffff;
/** HPACK for "my table is empty from here on". */
const NO_TABLE = Uint8Array.of(0x20);

export class Sender {
  readonly #outbox: Outbox;
  readonly #streams: Streams;
  readonly #budget: PeerBudget;
  /** The connection's window. */
  #window = 65_535;
  #streamWindow = 65_535;
  #maxFrame = 16_384;
  /** The peer asked for a smaller table. We use none, which the next header block must say (RFC 7541, 4.2). */
  #tableShrunk = false;

  constructor(outbox: Outbox, streams: Streams, budget: PeerBudget) {
    this.#outbox = outbox;
    this.#streams = streams;
    this.#budget = budget;
  }

  /** The window that a new stream has, in bytes. */
  get streamWindow(): number {
    return this.#streamWindow;
  }

  /** Sends headers or trailers, in several frames if necessary. */
  sendHeaderBlock(stream: Stream, headers: Headers, endStream: boolean): void {
    let block = encodeHeaders(headers);
    if (this.#tableShrunk) block = Buffer.concat([NO_TABLE, block]);
    this.#tableShrunk = false;
    for (let at = 0, first = true; first || at < block.length; first = false) {
      const part = block.subarray(at, at += this.#maxFrame);
      const flags = (at >= block.length ? Flag.END_HEADERS : 0) | (first && endStream ? Flag.END_STREAM : 0);
      this.#outbox.send(encodeFrame(first ? FrameType.HEADERS : FrameType.CONTINUATION, flags, stream.id, part));
    }
    if (endStream) this.#streams.localEnd(stream);
  }

  /** Moves bytes from the stream's queue to the outbox, as far as the windows allow. */
  pump(stream: Stream): void {
    if (stream.localClosed) return;
    while (stream.queue.length > 0) {
      const bytes = stream.queue[0], released = stream.released.get(bytes);
      const length = Math.min(bytes.length, stream.sendWindow, this.#window, this.#maxFrame);
      if (length <= 0) {
        this.#streams.blocked.add(stream);
        return;
      }
      this.#outbox.send(frameHeader(length, FrameType.DATA, 0, stream.id));
      if (released) stream.released.delete(bytes);
      if (length === bytes.length) {
        stream.queue.shift();
        if (released) this.#outbox.whenReleased(bytes, released);
        this.#outbox.send(bytes);
      } else {
        const rest = stream.queue[0] = bytes.subarray(length);
        if (released) stream.released.set(rest, released);
        this.#outbox.send(bytes.subarray(0, length));
      }
      stream.sendWindow -= length;
      this.#window -= length;
      this.#budget.usefulData(length);
    }
    this.#streams.blocked.delete(stream);
    if (stream.queuedTrailers) {
      const { headers } = stream.queuedTrailers;
      if (headers) this.sendHeaderBlock(stream, headers, true);
      else {
        this.#outbox.send(frameHeader(0, FrameType.DATA, Flag.END_STREAM, stream.id));
        this.#streams.localEnd(stream);
      }
    } else if (!this.#outbox.congested) stream.wake();
  }

  /** Sends what the windows now allow of all streams. */
  pumpAll(): void {
    for (const stream of [...this.#streams.blocked]) this.pump(stream);
  }

  /** The peer allows more bytes on the connection. */
  growWindow(bytes: number): void {
    this.#window += bytes;
    if (this.#window > MAX_WINDOW) throw new ConnectionError(ErrorCode.FLOW_CONTROL_ERROR, "the window overflows");
    this.pumpAll();
  }

  /** The peer allows more bytes on a stream. */
  growStreamWindow(stream: Stream, bytes: number): void {
    stream.sendWindow += bytes;
    if (stream.sendWindow > MAX_WINDOW) return this.#streams.reset(stream, ErrorCode.FLOW_CONTROL_ERROR);
    if (this.#streams.blocked.has(stream)) this.pump(stream);
  }

  /** The peer's SETTINGS_INITIAL_WINDOW_SIZE. Windows of open streams may become negative. */
  setStreamWindow(bytes: number): void {
    if (bytes > MAX_WINDOW) {
      throw new ConnectionError(ErrorCode.FLOW_CONTROL_ERROR, "the initial window is too large");
    }
    for (const stream of this.#streams.open.values()) {
      stream.sendWindow += bytes - this.#streamWindow;
      if (stream.sendWindow > MAX_WINDOW) {
        throw new ConnectionError(ErrorCode.FLOW_CONTROL_ERROR, "a window overflows");
      }
    }
    this.#streamWindow = bytes;
  }

  /** The peer's SETTINGS_HEADER_TABLE_SIZE. */
  setTableSize(bytes: number): void {
    this.#tableShrunk ||= bytes < 4096;
  }

  /** The peer's SETTINGS_MAX_FRAME_SIZE. */
  setMaxFrame(bytes: number): void {
    if (bytes < 16_384 || bytes > 0xffffff) throw new ConnectionError(ErrorCode.PROTOCOL_ERROR, "the frame size");
    // Larger frames gain nothing, and a stream sends a whole frame before another stream's turn.
    this.#maxFrame = Math.min(bytes, 1 << 17);
  }
}
