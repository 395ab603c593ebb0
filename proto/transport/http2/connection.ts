/**
 * HTTP/2 connections, client and server, as far as gRPC needs them: no push, no priorities, no upgrade.
 *
 * Why not node:http2: a command's output takes twice as long through it, and it starts more slowly. In Deno 2.9.6 a
 * GOAWAY that reaches a node:http2 session aborts the process (denoland/deno#36788), and a Bazel server sends GOAWAY
 * whenever it shuts down.
 *
 *     transport ──read──> frames ──> stream.onData (bytes are lent, not given: copy to keep)
 *     stream.write ──> its queue ──(windows)──> outbox ──one write at a time──> transport
 */
import { Buffer } from "node:buffer";
import { unref } from "../../base/timers.ts";
import type { Admission } from "../admission.ts";
import { sentence } from "../../base/errors.ts";
import {
  encodeFrame,
  ErrorCode,
  Flag,
  FRAME_HEADER_BYTES,
  frameHeader,
  FrameType,
  numberFrame,
  PREFACE,
  Setting,
  settingsFrame,
} from "./frames.ts";
import { encodeHeaders, type Headers, HpackDecoder, HpackError } from "./hpack.ts";
import { patientTimer } from "../../base/patient_timer.ts";
import type { Transport } from "../transport.ts";
import { type Http2Limits, KNOWN, STRANGER } from "./limits.ts";

/** Bytes queued for the transport at which writers have to wait. */
const OUTBOX_HIGH_WATER = 1 << 20;
/** Maximum size of one write to the transport, unless a single piece is larger. */
const WRITE_BYTES = 256 << 10;
/** Maximum number of frames of one header block. */
const MAX_HEADER_PARTS = 128;
/** Maximum number of header blocks of a stream: response headers and trailers. The receiver keeps them all. */
const MAX_HEADER_BLOCKS = 8;
/** Initial size of the read buffer in bytes: an idle connection costs no more. */
const FIRST_READ_BYTES = 4 << 10;
/** Size of the read buffer once a known peer has filled the first, in bytes. */
const READ_BYTES = 1 << 17;
/** What a stranger's stream counts for beside its bytes. */
const STREAM_COST = 2 << 10;
/** This many useful bytes compensate one useless frame. */
const USEFUL_BYTES = 32;
/** This many unwanted bytes count as one frame. */
const DEAD_BYTES = 256;
/** Frames without content that a request may have: its end, window updates, a ping. */
const REQUEST_FRAMES = 8;
/** A reset that undoes our work counts as this many frames. */
const RESET_FRAMES = 16;
/**
 * Maximum number of frames that need an answer (PING, SETTINGS, resets) while the peer reads no answers. More is an
 * attack.
 */
const MAX_UNREAD_ANSWERS = 10_000;
/** With keep-alive, a peer that was silent for this long gets a PING. Milliseconds. */
const QUIET_MS = 4_000;
/** Timeout for the answer to that PING, in milliseconds. With QUIET_MS and KEEP_ALIVE_STEP_MS it stays below 10 s. */
const ANSWER_MS = 3_500;
/** The timeout when a caller waits, or when this machine has slept and the peer may have dropped the connection. */
const ANSWER_SOON_MS = 1_500;
/** Interval of the keep-alive check, in milliseconds. */
const KEEP_ALIVE_STEP_MS = 500;
/** How long a peer that broke the rules has to read the GOAWAY, in milliseconds. */
const LAST_WORDS_MS = 1_000;
/** Maximum number of bytes read and discarded in that time. */
const MAX_DISCARDED = 64 << 10;
/** HPACK for "my table is empty from here on". */
const NO_TABLE = Uint8Array.of(0x20);

/**
 * How a connection was lost.
 * - "closed": this side or the peer closed it in order.
 * - "reset": it broke, for example because a NAT or VPN on the way dropped it. The kernel of a peer that died says the
 *   same if the peer had not read everything.
 * - "silent": one side no longer heard from the other. The side that gives up says so in a GOAWAY, which arrives when
 *   the link works again. Without the GOAWAY the other side would take the following end for an orderly one.
 */
export type Loss = "closed" | "reset" | "silent";

/** A stream ended early. */
export class StreamError extends Error {
  override readonly name = "StreamError";
  /**
   * @param code An HTTP/2 error code.
   * @param refused The peer has certainly not processed the stream.
   * @param lost How the connection was lost, if it was.
   */
  constructor(readonly code: number, message: string, readonly refused = false, readonly lost?: Loss) {
    super(message);
  }
}

class ConnectionError extends Error {
  constructor(readonly code: number, message: string) {
    super(message);
  }
}

/** One request and its response. */
export class Stream {
  /** @ignore */ sendWindow: number;
  /** @ignore */ received = 0;
  /** @ignore */ credit = 0;
  /** @ignore Bytes held for the stream while its connection is a stranger's. */ held = 0;
  /** @ignore Start of the stream, by performance.now(). */ readonly began: number = performance.now();
  /** @ignore */ queue: Uint8Array[] = [];
  /** @ignore Callbacks for when bytes of the queue are no longer used. */
  released = new Map<Uint8Array, () => void>();
  /** @ignore */ queuedTrailers: { headers?: Headers } | undefined;
  /** @ignore */ localClosed = false;
  /** @ignore */ remoteClosed = false;
  /** @ignore */ sentHeaders = false;
  /** @ignore Number of header blocks after the first. */ headerBlocks = 0;
  /** Called for each header block: first the headers, then the trailers, if any. */
  onHeaders: (headers: Headers) => void = () => {};
  /** Called with received bytes, which are valid during the call. Flow control waits for the returned promise. */
  onData: (chunk: Uint8Array) => Promise<void> | void = () => {};
  /** Called once when the peer has ended its side. */
  onEnd: () => void = () => {};
  readonly #closed = Promise.withResolvers<StreamError | undefined>();
  readonly #gone = new AbortController();
  #waiting: (() => void)[] = [];

  /** @ignore */
  constructor(readonly id: number, readonly connection: Http2Connection, sendWindow: number) {
    this.sendWindow = sendWindow;
  }

  /**
   * Resolves when the stream is over: with the reason if it was cut off. With undefined if both sides ended it; then
   * everything sent was written to the transport.
   */
  get closed(): Promise<StreamError | undefined> {
    return this.#closed.promise;
  }

  /** Aborted when the stream was cut off: the peer reset it, or the connection was lost. */
  get gone(): AbortSignal {
    return this.#gone.signal;
  }

  /** Sends response headers (or request headers, once). */
  sendHeaders(headers: Headers, endStream = false): void {
    if (this.localClosed) return;
    this.sentHeaders = true;
    this.connection.sendHeaderBlock(this, headers, endStream);
  }

  /**
   * Queues bytes, which must not change afterwards. Resolves when more may be queued, or the stream has ended.
   *
   * @param released Called when the memory may be reused. Not called for bytes that are never sent.
   */
  write(bytes: Uint8Array, released?: () => void): Promise<void> | undefined {
    if (this.localClosed || bytes.length === 0) return;
    this.queue.push(bytes);
    if (released) this.released.set(bytes, released);
    this.connection.pump(this);
    return this.drained;
  }

  /** What {@link write} would return now: undefined, or a promise that resolves when more may be queued. */
  get drained(): Promise<void> | undefined {
    if (this.localClosed || (this.queue.length === 0 && !this.connection.congested)) return undefined;
    return new Promise((resolve) => this.#waiting.push(resolve));
  }

  /** Ends our side when everything is sent, with trailers if given. */
  end(trailers?: Headers): void {
    if (this.localClosed || this.queuedTrailers) return;
    this.queuedTrailers = { headers: trailers };
    this.connection.pump(this);
  }

  /** Resets the stream. */
  reset(code: number = ErrorCode.CANCEL): void {
    this.connection.resetStream(this, code);
  }

  /** @ignore */
  wake(): void {
    for (const resolve of this.#waiting.splice(0)) resolve();
  }

  /** @ignore */
  settle(error?: StreamError): void {
    this.localClosed = this.remoteClosed = true;
    this.queue = [];
    this.released.clear();
    if (error) this.#gone.abort(error);
    this.#closed.resolve(error);
    this.wake();
  }
}

/** Options of {@link Http2Connection}. */
export interface Http2Options {
  role: "client" | "server";
  /** Detects a silent peer within 10 s, by PING. @default false */
  keepAlive?: boolean;
  /** Server only: called for each new stream, before its data. */
  onStream?(stream: Stream, headers: Headers): void;
  /** Server only: counts what the peer costs while it is a stranger. @default the peer is known */
  admission?: Admission;
  /** How long a stream may have only headers, in milliseconds. @default see limits.ts */
  quietMs?: number;
}

/** One HTTP/2 connection over a transport, client or server. */
export class Http2Connection {
  readonly #transport: Transport;
  readonly #options: Http2Options;
  readonly #decoder = new HpackDecoder();
  readonly #streams = new Map<number, Stream>();
  /** Streams that both sides have ended, but whose last frames are not yet written. */
  #leaving: Stream[] = [];
  readonly #blocked = new Set<Stream>();
  #nextId = 1;
  #highestPeerId = 0;
  #sendWindow = 65_535;
  #peerStreamWindow = 65_535;
  #peerMaxFrame = 16_384;
  #unacknowledged = 0;
  #outbox: Uint8Array[] = [];
  #writingMs = 0;
  /** Callbacks for when a piece of the outbox is no longer used. */
  readonly #released = new Map<Uint8Array, () => void>();
  #outboxBytes = 0;
  #writeBuffer: Buffer = Buffer.alloc(0);
  #answers = 0;
  #limits: Http2Limits;
  readonly #admission?: Admission;
  /** Streams that have only headers, in order of their start. */
  readonly #quiet = new Set<Stream>();
  /** Stops the timer for `#quiet`. */
  #stopQuiet?: () => void;
  #requests = 0;
  /** Budget of frames without content, see {@link #count}. */
  #idleFrames: number;
  /** When the budget was last refilled, by performance.now(). */
  #idleFramesAt = performance.now();
  /** Bytes of the read buffer that count for a stranger. */
  #bufferHeld = 0;
  #flushing = false;
  #headerBlock?: { stream: number; parts: Uint8Array[]; bytes: number; endStream: boolean };
  #goingAway = false;
  /** The peer's GOAWAY said that it gave up, see {@link Loss}. */
  #peerGaveUp = false;
  #retired = false;
  /** The peer broke the rules: the connection ends for this reason, once the GOAWAY is sent. */
  #failure?: string;
  #lastWords?: ReturnType<typeof setTimeout>;
  /** The peer asked for a smaller table. We use none, which the next header block must say (RFC 7541, 4.2). */
  #tableShrunk = false;
  #ended = false;
  #keepAlive?: ReturnType<typeof setInterval>;
  /** When bytes last arrived, by performance.now(). */
  #heard = performance.now();
  readonly #closed = Promise.withResolvers<void>();

  /** Takes over a connected transport and begins to read. */
  constructor(transport: Transport, options: Http2Options) {
    this.#transport = transport;
    this.#options = options;
    this.#admission = options.admission;
    this.#limits = this.#admission && !this.#admission.admitted ? STRANGER : KNOWN;
    this.#idleFrames = this.#limits.idleFrames;
    if (this.#limits === STRANGER) this.#admission!.onAdmitted = () => this.#becomeKnown();
    if (options.role === "client") this.#send(PREFACE);
    this.#announce(options.role === "client" ? [[Setting.ENABLE_PUSH, 0]] : [], 65_535);
    void this.#read();
    if (options.keepAlive) this.#watch();
  }

  /** Sends our limits to the peer. @param window The connection window that the peer already has. */
  #announce(settings: [number, number][], window: number): void {
    const { streams, streamWindow, connectionWindow, frameBytes, headerListBytes } = this.#limits;
    this.#send(settingsFrame([
      ...settings,
      [Setting.MAX_CONCURRENT_STREAMS, streams],
      [Setting.INITIAL_WINDOW_SIZE, streamWindow],
      [Setting.MAX_FRAME_SIZE, frameBytes],
      [Setting.MAX_HEADER_LIST_SIZE, headerListBytes],
    ]));
    if (connectionWindow > window) this.#send(numberFrame(FrameType.WINDOW_UPDATE, 0, connectionWindow - window));
  }

  /**
   * Server only: the peer has proved who it is. Without {@link Http2Options.admission} it counts as known from the
   * start.
   */
  admit(): void {
    if (this.#admission && !this.#admission.admit()) this.#finish("there is no room for the connection");
  }

  #becomeKnown(): void {
    if (this.#ended) return;
    const { connectionWindow } = this.#limits;
    this.#limits = KNOWN;
    this.#idleFrames = KNOWN.idleFrames;
    for (const stream of this.#streams.values()) stream.held = 0;
    this.#bufferHeld = 0;
    this.#announce([], connectionWindow);
  }

  /** Counts bytes held for a stranger. Throws when that is too much. */
  #hold(bytes: number): void {
    if (this.#admission && !this.#admission.hold(bytes)) {
      throw new ConnectionError(ErrorCode.ENHANCE_YOUR_CALM, "too much came before it was known from whom");
    }
  }

  /** Charges frames to the budget for frames without content. Useful frames refill it, see {@link #useful}. */
  #count(frames: number): void {
    this.#idleFrames -= frames;
    if (this.#idleFrames >= 0) return;
    const { idleFrames, idleFramesPerSecond } = this.#limits;
    const now = performance.now();
    this.#idleFrames += (now - this.#idleFramesAt) / 1000 * idleFramesPerSecond;
    this.#idleFramesAt = now;
    if (this.#idleFrames > idleFrames) this.#idleFrames = idleFrames;
    if (this.#idleFrames < 0) {
      throw new ConnectionError(ErrorCode.ENHANCE_YOUR_CALM, "too many frames that carry nothing");
    }
  }

  #useful(frames: number): void {
    this.#idleFrames = Math.min(this.#idleFrames + frames, this.#limits.idleFrames);
  }

  /** Starts the timeout for a stream's first data. */
  #awaitData(stream: Stream): void {
    this.#quiet.add(stream);
    if (this.#stopQuiet) return;
    const most = () => this.#options.quietMs ?? this.#limits.quietMs;
    const wait = (milliseconds: number) => {
      this.#stopQuiet = patientTimer(() => {
        this.#stopQuiet = undefined;
        for (const quiet of this.#quiet) {
          const left = quiet.began + most() - performance.now();
          if (left > 0) return wait(left);
          this.resetStream(quiet, ErrorCode.CANCEL, "nothing came after its headers");
        }
      }, milliseconds);
    };
    wait(most());
  }

  /** Whether new streams can be opened. */
  get usable(): boolean {
    return !this.#ended && !this.#goingAway && this.#failure === undefined && this.#nextId < 2 ** 30;
  }

  /** Number of open streams. */
  get openStreams(): number {
    return this.#streams.size;
  }

  /** Resolves when the connection is over. */
  get closed(): Promise<void> {
    return this.#closed.promise;
  }

  /** @ignore */
  get congested(): boolean {
    return this.#outboxBytes > OUTBOX_HIGH_WATER;
  }

  /** Whether a sender found the transport to be slow, see CompressionChoice. */
  slow = false;

  /** How long writes to the transport have taken in total, in milliseconds. */
  get writingMs(): number {
    return this.#writingMs;
  }

  /** Starts a request. Set the stream's callbacks in the same turn of the event loop. */
  request(headers: Headers): Stream {
    const stream = new Stream(this.#nextId, this, this.#peerStreamWindow);
    this.#nextId += 2;
    if (!this.usable) {
      stream.settle(new StreamError(ErrorCode.REFUSED_STREAM, "the connection is closed", true));
      return stream;
    }
    this.#streams.set(stream.id, stream);
    this.#useful(REQUEST_FRAMES);
    stream.sendHeaders(headers);
    return stream;
  }

  /** Closes the connection once no stream is open. */
  retire(): void {
    this.#retired = true;
    this.#finishIfIdle();
  }

  /** Closes the connection now; open streams end with an error. */
  close(reason = "the connection was closed"): void {
    this.#finish(reason);
  }

  // --- sending

  /** @ignore */
  sendHeaderBlock(stream: Stream, headers: Headers, endStream: boolean): void {
    let block = encodeHeaders(headers);
    if (this.#tableShrunk) block = Buffer.concat([NO_TABLE, block]);
    this.#tableShrunk = false;
    for (let at = 0, first = true; first || at < block.length; first = false) {
      const part = block.subarray(at, at += this.#peerMaxFrame);
      const flags = (at >= block.length ? Flag.END_HEADERS : 0) | (first && endStream ? Flag.END_STREAM : 0);
      this.#send(encodeFrame(first ? FrameType.HEADERS : FrameType.CONTINUATION, flags, stream.id, part));
    }
    if (endStream) this.#localEnd(stream);
  }

  /** Moves bytes from the stream's queue to the outbox, as far as the windows allow. @ignore */
  pump(stream: Stream): void {
    if (stream.localClosed) return;
    while (stream.queue.length > 0) {
      const bytes = stream.queue[0], released = stream.released.get(bytes);
      const length = Math.min(bytes.length, stream.sendWindow, this.#sendWindow, this.#peerMaxFrame);
      if (length <= 0) {
        this.#blocked.add(stream);
        return;
      }
      this.#send(frameHeader(length, FrameType.DATA, 0, stream.id));
      if (released) stream.released.delete(bytes);
      if (length === bytes.length) {
        stream.queue.shift();
        if (released) this.#released.set(bytes, released);
        this.#send(bytes);
      } else {
        const rest = stream.queue[0] = bytes.subarray(length);
        if (released) stream.released.set(rest, released);
        this.#send(bytes.subarray(0, length));
      }
      stream.sendWindow -= length;
      this.#sendWindow -= length;
      this.#useful(length / USEFUL_BYTES);
    }
    this.#blocked.delete(stream);
    if (stream.queuedTrailers) {
      const { headers } = stream.queuedTrailers;
      if (headers) this.sendHeaderBlock(stream, headers, true);
      else {
        this.#send(frameHeader(0, FrameType.DATA, Flag.END_STREAM, stream.id));
        this.#localEnd(stream);
      }
    } else if (!this.congested) stream.wake();
  }

  #pumpAll(): void {
    for (const stream of [...this.#blocked]) this.pump(stream);
  }

  /** @ignore */
  resetStream(stream: Stream, code: number, why = "the stream was reset by this side"): void {
    if (!this.#streams.has(stream.id)) return;
    this.#send(numberFrame(FrameType.RST_STREAM, stream.id, code));
    this.#drop(stream, new StreamError(code, why));
  }

  #localEnd(stream: Stream): void {
    stream.localClosed = true;
    stream.wake();
    if (stream.remoteClosed) this.#drop(stream);
    else if (this.#options.role === "server") this.#dropAnswered(stream);
  }

  /** The response is complete: the rest of the request is not needed (RFC 9113, 8.1). */
  #dropAnswered(stream: Stream): void {
    this.#send(numberFrame(FrameType.RST_STREAM, stream.id, ErrorCode.NO_ERROR));
    this.#drop(stream);
  }

  #drop(stream: Stream, error?: StreamError): void {
    if (!this.#streams.delete(stream.id)) return;
    this.#blocked.delete(stream);
    this.#quiet.delete(stream);
    if (stream.held > 0) this.#admission!.release(stream.held);
    stream.held = 0;
    if (!error && this.#flushing) {
      stream.remoteClosed = true;
      this.#leaving.push(stream);
    } else stream.settle(error);
    this.#finishIfIdle();
  }

  #finishIfIdle(): void {
    const wanted = this.#retired || (this.#goingAway && this.#options.role === "client");
    if (wanted && this.#streams.size === 0 && !this.#flushing) this.#finish("the connection is not used any more");
  }

  #send(bytes: Uint8Array): void {
    if (this.#ended) return;
    this.#outbox.push(bytes);
    this.#outboxBytes += bytes.length;
    if (!this.#flushing) {
      this.#flushing = true;
      // Everything sent in the current turn goes out in one write.
      queueMicrotask(() => this.#flush());
    }
  }

  async #flush(): Promise<void> {
    try {
      while (this.#outbox.length + this.#leaving.length > 0 && !this.#ended) {
        const leaving = this.#leaving.length;
        // Writes the outbox as it is now, in several writes if necessary. Then the last frames of leaving streams are
        // written.
        for (let pieces = this.#outbox.length; pieces > 0 && !this.#ended;) {
          const before = this.#outbox.length;
          const batch = this.#gather();
          pieces -= before - this.#outbox.length;
          const began = performance.now();
          for (let at = 0; at < batch.length;) at += await this.#transport.write(batch.subarray(at));
          this.#writingMs += performance.now() - began;
          this.#release(batch);
          this.#outboxBytes -= batch.length;
        }
        this.#answers = 0;
        for (const stream of this.#leaving.splice(0, leaving)) stream.settle();
        if (!this.congested) {
          for (const stream of this.#streams.values()) if (stream.queue.length === 0) stream.wake();
        }
      }
    } catch (e) {
      this.#finish(sentence(e), "reset");
    }
    this.#flushing = false;
    if (this.#failure !== undefined) this.#finish(this.#failure);
    this.#finishIfIdle();
  }

  /**
   * Takes up to one write's worth of pieces out of the outbox. Joins them in a reused buffer, since fresh memory of
   * that size costs more than the copy.
   */
  #gather(): Uint8Array {
    const [first] = this.#outbox;
    if (this.#outbox.length === 1 || first.length >= WRITE_BYTES) return this.#outbox.shift()!;
    const size = Math.min(this.#outboxBytes, WRITE_BYTES);
    // Small writes need no buffer that is kept: many connections never send more.
    if (size <= 1 << 10) {
      const batch = Buffer.concat(this.#outbox);
      for (const piece of this.#outbox.splice(0)) this.#release(piece);
      return batch;
    }
    if (this.#writeBuffer.length < size) {
      this.#writeBuffer = Buffer.allocUnsafeSlow(size <= 1 << 14 ? 1 << 14 : WRITE_BYTES);
    }
    let filled = 0, taken = 0;
    for (const piece of this.#outbox) {
      if (filled + piece.length > this.#writeBuffer.length) break;
      this.#writeBuffer.set(piece, filled);
      this.#release(piece);
      filled += piece.length;
      taken++;
    }
    this.#outbox.splice(0, taken);
    return this.#writeBuffer.subarray(0, filled);
  }

  #release(piece: Uint8Array): void {
    const released = this.#released.get(piece);
    if (!released) return;
    this.#released.delete(piece);
    released();
  }

  /** Sends a frame that only answers one of the peer. */
  #answer(bytes: Uint8Array): void {
    if (++this.#answers > MAX_UNREAD_ANSWERS) {
      throw new ConnectionError(ErrorCode.ENHANCE_YOUR_CALM, "too many frames to answer");
    }
    this.#send(bytes);
  }

  /**
   * Sends a PING now and ends the connection if the answer does not come soon: for a caller that waits. Does nothing
   * without keep-alive.
   */
  probe: () => void = () => {};

  /** Sends a PING to a silent peer, and ends the connection if there is no answer. */
  #watch(): void {
    let asked: number | undefined;
    let patience = ANSWER_MS;
    const ask = (now: number) => {
      asked = now;
      this.#send(encodeFrame(FrameType.PING, 0, 0, Buffer.alloc(8)));
    };
    this.probe = () => {
      patience = ANSWER_SOON_MS;
      ask(performance.now());
    };
    // The wall clock's lead over the steady clock, which stands still while the machine sleeps.
    const lead = () => Date.now() - performance.now();
    let before = lead();
    this.#keepAlive = setInterval(() => {
      const now = performance.now();
      const slept = lead() - before > 5_000;
      before = lead();
      if (asked !== undefined && this.#heard > asked) {
        asked = undefined;
        patience = ANSWER_MS;
      }
      if (slept) patience = ANSWER_SOON_MS;
      if (asked === undefined && (slept || now - this.#heard >= QUIET_MS)) ask(now);
      else if (asked !== undefined && now - asked >= patience) {
        this.#finish("the peer does not answer any more", "silent");
      }
    }, KEEP_ALIVE_STEP_MS);
    unref(this.#keepAlive);
  }

  // --- receiving

  async #read(): Promise<void> {
    let buffer = Buffer.allocUnsafeSlow(FIRST_READ_BYTES);
    // Bytes from `at` to `filled` are not processed yet.
    let at = 0, filled = 0;
    let preface = this.#options.role === "server" ? PREFACE.length : 0;
    try {
      for (;;) {
        const n = await this.#transport.read(buffer.subarray(filled));
        if (n === null || this.#ended) break;
        this.#heard = performance.now();
        filled += n;
        if (preface > 0) {
          const length = Math.min(filled, preface);
          if (!buffer.subarray(0, length).equals(PREFACE.subarray(0, length))) {
            return this.#finish("the peer does not speak HTTP/2");
          }
          if (filled < preface) continue;
          at = preface;
          preface = 0;
        }
        let need = FRAME_HEADER_BYTES;
        while (filled - at >= FRAME_HEADER_BYTES) {
          const length = buffer.readUIntBE(at, 3);
          if (length > this.#limits.frameBytes) {
            throw new ConnectionError(ErrorCode.FRAME_SIZE_ERROR, `a frame of ${length} bytes`);
          }
          need = FRAME_HEADER_BYTES + length;
          if (filled - at < need) break;
          const payload = buffer.subarray(at + FRAME_HEADER_BYTES, at + need);
          this.#frame(buffer[at + 3], buffer[at + 4], buffer.readUInt32BE(at + 5) & 0x7fffffff, payload);
          if (this.#ended) return;
          at += need;
          need = FRAME_HEADER_BYTES;
        }
        const full = filled === buffer.length;
        if (at === filled) at = filled = 0;
        if (need > buffer.length || (full && buffer.length < READ_BYTES && this.#limits === KNOWN)) {
          // A stranger's buffer is only as large as its frame, and is counted.
          const size = this.#limits === KNOWN ? Math.max(READ_BYTES, 4 * need) : need;
          if (this.#limits === STRANGER) {
            this.#hold(size - this.#bufferHeld);
            this.#bufferHeld = size;
          }
          const larger = Buffer.allocUnsafeSlow(size);
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
      if (this.#peerGaveUp) this.#finish("the peer had heard nothing of this side", "silent");
      else this.#finish("the peer closed the connection");
    } catch (e) {
      if (e instanceof ConnectionError || e instanceof HpackError) {
        this.#fail(e instanceof ConnectionError ? e.code : ErrorCode.COMPRESSION_ERROR, e.message);
        return await this.#discard(buffer);
      }
      this.#finish(sentence(e), "reset");
    }
  }

  /** Reads and discards what the peer still sends, so that it can read the GOAWAY. */
  async #discard(buffer: Uint8Array): Promise<void> {
    try {
      for (let most = MAX_DISCARDED; most > 0 && !this.#ended;) most -= await this.#transport.read(buffer) ?? most;
    } catch { /* it is over */ }
    this.#finish(this.#failure ?? "the connection is over");
  }

  /** Sends GOAWAY to a peer that broke the rules, then closes; at the latest after LAST_WORDS_MS. */
  #fail(code: number, why: string): void {
    if (this.#ended) return;
    this.#failure = why;
    this.#stopQuiet?.();
    this.#admission?.release(this.#admission.held);
    for (const stream of [...this.#streams.values()]) {
      this.#drop(stream, new StreamError(ErrorCode.INTERNAL_ERROR, why));
    }
    const payload = Buffer.alloc(8);
    payload.writeUInt32BE(this.#highestPeerId);
    payload.writeUInt32BE(code, 4);
    this.#send(encodeFrame(FrameType.GOAWAY, 0, 0, payload));
    this.#lastWords = setTimeout(() => this.#finish(why), LAST_WORDS_MS);
  }

  /** Calls a stream's owner. If the call throws or rejects, only that stream ends. */
  #tell(stream: Stream, call: () => Promise<void> | void): Promise<void> | void {
    const failed = (e: unknown) => this.resetStream(stream, ErrorCode.INTERNAL_ERROR, sentence(e));
    try {
      // A function typed to return nothing may still return a promise.
      const taken: unknown = call();
      if (taken instanceof Promise) return taken.catch(failed);
    } catch (e) {
      failed(e);
    }
  }

  #frame(type: number, flags: number, id: number, payload: Buffer): void {
    if (this.#headerBlock && (type !== FrameType.CONTINUATION || id !== this.#headerBlock.stream)) {
      throw new ConnectionError(ErrorCode.PROTOCOL_ERROR, "a header block is interrupted");
    }
    this.#count(1);
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
        const stream = this.#streams.get(id);
        const code = payload.readUInt32BE();
        if (stream) {
          if (this.#options.role === "server") this.#count(RESET_FRAMES);
          this.#answers++; // rapid resets
          if (this.#answers > MAX_UNREAD_ANSWERS) {
            throw new ConnectionError(ErrorCode.ENHANCE_YOUR_CALM, "too many resets");
          }
          this.#drop(
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
        if (!(flags & Flag.ACK)) this.#answer(encodeFrame(FrameType.PING, Flag.ACK, 0, payload));
        return;
      case FrameType.GOAWAY: {
        if (payload.length < 8) throw new ConnectionError(ErrorCode.FRAME_SIZE_ERROR, "GOAWAY");
        this.#goingAway = true;
        this.#peerGaveUp ||= payload.readUInt32BE(4) === ErrorCode.SETTINGS_TIMEOUT;
        const last = payload.readUInt32BE() & 0x7fffffff;
        if (this.#options.role === "client") {
          for (const stream of [...this.#streams.values()]) {
            if (stream.id > last) {
              this.#drop(stream, new StreamError(ErrorCode.REFUSED_STREAM, "the peer is going away", true));
            }
          }
        }
        return this.#finishIfIdle();
      }
      case FrameType.WINDOW_UPDATE: {
        if (payload.length !== 4) throw new ConnectionError(ErrorCode.FRAME_SIZE_ERROR, "WINDOW_UPDATE");
        const increment = payload.readUInt32BE() & 0x7fffffff;
        if (increment === 0) throw new ConnectionError(ErrorCode.PROTOCOL_ERROR, "a window grows by nothing");
        if (id === 0) {
          this.#sendWindow += increment;
          if (this.#sendWindow > 0x7fffffff) {
            throw new ConnectionError(ErrorCode.FLOW_CONTROL_ERROR, "the window overflows");
          }
          this.#pumpAll();
        } else {
          const stream = this.#streams.get(id);
          if (!stream) return;
          stream.sendWindow += increment;
          if (stream.sendWindow > 0x7fffffff) return this.resetStream(stream, ErrorCode.FLOW_CONTROL_ERROR);
          if (this.#blocked.has(stream)) this.pump(stream);
        }
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
    const { headerListBytes, headers: most } = this.#limits;
    block.bytes += part.length;
    if (block.bytes > headerListBytes || block.parts.length >= MAX_HEADER_PARTS) {
      throw new ConnectionError(ErrorCode.ENHANCE_YOUR_CALM, "the headers are too large");
    }
    const last = (flags & Flag.END_HEADERS) !== 0;
    if (!last || block.parts.length > 0) {
      this.#hold(part.length);
      block.parts.push(Buffer.from(part)); // the read buffer is reused
    }
    if (!last) return;
    this.#headerBlock = undefined;
    const whole = block.parts.length > 0 ? Buffer.concat(block.parts) : part;
    const headers = this.#decoder.decode(whole, headerListBytes, most);
    if (block.parts.length > 0) this.#admission?.release(block.bytes);
    let stream = this.#streams.get(block.stream);
    if (!stream && this.#options.role === "server" && block.stream > this.#highestPeerId) {
      if (block.stream % 2 === 0) throw new ConnectionError(ErrorCode.PROTOCOL_ERROR, "an even stream id");
      this.#highestPeerId = block.stream;
      if (++this.#requests > this.#limits.requests) {
        throw new ConnectionError(ErrorCode.ENHANCE_YOUR_CALM, "too many requests of somebody unknown");
      }
      const { streams } = this.#limits;
      // Streams whose end the peer has not read are still open to it. Twice the limit, since the peer may have read
      // what we do not yet know to be written.
      if (this.#streams.size >= streams || this.#leaving.length >= 2 * streams) {
        return this.#answer(numberFrame(FrameType.RST_STREAM, block.stream, ErrorCode.REFUSED_STREAM));
      }
      this.#useful(REQUEST_FRAMES);
      stream = new Stream(block.stream, this, this.#peerStreamWindow);
      this.#streams.set(stream.id, stream);
      this.#holdFor(stream, STREAM_COST + this.#decoder.listBytes);
      if (!block.endStream) this.#awaitData(stream);
      const fresh = stream;
      this.#tell(fresh, () => this.#options.onStream?.(fresh, headers));
    } else if (stream && !stream.remoteClosed) {
      if (++stream.headerBlocks > MAX_HEADER_BLOCKS) {
        return this.resetStream(stream, ErrorCode.PROTOCOL_ERROR, "too many headers came");
      }
      const known = stream;
      this.#tell(known, () => known.onHeaders(headers));
    }
    // Otherwise the stream is already over.
    if (stream && block.endStream) this.#remoteEnd(stream);
  }

  /** Counts a stranger's bytes that a stream holds until it is over. */
  #holdFor(stream: Stream, bytes: number): void {
    if (this.#limits === KNOWN) return;
    stream.held += bytes;
    this.#hold(bytes);
  }

  #onData(flags: number, id: number, payload: Buffer): void {
    if (id === 0) throw new ConnectionError(ErrorCode.PROTOCOL_ERROR, "data without a stream");
    const size = payload.length;
    const stream = this.#streams.get(id);
    const { connectionWindow, streamWindow } = this.#limits;
    this.#unacknowledged += size;
    if (this.#unacknowledged >= connectionWindow / 4) {
      // The connection's window follows what was read. What a slow reader holds is bounded by its stream's window.
      this.#send(numberFrame(FrameType.WINDOW_UPDATE, 0, this.#unacknowledged));
      this.#unacknowledged = 0;
    }
    if (!stream || stream.remoteClosed) {
      // Bytes already on their way to a finished stream fit into a stranger's windows. More than that is a flood.
      if (this.#limits === STRANGER) this.#count(size / DEAD_BYTES);
      return;
    }
    stream.received += size;
    if (stream.received > streamWindow) {
      // For a stranger a reset is not enough: its further bytes would still be read.
      if (this.#limits === STRANGER) throw new ConnectionError(ErrorCode.FLOW_CONTROL_ERROR, "a window overflows");
      return this.resetStream(stream, ErrorCode.FLOW_CONTROL_ERROR);
    }
    const data = this.#unpadded(flags, payload);
    if (data.length > 0) {
      this.#quiet.delete(stream);
      this.#useful(data.length / USEFUL_BYTES);
      this.#holdFor(stream, data.length);
    }
    const taken = data.length > 0 ? this.#tell(stream, () => stream.onData(data)) : undefined;
    if (taken) void taken.then(() => this.#credit(stream, size));
    else this.#credit(stream, size);
    if (flags & Flag.END_STREAM) this.#remoteEnd(stream);
  }

  /** Enlarges the stream's window by what was consumed. */
  #credit(stream: Stream, size: number): void {
    if (stream.remoteClosed) return;
    stream.credit += size;
    if (stream.credit < this.#limits.streamWindow / 4 || !this.#limits.credit) return;
    this.#send(numberFrame(FrameType.WINDOW_UPDATE, stream.id, stream.credit));
    stream.received -= stream.credit;
    stream.credit = 0;
  }

  #remoteEnd(stream: Stream): void {
    if (stream.remoteClosed) return;
    stream.remoteClosed = true;
    this.#quiet.delete(stream);
    this.#tell(stream, () => stream.onEnd());
    if (stream.localClosed) this.#drop(stream);
    else if (this.#options.role === "client") this.#dropAnswered(stream);
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
        case Setting.INITIAL_WINDOW_SIZE: {
          if (value > 0x7fffffff) {
            throw new ConnectionError(ErrorCode.FLOW_CONTROL_ERROR, "the initial window is too large");
          }
          for (const stream of this.#streams.values()) {
            stream.sendWindow += value - this.#peerStreamWindow;
            if (stream.sendWindow > 0x7fffffff) {
              throw new ConnectionError(ErrorCode.FLOW_CONTROL_ERROR, "a window overflows");
            }
          }
          this.#peerStreamWindow = value;
          break;
        }
        case Setting.HEADER_TABLE_SIZE:
          this.#tableShrunk ||= value < 4096;
          break;
        case Setting.MAX_FRAME_SIZE:
          if (value < 16_384 || value > 0xffffff) throw new ConnectionError(ErrorCode.PROTOCOL_ERROR, "the frame size");
          // Larger frames gain nothing, and a stream sends a whole frame before another stream's turn.
          this.#peerMaxFrame = Math.min(value, 1 << 17);
          break;
      }
    }
    this.#answer(encodeFrame(FrameType.SETTINGS, Flag.ACK, 0, new Uint8Array()));
    this.#pumpAll();
  }

  #finish(reason: string, lost: Loss = "closed"): void {
    if (this.#ended) return;
    this.#ended = true;
    clearTimeout(this.#lastWords);
    this.#stopQuiet?.();
    clearInterval(this.#keepAlive);
    this.#admission?.end();
    this.#outbox = [];
    this.#released.clear();
    if (lost === "silent" && !this.#peerGaveUp && !this.#flushing) void this.#sayThatItGaveUp();
    else this.#closeTransport();
    const error = new StreamError(ErrorCode.INTERNAL_ERROR, reason, false, lost);
    for (const stream of [...this.#streams.values()]) this.#drop(stream, error);
    // A server's last frames were not written; a client has its response.
    for (const stream of this.#leaving.splice(0)) stream.settle(this.#options.role === "server" ? error : undefined);
    this.#closed.resolve();
  }

  /**
   * Sends the GOAWAY described at {@link Loss}. On a silent link the kernel keeps it for later, so this takes no time.
   */
  async #sayThatItGaveUp(): Promise<void> {
    const payload = Buffer.alloc(8);
    payload.writeUInt32BE(this.#highestPeerId);
    payload.writeUInt32BE(ErrorCode.SETTINGS_TIMEOUT, 4);
    const written = this.#transport.write(encodeFrame(FrameType.GOAWAY, 0, 0, payload)).catch(() => {});
    let timer: ReturnType<typeof setTimeout> | undefined;
    await Promise.race([written, new Promise((resolve) => timer = setTimeout(resolve, LAST_WORDS_MS))]);
    clearTimeout(timer);
    this.#closeTransport();
  }

  #closeTransport(): void {
    try {
      this.#transport.close();
    } catch { /* closed already */ }
  }
}
