/**
 * gRPC calls on bare HTTP/2 streams, for the path of commands. Messages are decoded only where necessary, so a hop is
 * several times cheaper than a full gRPC stack, and starts 40 ms sooner.
 */
import { Buffer } from "node:buffer";
import { sentence } from "../../base/errors.ts";
import type { Stream, StreamConnection } from "../http2/stream.ts";
import type { Headers } from "../http2/hpack.ts";
import type { Caller } from "../../identity/access_rules.ts";
import { Code as Status } from "./status_code.ts";
import { frame, framePrefix, MessageStream } from "./message_stream.ts";
import { WireError } from "../../base/protobuf_fields.ts";

export { Status };

/** A gRPC status other than OK. `message` is one sentence. */
export class StatusError extends Error {
  override readonly name = "StatusError";
  /** @param details Further trailers, by lower-case name. */
  constructor(readonly code: number, message: string, readonly details: Record<string, string> = {}) {
    super(message);
  }
}

/** The headers of each response. */
const HEADERS: Headers = { ":status": "200", "content-type": "application/grpc" };

/** The server's side of one call: sends headers once, writes messages with back-pressure, ends with a status. */
export class ServerCall {
  readonly #stream: Stream;
  #ended = false;

  /** @param caller The caller, as its connection proves. */
  constructor(stream: Stream, readonly caller: Caller) {
    this.#stream = stream;
  }

  /**
   * The request has proved who the caller is: its connection is no longer a stranger's, and gets the larger limits.
   * Until then, {@link unaryRequest} and others hold only little.
   */
  admit(): void {
    this.#stream.connection.admit();
  }

  /** The connection of the call. */
  get connection(): StreamConnection {
    return this.#stream.connection;
  }

  /** Aborted when the caller is gone before the call has ended. */
  get gone(): AbortSignal {
    return this.#stream.gone;
  }

  /** Whether a status was sent. */
  get ended(): boolean {
    return this.#ended;
  }

  #respond(): void {
    if (!this.#stream.sentHeaders) this.#stream.sendHeaders(HEADERS);
  }

  /**
   * Writes bytes that are complete frames. They must not change afterwards.
   * @returns a promise to await before the next write, if the caller reads slowly
   */
  writeFrames(frames: Uint8Array): Promise<void> | undefined {
    if (this.#ended) return;
    this.#respond();
    return this.#stream.write(frames);
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

  /** Undefined if the caller has read nearly everything that was written; otherwise a promise for that. */
  get drained(): Promise<void> | undefined {
    return this.#stream.drained;
  }

  /**
   * Writes one message.
   *
   * @param released Called when the message's memory may be reused. With it, the message is not copied.
   */
  write(message: Uint8Array, released?: () => void): Promise<void> | undefined {
    if (!released) return this.writeFrames(frame(message));
    void this.writeFrames(framePrefix(message.length));
    return this.#ended ? undefined : this.#stream.write(message, released);
  }

  /** Ends the call with OK, or the error's status. */
  end(error?: StatusError): void {
    if (this.#ended) return;
    this.#ended = true;
    if (!error) {
      this.#respond();
      return this.#stream.end({ "grpc-status": "0" });
    }
    const trailers = {
      ...error.details,
      "grpc-status": String(error.code),
      // Nothing else is escaped, since clients of grpc-js unescape no more.
      "grpc-message": encodeURI(error.message.toWellFormed()).replaceAll("%20", " "),
    };
    if (this.#stream.sentHeaders) this.#stream.end(trailers);
    else this.#stream.sendHeaders({ ...HEADERS, ...trailers }, true);
  }

  /** Resolves when everything was written to the transport, or the caller is gone. */
  async closed(): Promise<void> {
    await this.#stream.closed;
  }
}

/**
 * The request message of a unary call. Call it in the turn in which the stream arrived. Throws a {@link StatusError} if
 * there is no message, more than one, or one larger than `limit` bytes.
 *
 * @param look Sees the bytes as they arrive, from the message's prefix on, before they are collected. If it throws, the
 * request is refused.
 */
export function unaryRequest(
  stream: Stream,
  limit: number,
  look: (chunk: Uint8Array) => void = () => {},
): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    const messages: Buffer[] = [];
    const gathered = new MessageStream((message) => {
      if (messages.push(Buffer.from(message)) > 1) throw new WireError("more than one message came");
      return undefined;
    }, limit);
    stream.onData = (chunk) => {
      try {
        look(chunk);
        gathered.push(chunk);
      } catch (e) {
        stream.onData = () => {};
        if (e instanceof StatusError) return reject(e);
        const code = e instanceof RangeError ? Status.RESOURCE_EXHAUSTED : Status.INVALID_ARGUMENT;
        reject(new StatusError(code, `The request was refused: ${sentence(e)}.`));
      }
    };
    stream.onEnd = () => {
      if (messages.length === 1 && gathered.atBoundary) resolve(messages[0]);
      else reject(new StatusError(Status.INVALID_ARGUMENT, "The request was cut short or is not one gRPC message."));
    };
    void stream.closed.then(() => reject(new StatusError(Status.CANCELLED, "The caller is gone.")));
  });
}

/** How an outgoing call ended. */
export interface CallEnd {
  code: number;
  message: string;
  /** All headers and trailers received. */
  trailers: Headers;
}

/**
 * Passes the bytes of an outgoing call to `take` until the call has ended. The bytes are valid during the call of
 * `take`, and flow control waits for its promise. Call it in the turn in which the stream was made.
 *
 * Resolves with the status after the last bytes were taken. A broken connection gives UNAVAILABLE without a
 * `grpc-status` among the trailers. If `take` throws or rejects, the call is cancelled and this rejects with that
 * error.
 */
export async function readCall(stream: Stream, take: (chunk: Uint8Array) => Promise<void> | void): Promise<CallEnd> {
  const headers: Headers = {};
  let last: Promise<void> | undefined;
  let refusal: { reason: unknown } | undefined;
  const refuse = (reason: unknown) => {
    refusal ??= { reason };
    stream.reset();
  };
  stream.onHeaders = (more) => void Object.assign(headers, more);
  stream.onData = (chunk) => {
    try {
      return last = take(chunk)?.catch(refuse) ?? undefined;
    } catch (e) {
      refuse(e);
    }
  };
  const error = await Promise.race([
    new Promise<undefined>((resolve) => stream.onEnd = () => resolve(undefined)),
    stream.closed,
  ]);
  await last;
  if (refusal) throw (refusal as { reason: unknown }).reason;
  return endOf(headers, error);
}

/** The status of a call from all its headers and trailers. `error` says why the call was cut off. */
export function endOf(headers: Headers, error?: Error): CallEnd {
  const code = headers["grpc-status"];
  if (code === undefined) {
    const http = headers[":status"];
    const why = error?.message ?? (http && http !== "200" ? `HTTP status ${http}` : "it ended without a status");
    return { code: Status.UNAVAILABLE, message: why, trailers: headers };
  }
  let message = headers["grpc-message"] ?? "";
  try {
    message = decodeURIComponent(message);
  } catch { /* as it came */ }
  return { code: /^\d{1,3}$/.test(code) ? Number(code) : Status.UNKNOWN, message, trailers: headers };
}

/** The request headers of a gRPC call. */
export function callHeaders(authority: string, path: string, more: Headers = {}): Headers {
  return {
    ":method": "POST",
    ":scheme": "http",
    ":path": path,
    ":authority": authority,
    te: "trailers",
    "content-type": "application/grpc",
    ...more,
  };
}
