/** The open streams of a connection, and how each of them ends. */
import { sentence } from "../../base/errors.ts";
import { StreamError } from "./errors.ts";
import { ErrorCode, FrameType, numberFrame } from "./frames.ts";
import type { Outbox } from "./outbox.ts";
import type { PeerBudget } from "./peer_budget.ts";
import { QuietStreams } from "./quiet_streams.ts";
import type { Stream } from "./stream.ts";

/** Options of {@link Streams}. */
interface StreamsOptions {
  role: "client" | "server";
  /** How long a stream may have only headers, in milliseconds. @default see limits.ts */
  quietMs?: number;
  /** Called when a stream is not open any more. */
  dropped(): void;
}

export class Streams {
  /** By stream id. */
  readonly open = new Map<number, Stream>();
  /** Those with bytes to send, which wait for a window. */
  readonly blocked = new Set<Stream>();
  /** Those that have only headers. */
  readonly quiet: QuietStreams;
  readonly #options: StreamsOptions;
  readonly #outbox: Outbox;
  readonly #budget: PeerBudget;

  constructor(outbox: Outbox, budget: PeerBudget, options: StreamsOptions) {
    this.#options = options;
    this.#outbox = outbox;
    this.#budget = budget;
    this.quiet = new QuietStreams(
      () => options.quietMs ?? budget.limits.quietMs,
      (stream) => this.reset(stream, ErrorCode.CANCEL, "nothing came after its headers"),
    );
  }

  /** Wakes writers whose bytes are all on their way. */
  wake(): void {
    if (this.#outbox.congested) return;
    for (const stream of this.open.values()) if (stream.queue.length === 0) stream.wake();
  }

  /** Counts a stranger's bytes that a stream holds until it is over. Throws when that is too much. */
  hold(stream: Stream, bytes: number): void {
    if (!this.#budget.stranger) return;
    stream.held += bytes;
    this.#budget.hold(bytes);
  }

  /** Calls a stream's owner. If the call throws or rejects, only that stream ends. */
  tell(stream: Stream, call: () => Promise<void> | void): Promise<void> | void {
    const failed = (e: unknown) => this.reset(stream, ErrorCode.INTERNAL_ERROR, sentence(e));
    try {
      // A function typed to return nothing may still return a promise.
      const taken: unknown = call();
      if (taken instanceof Promise) return taken.catch(failed);
    } catch (e) {
      failed(e);
    }
  }

  /** Resets a stream. */
  reset(stream: Stream, code: number, why = "the stream was reset by this side"): void {
    if (!this.open.has(stream.id)) return;
    this.#outbox.send(numberFrame(FrameType.RST_STREAM, stream.id, code));
    this.drop(stream, new StreamError(code, why));
  }

  /** Our side of a stream has ended. */
  localEnd(stream: Stream): void {
    stream.localClosed = true;
    stream.wake();
    if (stream.remoteClosed) this.drop(stream);
    else if (this.#options.role === "server") this.#dropAnswered(stream);
  }

  /** The peer's side of a stream has ended. */
  remoteEnd(stream: Stream): void {
    if (stream.remoteClosed) return;
    stream.remoteClosed = true;
    this.quiet.delete(stream);
    this.tell(stream, () => stream.onEnd());
    if (stream.localClosed) this.drop(stream);
    else if (this.#options.role === "client") this.#dropAnswered(stream);
  }

  /** The response is complete: the rest of the request is not needed (RFC 9113, 8.1). */
  #dropAnswered(stream: Stream): void {
    this.#outbox.send(numberFrame(FrameType.RST_STREAM, stream.id, ErrorCode.NO_ERROR));
    this.drop(stream);
  }

  /** Takes a stream out. It is over now, or, if both sides have ended it, when its last frames are written. */
  drop(stream: Stream, error?: StreamError): void {
    if (!this.open.delete(stream.id)) return;
    this.blocked.delete(stream);
    this.quiet.delete(stream);
    if (stream.held > 0) this.#budget.release(stream.held);
    stream.held = 0;
    if (!error && this.#outbox.flushing) {
      stream.remoteClosed = true;
      this.#outbox.settleWhenWritten(stream);
    } else stream.settle(error);
    this.#options.dropped();
  }

  /** Drops all streams, or those after `id`, with an error. */
  dropAll(error: StreamError, after = 0): void {
    for (const stream of [...this.open.values()]) if (stream.id > after) this.drop(stream, error);
  }
}
