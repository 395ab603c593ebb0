import { Buffer } from "node:buffer";
import { sentence } from "../../base/errors.ts";
import { Http2Connection, type Stream } from "../http2/connection.ts";
import type { Transport } from "../transport.ts";
import { ErrorCode } from "../http2/frames.ts";
import type { Headers } from "../http2/hpack.ts";
import { connectTls, type TlsClientOptions, TrustError } from "../tls/client.ts";
import { type CallEnd, callHeaders, readCall, Status, StatusError } from "./calls.ts";
import { frame } from "./message_stream.ts";
import { OutgoingCall } from "./messages.ts";

/** The largest response of a unary call, in bytes. Ours hold a cookie. */
const MAX_UNARY_BYTES = 1 << 20;
/** The largest message of a call with many responses, in bytes. */
const MAX_MESSAGE_BYTES = 64 << 20;
/** A peer that cannot be reached within this time is taken for unreachable. Milliseconds. */
const CONNECT_MS = 5_000;

/**
 * Why there is no connection. refused: nobody listens there. unreachable: nothing was heard, or the way there is broken.
 * untrusted: it is not who it must be, or does not take us for who we are. clocks: the same, because of the clocks.
 */
export type NoConnection = "refused" | "unreachable" | "untrusted" | "clocks";

/** There is no connection, so that the peer has certainly seen nothing. UNAVAILABLE, or UNAUTHENTICATED without trust. */
export class ConnectError extends StatusError {
  constructor(readonly reason: NoConnection, message: string, options?: ErrorOptions) {
    super(reason === "untrusted" || reason === "clocks" ? Status.UNAUTHENTICATED : Status.UNAVAILABLE, message);
    if (options) this.cause = options.cause;
  }

  /** From what a transport threw. */
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

/** Makes a transport to a port: an IP address (v6 without brackets), or a name. */
export type Dial = (host: string, port: number, signal: AbortSignal) => Promise<Transport>;

/** How a {@link Connection} behaves. */
export interface ConnectionOptions {
  /** Notices a peer that is silent, see {@link Http2Options.keepAlive}. @default false: a peer on this machine */
  keepAlive?: boolean;
  /** Mutual TLS. @default plain text, to a peer on this machine */
  tls?: TlsClientOptions;
  /** Another way to the peer than this machine's network, in plain text. @default TCP */
  dial?: Dial;
}

/** One HTTP/2 connection (prior knowledge) to a gRPC peer, made when it is needed and again when it broke. */
export class Connection implements Disposable {
  readonly #host: string;
  readonly #port: number;
  readonly #options: ConnectionOptions;
  #connection?: Promise<Http2Connection>;
  #closed = false;
  #retired = false;

  /** @param host An IP address (v6 without brackets) or a name. */
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
      // Only the first of several callers makes the next one. What is still open on this one goes on.
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

  /** @param first What is sent in the same write as the headers. */
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
   * Begins a call in which both sides may send many messages. Throws a {@link ConnectError} if there is no connection.
   *
   * @param options.first The first message, which so goes out together with the headers. @default none yet
   * @param options.lends Each of the peer's messages is only lent, until the next is asked for. @default false
   */
  async call(
    path: string,
    headers?: Headers,
    options: { first?: Uint8Array; lends?: boolean } = {},
  ): Promise<OutgoingCall> {
    const { first } = options;
    return new OutgoingCall(await this.#request(path, headers, first && frame(first)), MAX_MESSAGE_BYTES, options);
  }

  /** Makes the connection now, so that the first call need not wait for it. It may fail: then the call says so. */
  open(): void {
    this.#connected().catch(() => {});
  }

  /** Finds out soon whether the peer is still there, see {@link Http2Connection.probe}. */
  probe(): void {
    void this.#connection?.then((c) => c.probe(), () => {});
  }

  /** Drops a connection that may be dead, so that the next call makes a new one. What runs on it ends. */
  reconnect(): void {
    const current = this.#connection;
    this.#connection = undefined;
    void current?.then((c) => c.close("the connection is made anew"), () => {});
  }

  /**
   * Begins a call with one request message. Throws a {@link ConnectError} if there is no connection.
   * Later errors show in {@link readCall}'s result.
   */
  async start(path: string, message: Uint8Array, headers?: Headers): Promise<Stream> {
    const stream = await this.#request(path, headers, frame(message));
    stream.end();
    return stream;
  }

  /** A call with one request and one response. Resolves also when it failed; see the result's code. */
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

  /** Closes when the calls that run are over; until then new ones, such as their Cancel, can be made. */
  retire(): void {
    this.#retired = true;
    void this.#connection?.then((c) => c.retire(), () => {});
  }

  /** Cuts off what runs. */
  close(): void {
    this.#closed = true;
    void this.#connection?.then((c) => c.close(), () => {});
  }

  [Symbol.dispose](): void {
    this.close();
  }
}
