/** The agent's port for the proxy, on our own HTTP/2. Each call is admitted, then served by its service. */
import type { Stream } from "../../proto/transport/http2/stream.ts";
import type { Headers } from "../../proto/transport/http2/hpack.ts";
import { type ServerCall, Status, StatusError } from "../../proto/transport/grpc/calls.ts";
import type { Listener } from "../../proto/transport/listener.ts";
import { type CallServer, listenForCalls } from "../../proto/transport/grpc/server.ts";
import { RpcError } from "../../proto/transport/rpc/error.ts";
import { COMMAND_SERVER } from "../bazel/bazel_upstream.ts";
import type { Gate } from "../control/gate.ts";

/** Serves a call. Throws a StatusError to refuse it. */
export type CallHandler = (stream: Stream, headers: Headers, call: ServerCall) => Promise<void>;

/** Options of {@link listenForProxy}. */
export interface CommandPortParts {
  /** Where callers come from: a listener for mutual TLS (a TlsListener), or a host name for plain text on a free port. */
  at: string | Listener;
  /** Throws an RpcError unless the caller is the session's owner, with the present epoch. */
  gate: Pick<Gate, "admit">;
  /** By "/package.Service/Method". */
  handlers: Readonly<Record<string, CallHandler>>;
  /** Serves methods of Bazel's own service that have no handler. */
  relay: CallHandler;
  onError(what: string, error: unknown): void;
}

/** Starts to serve. */
export function listenForProxy({ at, gate, handlers, relay, onError }: CommandPortParts): CallServer {
  const serve: CallHandler = (stream, headers, call) => {
    const path = headers[":path"] ?? "";
    try {
      gate.admit(path, call.caller, headers.authorization, headers["rbs-epoch"]);
    } catch (e) {
      throw e instanceof RpcError ? new StatusError(e.code, e.message) : e;
    }
    const handler = Object.hasOwn(handlers, path)
      ? handlers[path]
      : path.startsWith(COMMAND_SERVER)
      ? relay
      : undefined;
    if (!handler) throw new StatusError(Status.UNIMPLEMENTED, `${path} is no method of this agent.`);
    return handler(stream, headers, call);
  };
  // Async, so that what it throws synchronously becomes a rejection.
  return listenForCalls(at, async (...args) => await serve(...args), onError, { keepAlive: true });
}
