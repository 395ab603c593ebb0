/** One request and its response, as their owner sees them. */
import type { StreamError } from "./errors.ts";
import { ErrorCode } from "./frames.ts";
import type { Headers } from "./hpack.ts";

/** The connection of a stream. */
export interface StreamConnection {
  /** Starts a request. */
  request(headers: Headers): Stream;
  /** Server only: the peer has proved who it is. */
  admit(): void;
  /** Closes the connection now; open streams end with an error. */
  close(reason?: string): void;
  /** Whether a sender found the transport to be slow, see CompressionChoice. */
  slow: boolean;
  /** How long writes to the transport have taken in total, in milliseconds. */
  readonly writingMs: number;
  /** @ignore Whether so much is queued for the transport that writers wait. */
  readonly congested: boolean;
  /** @ignore */
  sendHeaderBlock(stream: Stream, headers: Headers, endStream: boolean): void;
  /** @ignore Sends what the windows allow of a stream's queue. */
  pump(stream: Stream): void;
  /** @ignore */
  resetStream(stream: Stream, code: number): void;
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
  constructor(readonly id: number, readonly connection: StreamConnection, sendWindow: number) {
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
