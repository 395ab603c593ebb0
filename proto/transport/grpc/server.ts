import { sentence } from "../../base/errors.ts";
import { Http2Connection, type Stream } from "../http2/connection.ts";
import type { Headers } from "../http2/hpack.ts";
import type { Listener } from "../listener.ts";
import { TcpListener } from "../tcp_listener.ts";
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
  at: string | Listener,
  serve: (stream: Stream, headers: Headers, call: ServerCall) => Promise<void>,
  onError: (path: string, error: unknown) => void,
  options: { keepAlive?: boolean; onConnection?(connection: Http2Connection): void } = {},
): CallServer {
  const listener = typeof at === "string" ? new TcpListener({ hostname: at, trusted: true }) : at;
  const connections = new Set<Http2Connection>();
  listener.start(({ transport, admission, caller }) => {
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
