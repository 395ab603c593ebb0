/**
 * Calls Bazel's command_server.CommandServer at the session's real server, which is found or started for each call.
 */
import type { Stream } from "../../proto/transport/http2/stream.ts";
import type { Headers } from "../../proto/transport/http2/hpack.ts";
import { Status, StatusError } from "../../proto/transport/grpc/calls.ts";
import type { Connection } from "../../proto/transport/grpc/channel.ts";

/** The real server, as callers need it. */
export interface Backend {
  host: string;
  port: number;
  requestCookie: string;
  responseCookie: string;
  /** The only connection to it. */
  connection: Connection;
}

/** Finds or starts the real server. */
export interface BackendSource {
  ensure(signal?: AbortSignal): Promise<Backend>;
  retire(backend: Backend): void;
}

/** A call that was sent to the real server. */
export interface UpstreamCall {
  backend: Backend;
  stream: Stream;
}

/** The service's path. */
export const COMMAND_SERVER = "/command_server.CommandServer/";

/** Headers of the hop from the proxy to the agent. */
const HOP_HEADERS = new Set([
  "host",
  "connection",
  "te",
  "content-type",
  "content-length",
  "authorization",
  "rbs-epoch",
]);

/** Starts calls at the real server. */
export class BazelUpstream {
  readonly #bazel: BackendSource;
  /** The server of the last call. */
  #backend: Backend | undefined;

  constructor(bazel: BackendSource) {
    this.#bazel = bazel;
  }

  /**
   * Starts a call with one request message.
   *
   * @param request Makes the message for a server, with its cookie.
   * @param headers The proxy's headers; those of that hop are left out.
   * @param signal Aborts the search for a server.
   */
  async start(
    path: string,
    request: (backend: Backend) => Uint8Array,
    headers: Headers,
    signal: AbortSignal,
  ): Promise<UpstreamCall> {
    const passed: Headers = {};
    for (const [k, v] of Object.entries(headers)) if (!k.startsWith(":") && !HOP_HEADERS.has(k)) passed[k] = v;
    const begin = async () => {
      const backend = this.#backend = await this.#bazel.ensure(signal);
      signal.throwIfAborted();
      try {
        return { backend, stream: await backend.connection.start(path, request(backend), passed) };
      } catch (e) {
        // The server no longer listens, so it has not seen this call, and the next server can get the call.
        this.#bazel.retire(backend);
        throw e;
      }
    };
    return await begin().catch((e) => {
      if (e instanceof StatusError && e.code === Status.UNAVAILABLE) return begin();
      throw e;
    });
  }

  /** Cuts off all running calls. */
  close(): void {
    this.#backend?.connection.close();
  }
}

/** The error of a call whose server was lost. */
export function serverLost(why: string): StatusError {
  return new StatusError(
    Status.UNAVAILABLE,
    `The Bazel server of this session ended unexpectedly (${why}); its log is server/jvm.out in the session's output base.`,
    { "rbs-culprit": "bazel" },
  );
}
