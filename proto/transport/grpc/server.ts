import { AdmissionControl, type AdmissionLimits, BACKLOG } from "../admission.ts";
import { sentence } from "../../base/errors.ts";
import type { Caller } from "../../identity/access_rules.ts";
import { Http2Connection, type Stream, type Transport } from "../http2/connection.ts";
import type { Headers } from "../http2/hpack.ts";
import type { CallListener, OnCaller } from "../tls/call_listener.ts";
import { ServerCall, Status, StatusError } from "./calls.ts";

/** A listening server of bare gRPC calls. */
export interface CallServer {
  readonly port: number;
  /** Stops listening and cuts what is left. */
  close(): void;
}

/**
 * Has each call served by `serve`, which gets the stream in the turn in which it came, and finds in `call.caller` who
 * calls. With `keepAlive`, callers that fall silent are noticed; `onConnection` is told of each caller before
 * it has said anything. What `serve` throws ends the call: a {@link StatusError} as it is, anything else as INTERNAL, after
 * `onError`.
 *
 * @param at Where callers come from; or a host name: plain text, on a free port of it, and each caller is trusted.
 */
export function listenForCalls(
  at: string | CallListener,
  serve: (stream: Stream, headers: Headers, call: ServerCall) => Promise<void>,
  onError: (path: string, error: unknown) => void,
  options: { keepAlive?: boolean; onConnection?(connection: Http2Connection): void } = {},
): CallServer {
  const listener = typeof at === "string" ? new TcpListener({ hostname: at, trusted: true }) : at;
  const connections = new Set<Http2Connection>();
  listener.start((transport, admission, caller) => {
    const onStream = (stream: Stream, headers: Headers) => {
      const call = new ServerCall(stream, caller);
      serve(stream, headers, call).catch((e) => {
        if (e instanceof StatusError) return call.end(e);
        if (!call.gone.aborted) onError(headers[":path"], e);
        call.end(new StatusError(Status.INTERNAL, sentence(e)));
      });
    };
    const connection = new Http2Connection(transport, { role: "server", onStream, admission, ...options });
    connections.add(connection);
    options.onConnection?.(connection);
    void connection.closed.then(() => connections.delete(connection));
  });
  return {
    port: listener.port,
    close() {
      listener.close();
      for (const connection of connections) connection.close();
    },
  };
}

/** What is read of a connection before it is taken for one of HTTP/2, in bytes: a client's first words, its call as well. */
const FIRST_BYTES = 1 << 10;

/** Who calls in plain text has proved nothing by that. */
const PLAIN: Caller = { stranger: "it speaks plain text" };

/** Options of a {@link TcpListener}. */
export interface TcpListenerOptions {
  /** An IP address (v6 without brackets) or a name of this machine. */
  hostname: string;
  /** @default 0: a free one */
  port?: number;
  /** Each caller is as good as known, as in tests. @default false: it is a stranger until {@link ServerCall.admit} */
  trusted?: boolean;
  limits?: Partial<AdmissionLimits>;
  /** Told why a caller was refused, in one sentence; not of each when there are many. */
  onRefused?(why: string): void;
}

/** Callers in plain text: those of this machine, and those of tests. */
export class TcpListener implements CallListener {
  readonly #listener: Deno.TcpListener;
  readonly #trusted: boolean;
  /** What its callers cost. */
  readonly admission: AdmissionControl;

  /** Throws the system's error if it cannot listen there. */
  constructor({ hostname, port = 0, trusted = false, limits, onRefused }: TcpListenerOptions) {
    this.#listener = Deno.listen({ hostname, port, tcpBacklog: BACKLOG });
    this.#trusted = trusted;
    this.admission = new AdmissionControl(limits, onRefused);
  }

  get port(): number {
    return (this.#listener.addr as Deno.NetAddr).port;
  }

  async start(onCaller: OnCaller): Promise<void> {
    for (;;) {
      let tcp: Deno.TcpConn;
      try {
        tcp = await this.#listener.accept();
      } catch (e) {
        if (e instanceof Deno.errors.BadResource || e instanceof Deno.errors.Interrupted) return;
        // A connection that broke before it was taken, or too many open files: neither ends the server.
        await new Promise((r) => setTimeout(r, 10));
        continue;
      }
      try {
        tcp.setNoDelay(true);
      } catch { /* it broke already, which its reader will notice */ }
      void this.#take(tcp, onCaller);
    }
  }

  async #take(tcp: Deno.TcpConn, onCaller: OnCaller): Promise<void> {
    const close = () => {
      try {
        tcp.close();
      } catch { /* closed before */ }
    };
    const admission = this.admission.enter(close);
    if (!admission) return close();
    if (this.#trusted) return admission.admit() ? onCaller(tcp, admission, PLAIN) : close();
    // A client of HTTP/2 speaks first. Until it does, it costs no more than this.
    const first = new Uint8Array(FIRST_BYTES);
    const length = await tcp.read(first).catch(() => null);
    if (length === null || !admission.secured()) {
      admission.end();
      return close();
    }
    onCaller(new Begun(tcp, first.subarray(0, length)), admission, PLAIN);
  }

  close(): void {
    try {
      this.#listener.close();
    } catch { /* closed before */ }
  }
}

/** A connection of which some bytes were read already. */
class Begun implements Transport {
  readonly #tcp: Deno.TcpConn;
  #first: Uint8Array;

  constructor(tcp: Deno.TcpConn, first: Uint8Array) {
    this.#tcp = tcp;
    this.#first = first;
  }

  read(into: Uint8Array): Promise<number | null> {
    const length = Math.min(this.#first.length, into.length);
    if (length === 0) return this.#tcp.read(into);
    into.set(this.#first.subarray(0, length));
    this.#first = this.#first.subarray(length);
    return Promise.resolve(length);
  }

  write(bytes: Uint8Array): Promise<number> {
    return this.#tcp.write(bytes);
  }

  close(): void {
    this.#tcp.close();
  }
}
