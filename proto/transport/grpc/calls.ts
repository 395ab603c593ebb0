/**
 * gRPC calls on bare HTTP/2 streams, for the path that commands travel: no message is decoded that need not be, which
 * makes a hop several times cheaper than a full gRPC stack (and its start 40 ms shorter).
 */
import { Buffer } from "node:buffer";
import { sentence } from "../../base/errors.ts";
import type { Http2Connection, Stream } from "../http2/connection.ts";
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

/** Of each response. */
const HEADERS: Headers = { ":status": "200", "content-type": "application/grpc" };

/** The service side of one call: sends headers once, writes messages with back-pressure, ends with a status. */
export class ServerCall {
  readonly #stream: Stream;
  #ended = false;

  /** @param caller Who calls, as the connection proves. */
  constructor(stream: Stream, readonly caller: Caller) {
    this.#stream = stream;
  }

  /**
   * The caller has proved itself by what it sent: its connection is a stranger's no more, and gets the larger limits of
   * those that are known. What {@link unaryRequest} and others gather before is little.
   */
  admit(): void {
    this.#stream.connection.admit();
  }

  /** By which the call came. */
  get connection(): Http2Connection {
    return this.#stream.connection;
  }

  /** Aborted when the caller went away before the call had ended. */
  get gone(): AbortSignal {
    return this.#stream.gone;
  }

  /** True once a status was sent. */
  get ended(): boolean {
    return this.#ended;
  }

  #respond(): void {
    if (!this.#stream.sentHeaders) this.#stream.sendHeaders(HEADERS);
  }

  /**
   * Writes bytes that are whole frames already, and that belong to the call from now on.
   * @returns a promise to wait for before more is written, if the caller reads slowly
   */
  writeFrames(frames: Uint8Array): Promise<void> | undefined {
    if (this.#ended) return;
    this.#respond();
    return this.#stream.write(frames);
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

  /** Undefined if the caller has read nearly all that was written, else a promise for that. */
  get drained(): Promise<void> | undefined {
    return this.#stream.drained;
  }

  /**
   * Writes one message.
   *
   * @param released Called when the message's memory may be used again; with it, the message is not copied before.
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
      // Not more of it, since clients of grpc-js take no more back.
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
 * The one message of a call with a unary request. Call it in the turn in which the stream came. Throws a
 * {@link StatusError} if there is none, more than one, or one larger than `limit` bytes.
 *
 * @param look Sees the bytes as they come, from the message's prefix on, before they are gathered. What it throws refuses
 * the request.
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
  /** All headers and trailers that came. */
  trailers: Headers;
}

/**
 * Hands the bytes of an outgoing call to `take` until the call has ended; they are lent for the call of `take`, and flow
 * control waits for its promise. Call it in the turn in which the stream was made. Resolves with the status, after the
 * last bytes were taken; a connection that breaks gives UNAVAILABLE without a `grpc-status` among the trailers. Rejects
 * with what `take` throws or rejects with; the call is cut off then.
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

/** The status of a call, by all headers and trailers that came; `error` says why it was cut off. */
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
