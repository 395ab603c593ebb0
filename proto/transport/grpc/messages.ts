/**
 * Streams of gRPC messages, for calls of which both sides may send many: each message is gathered once, into a buffer of
 * its own, and flow control waits for whoever reads.
 */
import { Buffer } from "node:buffer";
import type { Stream } from "../http2/connection.ts";
import type { Headers } from "../http2/hpack.ts";
import { endOf, Status, StatusError } from "./calls.ts";
import { framePrefix } from "./message_stream.ts";
import { WireError } from "../../base/protobuf_fields.ts";

/** Smaller messages are not worth their memory's being used again. */
const LENT_BYTES = 64 << 10;
/** Copying so few is cheaper than a frame of their own. */
const SMALL_BYTES = 4 << 10;
/** Bytes of messages that wait for their reader before the peer is held back. */
const QUEUE_HIGH_WATER = 1 << 20;

/** Puts a stream's bytes together again into messages, see message_stream.ts. */
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

  /** Throws a WireError or, for a message beyond the limit, a RangeError. */
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

/** What came and was not read yet. */
class Queue {
  readonly #messages: Buffer[] = [];
  #bytes = 0;
  #over?: { error?: Error };
  #wake = () => {};
  /** Everybody who waits for room. */
  #room?: PromiseWithResolvers<void>;
  /** Memory of messages that were read, to be used again. Fresh memory of that size costs more than the copy into it. */
  readonly #spare: Buffer[] = [];
  readonly #lends: boolean;
  /** Messages that were lent and that their reader keeps for longer, and how often it has said so. */
  readonly #kept = new Map<Buffer, number>();
  /** The message that is lent. */
  #lent?: Buffer;

  /** @param lends Each message is only lent, until the next one is asked for. */
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

  /** Undefined, or what to wait for before more comes. */
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

/** Has the stream's bytes gathered into a queue; `failed` is told of bytes that are no messages. */
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
 * The messages of a call, in their order, as the caller sends them. Call it in the turn in which the stream came. The
 * buffers belong to the reader. Throws a {@link StatusError}: CANCELLED when the caller is gone before it has ended,
 * INVALID_ARGUMENT for what are no messages, RESOURCE_EXHAUSTED for one of more than `limit` bytes.
 *
 * @param options.lends The buffers are only lent, each until the next is asked for. @default false
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

/** A call that this side made, while both sides send. */
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
   * Sends one message, in one piece or several, which belong to the call from now on.
   *
   * @param released Called when the last piece's memory may be used again.
   * @returns what to wait for before more is sent, if so
   */
  send(message: Uint8Array | readonly Uint8Array[], released?: () => void): Promise<void> | undefined {
    const pieces = message instanceof Uint8Array ? [message] : message;
    const bytes = pieces.reduce((sum, { length }) => sum + length, 0);
    // In one frame of HTTP/2, which costs the peer less than two.
    if (bytes < SMALL_BYTES && !released) return this.#stream.write(Buffer.concat([framePrefix(bytes), ...pieces]));
    void this.#stream.write(framePrefix(bytes));
    let drained: Promise<void> | undefined;
    for (const [i, piece] of pieces.entries()) {
      drained = this.#stream.write(piece, i === pieces.length - 1 ? released : undefined);
    }
    return drained;
  }

  /** For how long the connection has been busy with writing, in milliseconds. */
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

  /** Says that no more messages come. */
  end(): void {
    this.#stream.end();
  }

  /** Cuts the call off. */
  cancel(): void {
    this.#stream.reset();
  }

  /**
   * The peer's messages; their buffers belong to the reader, unless the call lends them. Ends after the status OK. Throws a {@link StatusError}
   * otherwise; one of a call that was cut off has UNAVAILABLE, no `grpc-status` among its details, and the stream's
   * StreamError as its cause. Throws a {@link WireError} for what are no messages.
   */
  responses(): AsyncIterable<Buffer> {
    return { [Symbol.asyncIterator]: () => this.#messages };
  }

  /**
   * Keeps a message that is only lent beyond the next one. Call it while it is lent, for each part of it that is kept.
   *
   * @returns gives that part back
   */
  keep(message: Buffer): () => void {
    return this.#queue.keep(message);
  }

  /** Resolves when the call is over: with the reason if it was cut off. */
  get closed(): Promise<Error | undefined> {
    return this.#stream.closed;
  }
}
