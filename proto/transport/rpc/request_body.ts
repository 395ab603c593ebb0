/** The body of a request to our own services: nothing of it is taken before it is decided that the caller may send it. */
import { Buffer } from "node:buffer";
import type { Meter } from "../../base/byte_budget.ts";
import type { Stream } from "../http2/stream.ts";
import { MessageStream } from "../grpc/message_stream.ts";
import { Code, RpcError } from "./error.ts";

/** What a message costs that waits for its reader, beside its bytes. */
const MESSAGE_BYTES = 128;
/** Bytes of messages that wait for their reader before the peer is held back. */
const QUEUE_HIGH_WATER = 256 << 10;

/**
 * Make it in the turn in which the stream came. What comes before {@link accept} is held as it is, and the peer gets no
 * room for more. All that is held is counted, when it comes.
 */
export class RequestBody {
  readonly #stream: Stream;
  readonly #meter: Meter;
  readonly #gathered: MessageStream;
  readonly #onRefused: (error: RpcError) => void;
  /** What came before it was decided; undefined: that is so. */
  #early?: Buffer[] = [];
  readonly #decided = Promise.withResolvers<void>();
  /** Those that are whole, and not read yet. */
  readonly #messages: Buffer[] = [];
  /** What they are counted for. */
  #waiting = 0;
  #room?: PromiseWithResolvers<void>;
  #over?: { error?: RpcError };
  #wake = () => {};

  /**
   * @param meter Counts what is held. Who made it gives back what is left when the call is over.
   * @param limit The largest message, in bytes.
   * @param onRefused Told when something came that is not taken: the call is to end. Who reads gets the same error.
   */
  constructor(stream: Stream, meter: Meter, limit: number, onRefused: (error: RpcError) => void) {
    this.#stream = stream;
    this.#onRefused = onRefused;
    this.#meter = meter;
    this.#gathered = new MessageStream((message) => {
      this.#take(MESSAGE_BYTES);
      this.#messages.push(Buffer.from(message)); // a copy
      this.#waiting += counted(message);
      this.#wake();
      return undefined;
    }, limit);
    stream.onData = (chunk) => this.#receive(chunk);
    stream.onEnd = () => {
      if (!this.#early) this.#end();
    };
    void stream.closed.then(() => this.fail(new RpcError(Code.CANCELLED, "The caller is gone.")));
  }

  /** From here on the body is taken. */
  accept(): void {
    const early = this.#early ?? [];
    this.#early = undefined;
    for (const chunk of early) this.#gather(chunk);
    this.#decided.resolve();
    if (this.#stream.remoteClosed) this.#end();
  }

  /** Nothing more is taken, and who reads gets this error. */
  fail(error: RpcError): void {
    this.#over ??= { error };
    this.#early &&= [];
    this.#decided.resolve();
    this.#room?.resolve();
    this.#wake();
  }

  /** The one message of the body. Throws an {@link RpcError} if there is another number of them, or none that is whole. */
  async unary(): Promise<Buffer> {
    while (!this.#over && this.#messages.length < 2) await new Promise<void>((resolve) => this.#wake = resolve);
    if (this.#over?.error) throw this.#over.error;
    if (this.#messages.length === 1) return this.#messages[0];
    const many = this.#messages.length > 1 ? "more than one message" : "no message";
    throw new RpcError(Code.INVALID_ARGUMENT, `The request was refused: ${many} came.`);
  }

  /** The messages of the body, in their order. Throws an {@link RpcError} when it does not come to its end. */
  async *messages(): AsyncGenerator<Buffer, void> {
    for (;;) {
      const message = this.#messages.shift();
      if (message) {
        this.#waiting -= counted(message);
        this.#meter.give(counted(message));
        if (this.#waiting < QUEUE_HIGH_WATER) {
          this.#room?.resolve();
          this.#room = undefined;
        }
        yield message;
      } else if (this.#over) {
        if (this.#over.error) throw this.#over.error;
        return;
      } else await new Promise<void>((resolve) => this.#wake = resolve);
    }
  }

  /** @returns what to wait for before the peer may send more */
  #receive(chunk: Uint8Array): Promise<void> | undefined {
    if (this.#over) return undefined;
    try {
      this.#take(chunk.length);
    } catch (e) {
      this.#refuse(e);
      return undefined;
    }
    if (this.#early) {
      this.#early.push(Buffer.from(chunk)); // a copy
      return this.#decided.promise;
    }
    this.#gather(chunk);
    if (this.#waiting < QUEUE_HIGH_WATER || this.#over) return undefined;
    return (this.#room ??= Promise.withResolvers()).promise;
  }

  #take(bytes: number): void {
    if (!this.#meter.take(bytes)) throw new RangeError("the caller sends too much at the same time");
  }

  #gather(chunk: Uint8Array): void {
    if (this.#over) return;
    try {
      this.#gathered.push(chunk);
    } catch (e) {
      this.#refuse(e);
    }
  }

  #refuse(e: unknown): void {
    const code = e instanceof RangeError ? Code.RESOURCE_EXHAUSTED : Code.INVALID_ARGUMENT;
    const error = new RpcError(code, `The request was refused: ${(e as Error).message}.`);
    this.#messages.length = 0;
    this.fail(error);
    this.#onRefused(error);
  }

  #end(): void {
    if (this.#gathered.atBoundary) {
      this.#over ??= {};
      this.#wake();
    } else this.fail(new RpcError(Code.INVALID_ARGUMENT, "The request was refused: its last message was cut short."));
  }
}

/** What a message is counted for: its bytes with their prefix, and itself. */
function counted({ length }: Uint8Array): number {
  return 5 + length + MESSAGE_BYTES;
}
