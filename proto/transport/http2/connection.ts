/**
 * HTTP/2 connections, client and server, in the measure that gRPC needs them: no push, no priorities, no upgrade.
 *
 * Why our own: the path of a command's output is what this project exists for. It runs twice as fast here as through
 * node:http2, starts faster, and survives: in Deno 2.9.6 a GOAWAY that reaches a node:http2 session aborts the process
 * (denoland/deno#36788), and a Bazel server says GOAWAY whenever it shuts down.
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

/** Bytes that may wait for the transport before writers are held back. */
const OUTBOX_HIGH_WATER = 1 << 20;
/** What one write to the transport takes at the most, unless a single piece is larger. */
const WRITE_BYTES = 256 << 10;
/** Frames that one header block may be cut into. */
const MAX_HEADER_PARTS = 128;
/** Header blocks of a stream: what a response says first, and then, and its trailers. Who takes them keeps them all. */
const MAX_HEADER_BLOCKS = 8;
/** What is read into first, in bytes: a connection that says nothing costs no more. */
const FIRST_READ_BYTES = 4 << 10;
/** The same once a peer that is known has filled it. */
const READ_BYTES = 1 << 17;
/** What a stream of a stranger counts for beside its bytes. */
const STREAM_COST = 2 << 10;
/** So many bytes that are of use to somebody make up for one frame that is not. */
const USEFUL_BYTES = 32;
/** So many bytes that nobody wants count for one frame. */
const DEAD_BYTES = 256;
/** Frames that a request may have which carry nothing: its end, its windows, a ping. */
const REQUEST_FRAMES = 8;
/** Frames that a reset counts for which undoes work of ours. */
const RESET_FRAMES = 16;
/**
 * Frames that cost us an answer (PING, SETTINGS, resets) that a peer may send while it reads none of the answers; more is
 * an attack.
 */
const MAX_UNREAD_ANSWERS = 10_000;
/** A connection with keep-alive on which nothing came for this long is asked for a sign of life. Milliseconds. */
const QUIET_MS = 4_000;
/** How long the peer has for that sign. With QUIET_MS and the clock's own step it stays below 10 s. */
const ANSWER_MS = 3_500;
/** The same when somebody waits for it, or this machine has slept and the peer may have forgotten us. */
const ANSWER_SOON_MS = 1_500;
/** How often the clock of a keep-alive is looked at. */
const KEEP_ALIVE_STEP_MS = 500;
/** How long a peer that broke the rules may take to read why the connection ends, in milliseconds. */
const LAST_WORDS_MS = 1_000;
/** Bytes that it may send meanwhile. */
const MAX_DISCARDED = 64 << 10;
/** HPACK for "my table is empty from here on". */
const NO_TABLE = Uint8Array.of(0x20);

/**
 * How a connection was lost. "closed": the peer ended it in order, or this side did. "reset": it broke, as when a system on
 * the way (a NAT, a VPN) has forgotten it; but the kernel of a peer that died says the same when there was something that
 * the peer had not read. "silent": one side heard nothing of the other any more. The side that gave up says so in a GOAWAY,
 * which the other gets when the link carries again: it would take the end that follows for an orderly one.
 */
export type Loss = "closed" | "reset" | "silent";

/** Why a stream ended before its time. */
export class StreamError extends Error {
  override readonly name = "StreamError";
  /**
   * @param code An HTTP/2 error code.
   * @param refused The peer certainly did nothing with the stream.
   * @param lost The connection is gone, and how.
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
  /** @ignore What is held for it while its connection is a stranger's, in bytes. */ held = 0;
  /** @ignore When it began, by performance.now(). */ readonly began: number = performance.now();
  /** @ignore */ queue: Uint8Array[] = [];
  /** @ignore Who wants to know when some of the queue's bytes are not needed any more. */
  released = new Map<Uint8Array, () => void>();
  /** @ignore */ queuedTrailers: { headers?: Headers } | undefined;
  /** @ignore */ localClosed = false;
  /** @ignore */ remoteClosed = false;
  /** @ignore */ sentHeaders = false;
  /** @ignore Header blocks that came after the first. */ headerBlocks = 0;
  /** Called for each header block: first the headers, then perhaps trailers. */
  onHeaders: (headers: Headers) => void = () => {};
  /** Called with received bytes, which are lent for the call. Flow control waits for the promise, if there is one. */
  onData: (chunk: Uint8Array) => Promise<void> | void = () => {};
  /** Called once when the peer has said all that it will say. */
  onEnd: () => void = () => {};
  readonly #closed = Promise.withResolvers<StreamError | undefined>();
  readonly #gone = new AbortController();
  #waiting: (() => void)[] = [];

  /** @ignore */
  constructor(readonly id: number, readonly connection: Http2Connection, sendWindow: number) {
    this.sendWindow = sendWindow;
  }

  /**
   * Resolves when the stream is over: with the reason if it was cut off; with undefined if both sides ended it, and then
   * all that we sent was written to the transport.
   */
  get closed(): Promise<StreamError | undefined> {
    return this.#closed.promise;
  }

  /** Aborted when the stream was cut off: reset by the peer, or the connection was lost. */
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
   * Queues bytes. Resolves when more may be queued, or when it makes no sense any more. The bytes are ours now.
   *
   * @param released Called when they are not needed any more: their memory may be used again. Not called for what was
   * never sent.
   */
  write(bytes: Uint8Array, released?: () => void): Promise<void> | undefined {
    if (this.localClosed || bytes.length === 0) return;
    this.queue.push(bytes);
    if (released) this.released.set(bytes, released);
    this.connection.pump(this);
    return this.drained;
  }

  /** What {@link write} would return now: undefined, or a promise for when more may be queued. */
  get drained(): Promise<void> | undefined {
    if (this.localClosed || (this.queue.length === 0 && !this.connection.congested)) return undefined;
    return new Promise((resolve) => this.#waiting.push(resolve));
  }

  /** Ends our side once all is sent, with trailers if given. */
  end(trailers?: Headers): void {
    if (this.localClosed || this.queuedTrailers) return;
    this.queuedTrailers = { headers: trailers };
    this.connection.pump(this);
  }

  /** Cuts the stream off. */
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
  /** Notices a peer that is silent within 10 s, by PING. @default false */
  keepAlive?: boolean;
  /** A server's: called for each new stream, before its data. */
  onStream?(stream: Stream, headers: Headers): void;
  /** A server's: counts what the peer costs while it is a stranger. @default the peer is known */
  admission?: Admission;
  /** How long a stream may have headers only, in milliseconds. @default as limits.ts says */
  quietMs?: number;
}

/** See the file's head. */
export class Http2Connection {
  readonly #transport: Transport;
  readonly #options: Http2Options;
  readonly #decoder = new HpackDecoder();
  readonly #streams = new Map<number, Stream>();
  /** Streams that both sides have ended, but whose last frames are on their way to the transport. */
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
  /** Of the outbox: who wants to know when a piece is not needed any more. */
  readonly #released = new Map<Uint8Array, () => void>();
  #outboxBytes = 0;
  #writeBuffer: Buffer = Buffer.alloc(0);
  #answers = 0;
  #limits: Http2Limits;
  readonly #admission?: Admission;
  /** Streams that have headers only, in the order in which they began. */
  readonly #quiet = new Set<Stream>();
  /** Stops the timer for them. */
  #stopQuiet?: () => void;
  #requests = 0;
  /** Frames that carry nothing which may still come, see {@link #count}. */
  #idleFrames: number;
  /** When it was filled up last, by performance.now(). */
  #idleFramesAt = performance.now();
  /** Bytes of the read buffer, and of an unfinished header block, that are held for a stranger. */
  #bufferHeld = 0;
  #flushing = false;
  #headerBlock?: { stream: number; parts: Uint8Array[]; bytes: number; endStream: boolean };
  #goingAway = false;
  /** See {@link Loss}. */
  #peerGaveUp = false;
  #retired = false;
  /** Set when the peer broke the rules: the connection ends for this reason, once the peer was told. */
  #failure?: string;
  #lastWords?: ReturnType<typeof setTimeout>;
  /** The peer asked for a smaller table; we use none, which the next header block must say (RFC 7541, 4.2). */
  #tableShrunk = false;
  #ended = false;
  #keepAlive?: ReturnType<typeof setInterval>;
  /** When something came last, by performance.now(). */
  #heard = performance.now();
  readonly #closed = Promise.withResolvers<void>();

  /** Takes a connected transport over and begins to read. */
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

  /** Tells the peer its limits. @param window What it has of the connection's window already. */
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

  /** The peer of a server has proved who it is. Without {@link Http2Options.admission} it was known before. */
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

  /** Counts bytes that are held for a stranger; throws if that is too much. */
  #hold(bytes: number): void {
    if (this.#admission && !this.#admission.hold(bytes)) {
      throw new ConnectionError(ErrorCode.ENHANCE_YOUR_CALM, "too much came before it was known from whom");
    }
  }

  /** Counts frames that cost time. What is of use makes up for them: see {@link #useful}. */
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

  /** Waits for the first data of a stream. */
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

  /** True while new streams can be made. */
  get usable(): boolean {
    return !this.#ended && !this.#goingAway && this.#failure === undefined && this.#nextId < 2 ** 30;
  }

  /** The number of streams that are open. */
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

  /** What a sender has found out about the transport: see CompressionChoice. */
  slow = false;

  /** For how long the transport has been busy with taking what was written, in milliseconds. */
  get writingMs(): number {
    return this.#writingMs;
  }

  /** Begins a request. Set the stream's callbacks before the next turn of the event loop. */
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

  /** Closes as soon as no stream is open. */
  retire(): void {
    this.#retired = true;
    this.#finishIfIdle();
  }

  /** Cuts the connection off; what is open ends with an error. */
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

  /** Moves what the windows allow from the stream's queue to the outbox. @ignore */
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

  /** The response is complete: nobody wants the rest of the request (RFC 9113, 8.1). */
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
      // After the present turn: what it sends goes out in one write.
      queueMicrotask(() => this.#flush());
    }
  }

  async #flush(): Promise<void> {
    try {
      while (this.#outbox.length + this.#leaving.length > 0 && !this.#ended) {
        const leaving = this.#leaving.length;
        // All that waits now, in as many writes as it takes: those who are leaving go when their last frame has gone.
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
   * Takes what waits out of the outbox, as much as goes into one write: put together in a buffer that is used again, since
   * fresh memory of that size costs more than the copy.
   */
  #gather(): Uint8Array {
    const [first] = this.#outbox;
    if (this.#outbox.length === 1 || first.length >= WRITE_BYTES) return this.#outbox.shift()!;
    const size = Math.min(this.#outboxBytes, WRITE_BYTES);
    // Little is not worth a buffer that is kept: there may be many connections that never send more.
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

  /** Sends what is a mere answer to the peer's frame. */
  #answer(bytes: Uint8Array): void {
    if (++this.#answers > MAX_UNREAD_ANSWERS) {
      throw new ConnectionError(ErrorCode.ENHANCE_YOUR_CALM, "too many frames to answer");
    }
    this.#send(bytes);
  }

  /**
   * Asks the peer for a sign of life now, and ends the connection when none comes soon: somebody waits who would rather
   * know. Without keep-alive it does nothing.
   */
  probe: () => void = () => {};

  /** Asks a quiet peer for a sign of life, and ends the connection when none comes. */
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
    // How far the wall clock is ahead of the one that stands still while the machine sleeps.
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
    // What came and was not taken yet.
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
          // A stranger gets what its frame needs, and that is counted.
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
          // The rest of a frame is moved only when it has no room where it is.
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

  /** While the peer reads the last words: what it goes on sending is not to wait somewhere. */
  async #discard(buffer: Uint8Array): Promise<void> {
    try {
      for (let most = MAX_DISCARDED; most > 0 && !this.#ended;) most -= await this.#transport.read(buffer) ?? most;
    } catch { /* it is over */ }
    this.#finish(this.#failure ?? "the connection is over");
  }

  /** Says GOAWAY to a peer that broke the rules, and ends; at once if the peer does not even read. */
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

  /** Calls the owner of a stream. What it throws, or rejects with, ends that stream and nothing else. */
  #tell(stream: Stream, call: () => Promise<void> | void): Promise<void> | void {
    const failed = (e: unknown) => this.resetStream(stream, ErrorCode.INTERNAL_ERROR, sentence(e));
    try {
      // A function that may return nothing may return anything.
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
    // PRIORITY and unknown types are ignored, as HTTP/2 wants.
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
      block.parts.push(Buffer.from(part)); // the read buffer is used again
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
      // What the peer has not read is still open to it; twice, since it may have read what we do not know to be written.
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
    // Otherwise: of a stream that is over already.
    if (stream && block.endStream) this.#remoteEnd(stream);
  }

  /** Counts what a stream holds of a stranger's bytes until it is over. */
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
      // The connection's window follows what was read; what a slow reader holds is bounded by its stream's window.
      this.#send(numberFrame(FrameType.WINDOW_UPDATE, 0, this.#unacknowledged));
      this.#unacknowledged = 0;
    }
    if (!stream || stream.remoteClosed) {
      // What was on its way to a stream that is over fits into the windows of a stranger; what goes on is a flood.
      if (this.#limits === STRANGER) this.#count(size / DEAD_BYTES);
      return;
    }
    stream.received += size;
    if (stream.received > streamWindow) {
      // A stranger that goes on would be read on.
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

  /** Lets the peer send again what was taken. */
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
          // Larger frames gain nothing, and a frame is what one stream may send before another's turn.
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
    // A server's last words did not get out; a client has its answer.
    for (const stream of this.#leaving.splice(0)) stream.settle(this.#options.role === "server" ? error : undefined);
    this.#closed.resolve();
  }

  /** See {@link Loss}. On a link that is silent the kernel keeps it for later, so that this takes no time. */
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
