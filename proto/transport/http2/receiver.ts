/** Handles the peer's frames: finds each one's stream, checks it against the rules and limits, and tells the owner. */
import { Buffer } from "node:buffer";
import { ConnectionError, StreamError } from "./errors.ts";
import { encodeFrame, ErrorCode, Flag, FrameType, numberFrame, Setting } from "./frames.ts";
import { type Headers, HpackDecoder } from "./hpack.ts";
import type { Outbox } from "./outbox.ts";
import type { PeerBudget } from "./peer_budget.ts";
import type { Sender } from "./sender.ts";
import { Stream, type StreamConnection } from "./stream.ts";
import type { Streams } from "./streams.ts";

/** Maximum number of frames of one header block. */
const MAX_HEADER_PARTS = 128;
/** Maximum number of header blocks of a stream: response headers and trailers. The receiver keeps them all. */
const MAX_HEADER_BLOCKS = 8;
/** What a stranger's stream counts for beside its bytes. */
const STREAM_COST = 2 << 10;
/** A reset that undoes our work counts as this many frames. */
const RESET_FRAMES = 16;

/** Options of {@link Receiver}. */
interface ReceiverOptions {
  role: "client" | "server";
  /** The connection of new streams. */
  connection: StreamConnection;
  /** Server only: called for each new stream, before its data. */
  onStream?(stream: Stream, headers: Headers): void;
  /** The peer does not serve streams after `last`. */
  onGoAway(last: number, code: number): void;
}

export class Receiver {
  readonly #options: ReceiverOptions;
  readonly #outbox: Outbox;
  readonly #streams: Streams;
  readonly #sender: Sender;
  readonly #budget: PeerBudget;
  readonly #decoder = new HpackDecoder();
  /** Bytes of the connection's window that the peer has used, and not been given back. */
  #unacknowledged = 0;
  /** The header block whose end has not come yet. */
  #headerBlock?: { stream: number; parts: Uint8Array[]; bytes: number; endStream: boolean };
  #highestPeerId = 0;
  #requests = 0;

  constructor(outbox: Outbox, streams: Streams, sender: Sender, budget: PeerBudget, options: ReceiverOptions) {
    this.#options = options;
    this.#outbox = outbox;
    this.#streams = streams;
    this.#sender = sender;
    this.#budget = budget;
  }

  /** The last stream that the peer has opened, for a GOAWAY. */
  get highestPeerId(): number {
    return this.#highestPeerId;
  }

  /** Handles one frame. @param payload Valid during the call. */
  frame(type: number, flags: number, id: number, payload: Buffer): void {
    if (this.#headerBlock && (type !== FrameType.CONTINUATION || id !== this.#headerBlock.stream)) {
      throw new ConnectionError(ErrorCode.PROTOCOL_ERROR, "a header block is interrupted");
    }
    this.#budget.count(1);
    switch (type) {
      case FrameType.DATA:
        return this.#onData(flags, id, payload);
      case FrameType.HEADERS: {
        if (id === 0) throw new ConnectionError(ErrorCode.PROTOCOL_ERROR, "headers without a stream");
        let part = this.#unpadded(flags, payload);
        if (flags & Flag.PRIORITY) {
          if (part.length < 5) throw new ConnectionError(ErrorCode.FRAME_SIZE_ERROR, "HEADERS");
          part = part.subarray(5);
        }
        this.#headerBlock = { stream: id, parts: [], bytes: 0, endStream: (flags & Flag.END_STREAM) !== 0 };
        return this.#onHeaderPart(flags, part);
      }
      case FrameType.CONTINUATION:
        if (!this.#headerBlock) throw new ConnectionError(ErrorCode.PROTOCOL_ERROR, "a continuation of nothing");
        return this.#onHeaderPart(flags, payload);
      case FrameType.RST_STREAM: {
        if (payload.length !== 4) throw new ConnectionError(ErrorCode.FRAME_SIZE_ERROR, "RST_STREAM");
        const stream = this.#streams.open.get(id);
        const code = payload.readUInt32BE();
        if (stream) {
          if (this.#options.role === "server") this.#budget.count(RESET_FRAMES);
          this.#outbox.countReset();
          this.#streams.drop(
            stream,
            new StreamError(code, `the peer reset the stream (code ${code})`, code === ErrorCode.REFUSED_STREAM),
          );
        }
        return;
      }
      case FrameType.SETTINGS:
        if (id !== 0) throw new ConnectionError(ErrorCode.PROTOCOL_ERROR, "settings of a stream");
        return this.#onSettings(flags, payload);
      case FrameType.PUSH_PROMISE:
        throw new ConnectionError(ErrorCode.PROTOCOL_ERROR, "push is not enabled");
      case FrameType.PING:
        if (payload.length !== 8) throw new ConnectionError(ErrorCode.FRAME_SIZE_ERROR, "PING");
        if (!(flags & Flag.ACK)) this.#outbox.answer(encodeFrame(FrameType.PING, Flag.ACK, 0, payload));
        return;
      case FrameType.GOAWAY:
        if (payload.length < 8) throw new ConnectionError(ErrorCode.FRAME_SIZE_ERROR, "GOAWAY");
        return this.#options.onGoAway(payload.readUInt32BE() & 0x7fffffff, payload.readUInt32BE(4));
      case FrameType.WINDOW_UPDATE: {
        if (payload.length !== 4) throw new ConnectionError(ErrorCode.FRAME_SIZE_ERROR, "WINDOW_UPDATE");
        const increment = payload.readUInt32BE() & 0x7fffffff;
        if (increment === 0) throw new ConnectionError(ErrorCode.PROTOCOL_ERROR, "a window grows by nothing");
        if (id === 0) return this.#sender.growWindow(increment);
        const stream = this.#streams.open.get(id);
        if (stream) this.#sender.growStreamWindow(stream, increment);
        return;
      }
    }
    // PRIORITY and unknown frame types are ignored, as HTTP/2 requires.
  }

  #unpadded(flags: number, payload: Buffer): Buffer {
    if (!(flags & Flag.PADDED)) return payload;
    if (payload.length < 1 || payload[0] >= payload.length) {
      throw new ConnectionError(ErrorCode.PROTOCOL_ERROR, "wrong padding");
    }
    return payload.subarray(1, payload.length - payload[0]);
  }

  #onHeaderPart(flags: number, part: Uint8Array): void {
    const block = this.#headerBlock!;
    const { headerListBytes, headers: most } = this.#budget.limits;
    block.bytes += part.length;
    if (block.bytes > headerListBytes || block.parts.length >= MAX_HEADER_PARTS) {
      throw new ConnectionError(ErrorCode.ENHANCE_YOUR_CALM, "the headers are too large");
    }
    const last = (flags & Flag.END_HEADERS) !== 0;
    if (!last || block.parts.length > 0) {
      this.#budget.hold(part.length);
      block.parts.push(Buffer.from(part)); // the read buffer is reused
    }
    if (!last) return;
    this.#headerBlock = undefined;
    const whole = block.parts.length > 0 ? Buffer.concat(block.parts) : part;
    const headers = this.#decoder.decode(whole, headerListBytes, most);
    if (block.parts.length > 0) this.#budget.release(block.bytes);
    let stream = this.#streams.open.get(block.stream);
    if (!stream && this.#options.role === "server" && block.stream > this.#highestPeerId) {
      if (block.stream % 2 === 0) throw new ConnectionError(ErrorCode.PROTOCOL_ERROR, "an even stream id");
      this.#highestPeerId = block.stream;
      if (++this.#requests > this.#budget.limits.requests) {
        throw new ConnectionError(ErrorCode.ENHANCE_YOUR_CALM, "too many requests of somebody unknown");
      }
      const { streams } = this.#budget.limits;
      // Streams whose end the peer has not read are still open to it. Twice the limit, since the peer may have read
      // what we do not yet know to be written.
      if (this.#streams.open.size >= streams || this.#outbox.leavingStreams >= 2 * streams) {
        return this.#outbox.answer(numberFrame(FrameType.RST_STREAM, block.stream, ErrorCode.REFUSED_STREAM));
      }
      this.#budget.usefulRequest();
      stream = new Stream(block.stream, this.#options.connection, this.#sender.streamWindow);
      this.#streams.open.set(stream.id, stream);
      this.#streams.hold(stream, STREAM_COST + this.#decoder.listBytes);
      if (!block.endStream) this.#streams.quiet.add(stream);
      const fresh = stream;
      this.#streams.tell(fresh, () => this.#options.onStream?.(fresh, headers));
    } else if (stream && !stream.remoteClosed) {
      if (++stream.headerBlocks > MAX_HEADER_BLOCKS) {
        return this.#streams.reset(stream, ErrorCode.PROTOCOL_ERROR, "too many headers came");
      }
      const known = stream;
      this.#streams.tell(known, () => known.onHeaders(headers));
    }
    // Otherwise the stream is already over.
    if (stream && block.endStream) this.#streams.remoteEnd(stream);
  }

  #onData(flags: number, id: number, payload: Buffer): void {
    if (id === 0) throw new ConnectionError(ErrorCode.PROTOCOL_ERROR, "data without a stream");
    const size = payload.length;
    const stream = this.#streams.open.get(id);
    const { connectionWindow, streamWindow } = this.#budget.limits;
    this.#unacknowledged += size;
    if (this.#unacknowledged >= connectionWindow / 4) {
      // The connection's window follows what was read. What a slow reader holds is bounded by its stream's window.
      this.#outbox.send(numberFrame(FrameType.WINDOW_UPDATE, 0, this.#unacknowledged));
      this.#unacknowledged = 0;
    }
    if (!stream || stream.remoteClosed) {
      this.#budget.countDead(size);
      return;
    }
    stream.received += size;
    if (stream.received > streamWindow) {
      // For a stranger a reset is not enough: its further bytes would still be read.
      if (this.#budget.stranger) throw new ConnectionError(ErrorCode.FLOW_CONTROL_ERROR, "a window overflows");
      return this.#streams.reset(stream, ErrorCode.FLOW_CONTROL_ERROR);
    }
    const data = this.#unpadded(flags, payload);
    if (data.length > 0) {
      this.#streams.quiet.delete(stream);
      this.#budget.usefulData(data.length);
      this.#streams.hold(stream, data.length);
    }
    const taken = data.length > 0 ? this.#streams.tell(stream, () => stream.onData(data)) : undefined;
    if (taken) void taken.then(() => this.#credit(stream, size));
    else this.#credit(stream, size);
    if (flags & Flag.END_STREAM) this.#streams.remoteEnd(stream);
  }

  /** Enlarges the stream's window by what was consumed. */
  #credit(stream: Stream, size: number): void {
    if (stream.remoteClosed) return;
    stream.credit += size;
    if (stream.credit < this.#budget.limits.streamWindow / 4 || !this.#budget.limits.credit) return;
    this.#outbox.send(numberFrame(FrameType.WINDOW_UPDATE, stream.id, stream.credit));
    stream.received -= stream.credit;
    stream.credit = 0;
  }

  #onSettings(flags: number, payload: Buffer): void {
    if (flags & Flag.ACK) {
      if (payload.length > 0) throw new ConnectionError(ErrorCode.FRAME_SIZE_ERROR, "SETTINGS");
      return;
    }
    if (payload.length % 6 !== 0) throw new ConnectionError(ErrorCode.FRAME_SIZE_ERROR, "SETTINGS");
    for (let at = 0; at < payload.length; at += 6) {
      const value = payload.readUInt32BE(at + 2);
      switch (payload.readUInt16BE(at)) {
        case Setting.INITIAL_WINDOW_SIZE:
          this.#sender.setStreamWindow(value);
          break;
        case Setting.HEADER_TABLE_SIZE:
          this.#sender.setTableSize(value);
          break;
        case Setting.MAX_FRAME_SIZE:
          this.#sender.setMaxFrame(value);
          break;
      }
    }
    this.#outbox.answer(encodeFrame(FrameType.SETTINGS, Flag.ACK, 0, new Uint8Array()));
    this.#sender.pumpAll();
  }
}
