/**
 * Streams of gRPC messages, for calls with many messages in both directions. Each message is collected once, into its
 * own buffer, and flow control waits for the reader.
 */
import { Buffer } from "node:buffer";
import type { Stream } from "../http2/stream.ts";
import type { Headers } from "../http2/hpack.ts";
import { endOf, Status, StatusError } from "./calls.ts";
import { framePrefix } from "./message_stream.ts";
import { WireError } from "../../base/protobuf_fields.ts";

/** Memory of smaller messages is not reused. Bytes. */
const LENT_BYTES = 64 << 10;
/** Copying a smaller message is cheaper than a separate frame. Bytes. */
const SMALL_BYTES = 4 << 10;
/** Bytes of unread messages at which the peer is held back. */
const QUEUE_HIGH_WATER = 1 << 20;

/** Collects a stream's bytes into messages, see message_stream.ts. */
class Gatherer {
  readonly #limit: number;
  readonly #take: (message: Buffer) => void;
  readonly #allocate: (length: number) => Buffer;
  readonly #prefix = Buffer.allocUnsafe(5);
  #prefixFilled = 0;
  #message?: Buffer;
  #filled = 0;

  constructor(limit: number, take: (message: Buffer) => void, allocate: (length: number) => Buffer) {
    this.#limit = limit;
    this.#take = take;
    this.#allocate = allocate;
  }

  get atBoundary(): boolean {
    return this.#prefixFilled === 0;
  }

  /** Throws a WireError, or a RangeError for a message beyond the limit. */
  push(chunk: Uint8Array): void {
    for (let at = 0; at < chunk.length;) {
      if (!this.#message) {
        while (this.#prefixFilled < 5 && at < chunk.length) this.#prefix[this.#prefixFilled++] = chunk[at++];
        if (this.#prefixFilled < 5) return;
        if (this.#prefix[0] !== 0) {
          throw new WireError(`a message is compressed, or is none (its flags are ${this.#prefix[0]})`);
        }
        const length = this.#prefix.readUInt32BE(1);
        if (length > this.#limit) {
          throw new RangeError(`a message of ${length} bytes is larger than ${this.#limit} bytes`);
        }
        this.#message = this.#allocate(length);
        this.#filled = 0;
      }
      const taken = Math.min(chunk.length - at, this.#message.length - this.#filled);
      this.#message.set(chunk.subarray(at, at + taken), this.#filled);
      this.#filled += taken;
      at += taken;
      if (this.#filled < this.#message.length) return;
      const message = this.#message;
      this.#message = undefined;
      this.#prefixFilled = 0;
      this.#take(message);
    }
  }
}

/** Messages that were received but not yet read. */
class Queue {
  readonly #messages: Buffer[] = [];
  #bytes = 0;
  #over?: { error?: Error };
  #wake = () => {};
  /** Resolves when there is room. */
  #room?: PromiseWithResolvers<void>;
  /** Memory of messages that were read, for reuse. Fresh memory of that size costs more than the copy into it. */
  readonly #spare: Buffer[] = [];
  readonly #lends: boolean;
  /** Lent messages that their reader keeps, with the number of holds on each. */
  readonly #kept = new Map<Buffer, number>();
  /** The message that is currently lent. */
  #lent?: Buffer;

  /** @param lends Each message is valid only until the next is requested. */
  constructor(lends: boolean) {
    this.#lends = lends;
  }

  /** See {@link OutgoingCall.keep}. */
  keep(message: Buffer): () => void {
    this.#kept.set(message, (this.#kept.get(message) ?? 0) + 1);
    let given = false;
    return () => {
      if (given) return;
      given = true;
      const times = this.#kept.get(message)! - 1;
      if (times > 0) return void this.#kept.set(message, times);
      this.#kept.delete(message);
      if (this.#lent !== message) this.#reuse(message);
    };
  }

  allocate(length: number): Buffer {
    if (!this.#lends || length < LENT_BYTES) return Buffer.allocUnsafe(length);
    const fits = this.#spare.findIndex((spare) => spare.length >= length);
    const memory = fits >= 0 ? this.#spare.splice(fits, 1)[0] : Buffer.allocUnsafeSlow(length + (length >> 3));
    return memory.subarray(0, length);
  }

  #reuse(message: Buffer): void {
    if (!this.#lends || message.length < LENT_BYTES || this.#spare.length >= 4) return;
    this.#spare.push(Buffer.from(message.buffer));
  }

  add(message: Buffer): void {
    this.#messages.push(message);
    this.#bytes += message.length;
    this.#wake();
  }

  /** Undefined if there is room; otherwise a promise for it. */
  get room(): Promise<void> | undefined {
    if (this.#bytes < QUEUE_HIGH_WATER || this.#over) return undefined;
    return (this.#room ??= Promise.withResolvers()).promise;
  }

  end(error?: Error): void {
    this.#over ??= { error };
    this.#wake();
    this.#makeRoom();
  }

  #makeRoom(): void {
    this.#room?.resolve();
    this.#room = undefined;
  }

  async *read(): AsyncGenerator<Buffer, void> {
    for (;;) {
      const message = this.#messages.shift();
      if (message) {
        this.#bytes -= message.length;
        if (this.#bytes < QUEUE_HIGH_WATER) this.#makeRoom();
        this.#lent = message;
        yield message;
        this.#lent = undefined;
        if (!this.#kept.has(message)) this.#reuse(message);
      } else if (this.#over) {
        if (this.#over.error) throw this.#over.error;
        return;
      } else await new Promise<void>((resolve) => this.#wake = resolve);
    }
  }
}

/** Collects the stream's messages in a queue. Calls `failed` for bytes that are not messages. */
function gather(stream: Stream, limit: number, lends: boolean, failed: (error: StatusError) => void) {
  const queue = new Queue(lends);
  const gatherer = new Gatherer(limit, (message) => queue.add(message), (length) => queue.allocate(length));
  let bad = false;
  stream.onData = (chunk) => {
    if (bad) return;
    try {
      gatherer.push(chunk);
    } catch (e) {
      bad = true;
      const code = e instanceof RangeError ? Status.RESOURCE_EXHAUSTED : Status.INVALID_ARGUMENT;
      failed(new StatusError(code, `A message was refused: ${(e as Error).message}.`));
      return;
    }
    return queue.room;
  };
  return { queue, gatherer };
}

/**
 * The caller's messages, in order. Call it in the turn in which the stream arrived. The buffers belong to the reader.
 * Throws a {@link StatusError}: CANCELLED when the caller is gone before it has ended, INVALID_ARGUMENT for bytes that
 * are not messages, RESOURCE_EXHAUSTED for a message of more than `limit` bytes.
 *
 * @param options.lends Each buffer is valid only until the next is requested. @default false
 */
export function requestMessages(
  stream: Stream,
  limit: number,
  options: { lends?: boolean } = {},
): AsyncIterable<Buffer> {
  const { queue, gatherer } = gather(stream, limit, options.lends ?? false, (error) => queue.end(error));
  stream.onEnd = () =>
    queue.end(
      gatherer.atBoundary ? undefined : new StatusError(Status.INVALID_ARGUMENT, "The last message was cut short."),
    );
  void stream.closed.then(() => queue.end(new StatusError(Status.CANCELLED, "The caller is gone.")));
  const messages = queue.read();
  return { [Symbol.asyncIterator]: () => messages };
}

/** An outgoing call with messages in both directions. */
export class OutgoingCall {
  readonly #stream: Stream;
  readonly #messages: AsyncGenerator<Buffer, void>;
  readonly #queue: Queue;

  /** @ignore Call it in the turn in which the stream was made. */
  constructor(stream: Stream, limit: number, options: { lends?: boolean } = {}) {
    this.#stream = stream;
    const headers: Headers = {};
    const { queue } = gather(stream, limit, options.lends ?? false, (error) => {
      queue.end(new WireError(error.message));
      stream.reset();
    });
    stream.onHeaders = (more) => void Object.assign(headers, more);
    const finish = (why?: Error) => {
      const { code, message, trailers } = endOf(headers, why);
      if (code === Status.OK) return queue.end();
      const error = new StatusError(code, message, trailers);
      error.cause = why;
      queue.end(error);
    };
    stream.onEnd = () => finish();
    void stream.closed.then(finish);
    this.#queue = queue;
    this.#messages = queue.read();
  }

  /**
   * Sends one message, in one or several pieces, which must not change afterwards.
   *
   * @param released Called when the memory of the last piece may be reused.
   * @returns a promise to await before the next message, if any
   */
  send(message: Uint8Array | readonly Uint8Array[], released?: () => void): Promise<void> | undefined {
    const pieces = message instanceof Uint8Array ? [message] : message;
    const bytes = pieces.reduce((sum, { length }) => sum + length, 0);
    // One HTTP/2 frame costs the peer less than two.
    if (bytes < SMALL_BYTES && !released) return this.#stream.write(Buffer.concat([framePrefix(bytes), ...pieces]));
    void this.#stream.write(framePrefix(bytes));
    let drained: Promise<void> | undefined;
    for (const [i, piece] of pieces.entries()) {
      drained = this.#stream.write(piece, i === pieces.length - 1 ? released : undefined);
    }
    return drained;
  }

  /** How long writes to the connection have taken in total, in milliseconds. */
  get writingMs(): number {
    return this.#stream.connection.writingMs;
  }

  /** Whether the connection was found to be slow. */
  get slow(): boolean {
    return this.#stream.connection.slow;
  }

  set slow(slow: boolean) {
    this.#stream.connection.slow = slow;
  }

  /** Ends this side: no more messages follow. */
  end(): void {
    this.#stream.end();
  }

  /** Cancels the call. */
  cancel(): void {
    this.#stream.reset();
  }

  /**
   * The peer's messages. The buffers belong to the reader, unless the call lends them. Ends after the status OK.
   * Otherwise throws a {@link StatusError}; if the call was cut off, the error is UNAVAILABLE, has no `grpc-status`
   * among its details, and has the stream's StreamError as its cause. Throws a {@link WireError} for bytes that are not
   * messages.
   */
  responses(): AsyncIterable<Buffer> {
    return { [Symbol.asyncIterator]: () => this.#messages };
  }

  /**
   * Keeps a lent message valid beyond the next one. Call it while the message is lent, once for each part that is kept.
   *
   * @returns releases that hold
   */
  keep(message: Buffer): () => void {
    return this.#queue.keep(message);
  }

  /** Resolves when the call is over, with the reason if it was cut off. */
  get closed(): Promise<Error | undefined> {
    return this.#stream.closed;
  }
}
