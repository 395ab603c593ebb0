import { Buffer } from "node:buffer";
import { sentence } from "../../base/errors.ts";
import { Http2Connection } from "../http2/connection.ts";
import type { Stream } from "../http2/stream.ts";
import type { Transport } from "../transport.ts";
import { ErrorCode } from "../http2/frames.ts";
import type { Headers } from "../http2/hpack.ts";
import { connectTls, type TlsClientOptions, TrustError } from "../tls/client.ts";
import { type CallEnd, callHeaders, readCall, Status, StatusError } from "./calls.ts";
import { frame } from "./message_stream.ts";
import { OutgoingCall } from "./messages.ts";

/** Maximum response of a unary call, in bytes. Ours hold a cookie. */
const MAX_UNARY_BYTES = 1 << 20;
/** Maximum message of a streaming call, in bytes. */
const MAX_MESSAGE_BYTES = 64 << 20;
/** Timeout of a connection attempt. Milliseconds. */
const CONNECT_MS = 5_000;

/**
 * Why there is no connection.
 * - refused: no program listens on the port.
 * - unreachable: no answer, or the network is broken.
 * - untrusted: the peer has the wrong identity, or does not accept ours.
 * - clocks: untrusted because the clocks differ.
 */
export type NoConnection = "refused" | "unreachable" | "untrusted" | "clocks";

/**
 * No connection was made, so the peer has certainly seen nothing. The code is UNAVAILABLE, or UNAUTHENTICATED without
 * trust.
 */
export class ConnectError extends StatusError {
  constructor(readonly reason: NoConnection, message: string, options?: ErrorOptions) {
    super(reason === "untrusted" || reason === "clocks" ? Status.UNAUTHENTICATED : Status.UNAVAILABLE, message);
    if (options) this.cause = options.cause;
  }

  /** Converts what a transport threw. */
  static from(e: unknown): ConnectError {
    const reason = e instanceof TrustError
      ? e.clocks ? "clocks" : "untrusted"
      : isRefused(e)
      ? "refused"
      : "unreachable";
    return new ConnectError(reason, sentence(e));
  }
}

function isRefused(e: unknown): boolean {
  if (e instanceof Deno.errors.ConnectionRefused) return true;
  return e instanceof Error && ((e as { code?: string }).code === "ECONNREFUSED" || isRefused(e.cause));
}

/** Opens a transport to a port of an IP address (v6 without brackets) or a host name. */
export type Dial = (host: string, port: number, signal: AbortSignal) => Promise<Transport>;

/** Options of a {@link Connection}. */
export interface ConnectionOptions {
  /** Detects a silent peer, see {@link Http2Options.keepAlive}. @default false: a peer on this machine */
  keepAlive?: boolean;
  /** Mutual TLS. @default plain text, to a peer on this machine */
  tls?: TlsClientOptions;
  /** Replaces TCP by another plain-text transport. @default TCP */
  dial?: Dial;
}

/** A connection to a gRPC peer over HTTP/2 with prior knowledge. Connects when needed, and again after a failure. */
export class Connection implements Disposable {
  readonly #host: string;
  readonly #port: number;
  readonly #options: ConnectionOptions;
  #connection?: Promise<Http2Connection>;
  #closed = false;
  #retired = false;

  /** @param host An IP address (v6 without brackets) or a host name. */
  constructor(host: string, port: number, options: ConnectionOptions = {}) {
    this.#host = host;
    this.#port = port;
    this.#options = options;
  }

  async #connected(): Promise<Http2Connection> {
    while (this.#connection) {
      const current = this.#connection;
      const connection = await current;
      if (connection.usable) return connection;
      // Only the first of several callers reconnects. Streams that are open on the old connection continue.
      if (this.#connection === current) {
        connection.retire();
        this.#connection = undefined;
      }
    }
    if (this.#retired) throw new Error("the connection is not used any more");
    const connecting = this.#connection = this.#connect();
    connecting.catch(() => {
      if (this.#connection === connecting) this.#connection = undefined;
    });
    return connecting;
  }

  async #connect(): Promise<Http2Connection> {
    const { keepAlive = false } = this.#options;
    const late = new AbortController();
    const timer = setTimeout(() => late.abort(), CONNECT_MS);
    try {
      const transport = await this.#dial(late.signal);
      const connection = new Http2Connection(transport, { role: "client", keepAlive });
      if (this.#closed) connection.close();
      return connection;
    } catch (e) {
      throw late.signal.aborted ? new Error(`no answer within ${CONNECT_MS / 1000} s`) : e;
    } finally {
      clearTimeout(timer);
    }
  }

  async #dial(signal: AbortSignal): Promise<Transport> {
    const { tls, dial } = this.#options;
    if (dial) return await dial(this.#host, this.#port, signal);
    if (tls) return await connectTls(this.#host, this.#port, tls, signal);
    const tcp = await Deno.connect({ hostname: this.#host, port: this.#port, signal });
    tcp.setNoDelay(true);
    return tcp;
  }

  /** @param first Sent in the same write as the headers. */
  async #request(path: string, headers?: Headers, first?: Uint8Array): Promise<Stream> {
    let connection: Http2Connection;
    try {
      if (this.#closed) throw new Error("closed");
      connection = await this.#connected();
    } catch (e) {
      throw ConnectError.from(e);
    }
    const stream = connection.request(callHeaders(`${this.#host}:${this.#port}`, path, headers));
    if (first) void stream.write(first);
    return stream;
  }

  /**
   * Starts a bidirectional streaming call. Throws a {@link ConnectError} if there is no connection.
   *
   * @param options.first The first message, sent together with the headers. @default none
   * @param options.lends Each response is valid only until the next is requested. @default false
   */
  async call(
    path: string,
    headers?: Headers,
    options: { first?: Uint8Array; lends?: boolean } = {},
  ): Promise<OutgoingCall> {
    const { first } = options;
    return new OutgoingCall(await this.#request(path, headers, first && frame(first)), MAX_MESSAGE_BYTES, options);
  }

  /** Connects now, so that the first call does not have to wait. If this fails, the first call reports it. */
  open(): void {
    this.#connected().catch(() => {});
  }

  /** Checks soon whether the peer is still there, see {@link Http2Connection.probe}. */
  probe(): void {
    void this.#connection?.then((c) => c.probe(), () => {});
  }

  /** Drops a connection that may be dead; the next call makes a new one. Calls on the old one end. */
  reconnect(): void {
    const current = this.#connection;
    this.#connection = undefined;
    void current?.then((c) => c.close("the connection is made anew"), () => {});
  }

  /**
   * Starts a call with one request message. Throws a {@link ConnectError} if there is no connection. Later errors are
   * in the result of {@link readCall}.
   */
  async start(path: string, message: Uint8Array, headers?: Headers): Promise<Stream> {
    const stream = await this.#request(path, headers, frame(message));
    stream.end();
    return stream;
  }

  /** A unary call. Resolves even if it failed; see the code in the result. */
  async unary(
    path: string,
    message: Uint8Array,
    options: { headers?: Headers; timeoutMs?: number } = {},
  ): Promise<CallEnd & { data: Uint8Array }> {
    const chunks: Uint8Array[] = [];
    let bytes = 0;
    let end: CallEnd;
    let timer: ReturnType<typeof setTimeout> | undefined;
    try {
      const stream = await this.start(path, message, options.headers);
      timer = setTimeout(() => stream.reset(ErrorCode.CANCEL), options.timeoutMs ?? 10_000);
      end = await readCall(stream, (chunk) => {
        bytes += chunk.length;
        if (bytes > MAX_UNARY_BYTES) throw new StatusError(Status.RESOURCE_EXHAUSTED, "The response is too large.");
        chunks.push(Buffer.from(chunk));
      });
    } catch (e) {
      if (!(e instanceof StatusError)) throw e;
      end = { code: e.code, message: e.message, trailers: {} };
    } finally {
      clearTimeout(timer);
    }
    const data = Buffer.concat(chunks);
    return {
      ...end,
      code: end.code === Status.OK && data.length < 5 ? Status.INTERNAL : end.code,
      data: data.subarray(5),
    };
  }

  /** Closes when all current calls have ended. Until then new calls, such as their Cancel, can be made. */
  retire(): void {
    this.#retired = true;
    void this.#connection?.then((c) => c.retire(), () => {});
  }

  /** Closes now; current calls end. */
  close(): void {
    this.#closed = true;
    void this.#connection?.then((c) => c.close(), () => {});
  }

  [Symbol.dispose](): void {
    this.close();
  }
}
