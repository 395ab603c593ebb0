import { sentence } from "../errors.ts";
import { Http2Connection, type Stream } from "../http2/connection.ts";
import type { Headers } from "../http2/hpack.ts";
import { ServerCall, Status, StatusError } from "./calls.ts";

/** A listening server of bare gRPC calls. */
export interface CallServer {
  readonly port: number;
  /** Stops listening and cuts what is left. */
  close(): void;
}

/**
 * Listens on a free port of `hostname` and has each call served by `serve`, which gets the stream in the turn in which it
 * came. With `keepAlive`, callers that fall silent are noticed. What `serve` throws ends the call: a {@link StatusError} as it is, anything else as INTERNAL, after `onError`.
 */
export function listenForCalls(
  hostname: string,
  serve: (stream: Stream, headers: Headers, call: ServerCall) => Promise<void>,
  onError: (path: string, error: unknown) => void,
  options: { keepAlive?: boolean } = {},
): CallServer {
  const listener = Deno.listen({ hostname, port: 0 });
  const connections = new Set<Http2Connection>();
  const onStream = (stream: Stream, headers: Headers) => {
    const call = new ServerCall(stream);
    serve(stream, headers, call).catch((e) => {
      if (e instanceof StatusError) return call.end(e);
      if (!call.gone.aborted) onError(headers[":path"], e);
      call.end(new StatusError(Status.INTERNAL, sentence(e)));
    });
  };
  (async () => {
    for (;;) {
      let tcp: Deno.TcpConn;
      try {
        tcp = await listener.accept();
        tcp.setNoDelay(true);
      } catch (e) {
        if (e instanceof Deno.errors.BadResource || e instanceof Deno.errors.Interrupted) return;
        // A connection that broke before it was taken, or too many open files: neither ends the server.
        await new Promise((r) => setTimeout(r, 10));
        continue;
      }
      const connection = new Http2Connection(tcp, { role: "server", onStream, ...options });
      connections.add(connection);
      void connection.closed.then(() => connections.delete(connection));
    }
  })();
  return {
    port: (listener.addr as Deno.NetAddr).port,
    close() {
      try {
        listener.close();
      } catch { /* closed before */ }
      for (const connection of connections) connection.close();
    },
  };
}
