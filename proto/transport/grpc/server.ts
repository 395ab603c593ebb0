import { sentence } from "../../base/errors.ts";
import { Http2Connection } from "../http2/connection.ts";
import type { Stream } from "../http2/stream.ts";
import type { Headers } from "../http2/hpack.ts";
import type { Listener } from "../listener.ts";
import { TcpListener } from "../tcp_listener.ts";
import { ServerCall, Status, StatusError } from "./calls.ts";

/** A listening server for bare gRPC calls. */
export interface CallServer {
  readonly port: number;
  /** Stops listening and closes all connections. */
  close(): void;
}

/**
 * Serves each call by `serve`, which gets the stream in the turn in which it arrived; `call.caller` is the caller. With
 * `keepAlive`, silent callers are noticed. `onConnection` is called for each connection before its first call. If `serve`
 * throws a {@link StatusError}, the call ends with it; any other error is passed to `onError` and ends the call as
 * INTERNAL.
 *
 * @param at A listener. Or a host name: plain text on a free port, and every caller is trusted.
 * @param options.keepAlive Detects callers that fall silent.
 * @param options.onConnection Called for each connection before its first call.
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
