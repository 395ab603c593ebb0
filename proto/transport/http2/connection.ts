/**
 * HTTP/2 connections, client and server, as far as gRPC needs them: no push, no priorities, no upgrade.
 *
 * Why not node:http2: a command's output takes twice as long through it, and it starts more slowly. In Deno 2.9.6 a
 * GOAWAY that reaches a node:http2 session aborts the process (denoland/deno#36788), and a Bazel server sends GOAWAY
 * whenever it shuts down.
 *
 *     transport ──FrameReader──> frames ──Receiver──> stream.onData (bytes are lent, not given: copy to keep)
 *     stream.write ──> its queue ──Sender (windows)──> Outbox ──one write at a time──> transport
 *
 * The parts share the open {@link Streams}, the {@link PeerBudget}, and the state, which is in lifecycle.ts with a table
 * of what each state allows.
 */
import { Buffer } from "node:buffer";
import type { Admission } from "../admission.ts";
import { sentence } from "../../base/errors.ts";
import { ConnectionError, type Loss, StreamError } from "./errors.ts";
import { encodeFrame, ErrorCode, FrameType, numberFrame, PREFACE, Setting, settingsFrame } from "./frames.ts";
import { type Headers, HpackError } from "./hpack.ts";
import { FrameReader } from "./frame_reader.ts";
import { KeepAlive } from "./keep_alive.ts";
import { Lifecycle } from "./lifecycle.ts";
import { Outbox } from "./outbox.ts";
import { PeerBudget } from "./peer_budget.ts";
import { Receiver } from "./receiver.ts";
import { Sender } from "./sender.ts";
import { Stream, type StreamConnection } from "./stream.ts";
import { Streams } from "./streams.ts";
import type { Transport } from "../transport.ts";

/** How long a peer that broke the rules has to read the GOAWAY, in milliseconds. */
const LAST_WORDS_MS = 1_000;

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
export class Http2Connection implements StreamConnection {
  readonly #transport: Transport;
  readonly #options: Http2Options;
  readonly #lifecycle: Lifecycle;
  readonly #budget: PeerBudget;
  readonly #outbox: Outbox;
  readonly #streams: Streams;
  readonly #sender: Sender;
  readonly #receiver: Receiver;
  readonly #reader: FrameReader;
  readonly #keepAlive?: KeepAlive;
  #nextId = 1;
  readonly #closed = Promise.withResolvers<void>();
  /** Whether a sender found the transport to be slow, see CompressionChoice. */
  slow = false;

  /** Takes over a connected transport and begins to read. */
  constructor(transport: Transport, options: Http2Options) {
    const { role, admission, quietMs } = options;
    this.#transport = transport;
    this.#options = options;
    this.#lifecycle = new Lifecycle(role);
    this.#budget = new PeerBudget(admission);
    this.#outbox = new Outbox(transport, this.#lifecycle, {
      written: () => this.#streams.wake(),
      broken: (e) => this.#end(sentence(e), "reset"),
      idle: () => this.#endIfDone(),
    });
    this.#streams = new Streams(this.#outbox, this.#budget, { role, quietMs, dropped: () => this.#endIfDone() });
    this.#sender = new Sender(this.#outbox, this.#streams, this.#budget);
    this.#receiver = new Receiver(this.#outbox, this.#streams, this.#sender, this.#budget, {
      role,
      connection: this,
      onStream: (stream, headers) => options.onStream?.(stream, headers),
      onGoAway: (last, code) => this.#onGoAway(last, code),
    });
    this.#reader = new FrameReader(transport, this.#lifecycle, this.#budget);
    if (options.keepAlive) {
      this.#keepAlive = new KeepAlive({
        heardAt: () => this.#reader.heardAt,
        ping: () => this.#outbox.send(encodeFrame(FrameType.PING, 0, 0, Buffer.alloc(8))),
        silent: () => this.#end("the peer does not answer any more", "silent"),
      });
    }
    if (this.#budget.stranger) admission!.onAdmitted = () => this.#becomeKnown();
    if (role === "client") this.#outbox.send(PREFACE);
    this.#announce(role === "client" ? [[Setting.ENABLE_PUSH, 0]] : [], 65_535);
    void this.#reader.read(role === "server" ? PREFACE : new Uint8Array(), this.#receiver, {
      ended: () => this.#onReadEnd(),
      noHttp2: () => this.#end("the peer does not speak HTTP/2"),
      failed: (e) => this.#onReadError(e),
    });
  }

  /** Sends our limits to the peer. @param window The connection window that the peer already has. */
  #announce(settings: [number, number][], window: number): void {
    const { streams, streamWindow, connectionWindow, frameBytes, headerListBytes } = this.#budget.limits;
    this.#outbox.send(settingsFrame([
      ...settings,
      [Setting.MAX_CONCURRENT_STREAMS, streams],
      [Setting.INITIAL_WINDOW_SIZE, streamWindow],
      [Setting.MAX_FRAME_SIZE, frameBytes],
      [Setting.MAX_HEADER_LIST_SIZE, headerListBytes],
    ]));
    if (connectionWindow > window) {
      this.#outbox.send(numberFrame(FrameType.WINDOW_UPDATE, 0, connectionWindow - window));
    }
  }

  /**
   * Server only: the peer has proved who it is. Without {@link Http2Options.admission} it counts as known from the
   * start.
   */
  admit(): void {
    const { admission } = this.#options;
    if (admission && !admission.admit()) this.#end("there is no room for the connection");
  }

  #becomeKnown(): void {
    if (!this.#lifecycle.allows.sends) return;
    const { connectionWindow } = this.#budget.limits;
    this.#budget.becomeKnown();
    for (const stream of this.#streams.open.values()) stream.held = 0;
    this.#reader.becomeKnown();
    this.#announce([], connectionWindow);
  }

  /** Whether new streams can be opened. */
  get usable(): boolean {
    return this.#lifecycle.allows.requests && this.#nextId < 2 ** 30;
  }

  /** Number of open streams. */
  get openStreams(): number {
    return this.#streams.open.size;
  }

  /** Resolves when the connection is over. */
  get closed(): Promise<void> {
    return this.#closed.promise;
  }

  /** @ignore */
  get congested(): boolean {
    return this.#outbox.congested;
  }

  /** How long writes to the transport have taken in total, in milliseconds. */
  get writingMs(): number {
    return this.#outbox.writingMs;
  }

  /** Starts a request. Set the stream's callbacks in the same turn of the event loop. */
  request(headers: Headers): Stream {
    const stream = new Stream(this.#nextId, this, this.#sender.streamWindow);
    this.#nextId += 2;
    if (!this.usable) {
      stream.settle(new StreamError(ErrorCode.REFUSED_STREAM, "the connection is closed", true));
      return stream;
    }
    this.#streams.open.set(stream.id, stream);
    this.#budget.usefulRequest();
    stream.sendHeaders(headers);
    return stream;
  }

  /** @ignore */
  sendHeaderBlock(stream: Stream, headers: Headers, endStream: boolean): void {
    this.#sender.sendHeaderBlock(stream, headers, endStream);
  }

  /** @ignore */
  pump(stream: Stream): void {
    this.#sender.pump(stream);
  }

  /** @ignore */
  resetStream(stream: Stream, code: number): void {
    this.#streams.reset(stream, code);
  }

  /**
   * Sends a PING now and ends the connection if the answer does not come soon: for a caller that waits. Does nothing
   * without keep-alive.
   */
  probe(): void {
    this.#keepAlive?.probe();
  }

  /** Closes the connection once no stream is open. */
  retire(): void {
    this.#lifecycle.move({ name: "retire" });
    this.#endIfDone();
  }

  /** Closes the connection now; open streams end with an error. */
  close(reason = "the connection was closed"): void {
    this.#end(reason);
  }

  #onReadEnd(): void {
    const { state } = this.#lifecycle;
    if (state.name === "going away" && state.peerGaveUp) {
      this.#end("the peer had heard nothing of this side", "silent");
    } else this.#end("the peer closed the connection");
  }

  #onReadError(error: unknown): void {
    if (error instanceof ConnectionError) this.#fail(error.code, error.message);
    else if (error instanceof HpackError) this.#fail(ErrorCode.COMPRESSION_ERROR, error.message);
    else this.#end(sentence(error), "reset");
  }

  #onGoAway(last: number, code: number): void {
    this.#lifecycle.move({ name: "goaway", peerGaveUp: code === ErrorCode.SETTINGS_TIMEOUT });
    if (this.#options.role === "client") {
      this.#streams.dropAll(new StreamError(ErrorCode.REFUSED_STREAM, "the peer is going away", true), last);
    }
    this.#endIfDone();
  }

  /** Sends GOAWAY to a peer that broke the rules. The connection ends when that is written. */
  #fail(code: number, why: string): void {
    const lastWords = setTimeout(() => this.#end(why), LAST_WORDS_MS);
    if (!this.#lifecycle.move({ name: "violation", why, lastWords })) return clearTimeout(lastWords);
    this.#streams.quiet.stop();
    this.#budget.releaseAll();
    // Queued first: what ends the connection is that the outbox has nothing left to write.
    this.#outbox.send(this.#goAway(code));
    this.#streams.dropAll(new StreamError(ErrorCode.INTERNAL_ERROR, why));
    void this.#reader.discard().then(() => this.#end(why));
  }

  /** Ends a connection that waits for its last stream, or for its last frame to be written. */
  #endIfDone(): void {
    if (this.#outbox.flushing) return;
    const { state } = this.#lifecycle;
    if (state.name === "failing") this.#end(state.why);
    else if (this.#lifecycle.endsWhenIdle && this.#streams.open.size === 0) {
      this.#end("the connection is not used any more");
    }
  }

  #end(reason: string, lost: Loss = "closed"): void {
    const before = this.#lifecycle.move({ name: "end" });
    if (!before) return;
    if (before.name === "failing") clearTimeout(before.lastWords);
    this.#streams.quiet.stop();
    this.#keepAlive?.stop();
    this.#options.admission?.end();
    this.#outbox.discard();
    const peerGaveUp = before.name === "going away" && before.peerGaveUp;
    if (lost === "silent" && !peerGaveUp && !this.#outbox.flushing) void this.#sayThatItGaveUp();
    else this.#closeTransport();
    const error = new StreamError(ErrorCode.INTERNAL_ERROR, reason, false, lost);
    this.#streams.dropAll(error);
    // A server's last frames were not written; a client has its response.
    for (const stream of this.#outbox.takeLeaving()) {
      stream.settle(this.#options.role === "server" ? error : undefined);
    }
    this.#closed.resolve();
  }

  /** Sends the GOAWAY described at {@link Loss}. On a silent link the kernel keeps it for later: this takes no time. */
  async #sayThatItGaveUp(): Promise<void> {
    const written = this.#transport.write(this.#goAway(ErrorCode.SETTINGS_TIMEOUT)).catch(() => {});
    let timer: ReturnType<typeof setTimeout> | undefined;
    await Promise.race([written, new Promise((resolve) => timer = setTimeout(resolve, LAST_WORDS_MS))]);
    clearTimeout(timer);
    this.#closeTransport();
  }

  #goAway(code: number): Uint8Array {
    const payload = Buffer.alloc(8);
    payload.writeUInt32BE(this.#receiver.highestPeerId);
    payload.writeUInt32BE(code, 4);
    return encodeFrame(FrameType.GOAWAY, 0, 0, payload);
  }

  #closeTransport(): void {
    try {
      this.#transport.close();
    } catch { /* closed already */ }
  }
}
