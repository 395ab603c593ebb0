/**
 * The command port: Bazel's command_server.CommandServer, as the session's real server answers it. A call is admitted,
 * gets the real server's cookie, and passes; responses are not even looked at, but for the first one of a Run, which
 * names the command: so that the agent can cancel it when the proxy is gone.
 */
import { Buffer } from "node:buffer";
import type { Stream } from "../proto/http2/connection.ts";
import type { Headers } from "../proto/http2/hpack.ts";
import { readCall, type ServerCall, Status, StatusError, unaryRequest } from "../proto/relay/calls.ts";
import { Connection } from "../proto/relay/connection.ts";
import { listenForCalls } from "../proto/relay/server.ts";
import { MessageStream } from "../proto/relay/message_stream.ts";
import { bytesValue, encodeFields, patchFields, scanFields, textValue, varintValue } from "../proto/relay/wire.ts";
import { RpcError } from "../proto/rpc.ts";
import { withoutExpunge } from "./expunge.ts";

/** The real server, as the relay needs it. */
export interface Backend {
  host: string;
  port: number;
  requestCookie: string;
  responseCookie: string;
}

/** What the relay works with. */
export interface CommandRelayParts {
  /** Finds or starts the real server. */
  bazel: { ensure(signal?: AbortSignal): Promise<Backend>; retire(backend: Backend): void; stop(): Promise<void> };
  /** Throws an RpcError unless the caller is the session's owner, in its present epoch. */
  gate: { admit(authorization: string | undefined, epoch: string | undefined): void };
  /** Counts the commands that run. */
  activity: { begin(): Disposable };
  /** The output base as the developer's machine sees it. */
  localOutputBase: { ensure(): Promise<void>; restore(): Promise<void>; expunge(): Promise<void> };
  onError(what: string, error: unknown): void;
}

/** RunResponse.termination_expected. */
const TERMINATION_EXPECTED = 7;
const SERVICE = "/command_server.CommandServer/";
/** As in the proxy: a command line and an environment, with room to spare. */
const MAX_REQUEST_BYTES = 64 << 20;
/** Headers that belong to the hop from the proxy to the agent. */
const HOP_HEADERS = new Set([
  "host",
  "connection",
  "te",
  "content-type",
  "content-length",
  "authorization",
  "rbs-epoch",
]);

/** A listening relay. */
export interface CommandRelay {
  port: number;
  close(): Promise<void>;
}

/** Starts to listen on a free port of `host`. */
export function startCommandRelay(parts: CommandRelayParts, host = "127.0.0.1"): CommandRelay {
  let connection: { backend: Backend; connection: Connection } | undefined;

  const connect = async (signal: AbortSignal) => {
    const backend = await parts.bazel.ensure(signal);
    if (connection?.backend.port !== backend.port || connection.backend.requestCookie !== backend.requestCookie) {
      connection?.connection.close();
      connection = { backend, connection: new Connection(backend.host, backend.port) };
    }
    return connection;
  };

  const serve = async (stream: Stream, headers: Headers, call: ServerCall) => {
    const path = headers[":path"] ?? "";
    const arrived = unaryRequest(stream, MAX_REQUEST_BYTES);
    arrived.catch(() => {});
    try {
      parts.gate.admit(headers.authorization, headers["rbs-epoch"]);
    } catch (e) {
      throw e instanceof RpcError ? new StatusError(e.code, e.message) : e;
    }
    if (!path.startsWith(SERVICE)) {
      throw new StatusError(Status.UNIMPLEMENTED, `${path} is no method of a Bazel command server.`);
    }
    const message = await arrived;
    const isRun = path === `${SERVICE}Run`;
    using _running = isRun ? parts.activity.begin() : undefined;
    if (isRun) await parts.localOutputBase.ensure();
    const { args, expunge } = isRun ? withoutExpunge(runArguments(message)) : { args: [], expunge: false };
    const passed: Headers = {};
    for (const [k, v] of Object.entries(headers)) if (!k.startsWith(":") && !HOP_HEADERS.has(k)) passed[k] = v;
    const begin = async () => {
      const { backend, connection } = await connect(call.gone);
      call.gone.throwIfAborted();
      let arg = 0;
      const request = Buffer.concat(patchFields(message, (f) => {
        if (f.number === 1) return Buffer.from(backend.requestCookie);
        if (f.number === 2 && expunge) return Buffer.from(args[arg++], "latin1");
      }));
      try {
        return { backend, connection, upstream: await connection.start(path, request, passed) };
      } catch (e) {
        // It does not listen any more, so that it has seen nothing of this call: the next one will get it.
        parts.bazel.retire(backend);
        throw e;
      }
    };
    const { backend, connection, upstream } = await begin().catch((e) => {
      if (e instanceof StatusError && e.code === Status.UNAVAILABLE) return begin();
      throw e;
    });

    let commandId: string | undefined, terminates = false;
    const watch = isRun
      ? new MessageStream((response) => {
        // The first names the command, the last says whether the server ends with it; neither carries much output.
        if (commandId !== undefined && response.length > 4096) return undefined;
        scanFields(response, (f) => {
          if (f.number === 6) commandId ??= textValue(response, f);
          else if (f.number === 7) terminates = varintValue(response, f) !== 0;
        });
        return undefined;
      })
      : undefined;
    // The last response of an expunging command waits until the output base is empty.
    let last: Buffer | undefined;
    const withhold = expunge
      ? new MessageStream((response) => {
        if (!isSuccess(response)) return [response];
        last = Buffer.from(response);
        return undefined;
      })
      : undefined;
    let cancelled = false;
    const cancel = () => {
      // A Run without an id yet is cancelled by the first response, below.
      if (cancelled || (isRun && commandId === undefined)) return;
      cancelled = true;
      if (commandId === undefined) return upstream.reset();
      // Explicitly: Bazel's server does not stop a silent action because its client's stream was reset.
      void connection.unary(`${SERVICE}Cancel`, encodeFields([[1, backend.requestCookie], [2, commandId]])).then(
        (end) => {
          if (end.code !== Status.OK) parts.onError("Cancel", new StatusError(end.code, end.message));
        },
      );
    };
    call.gone.addEventListener("abort", cancel);
    const end = await readCall(upstream, (chunk) => {
      watch?.push(chunk);
      // The proxy is gone: read on to the end, so that the server's lock is free when this command counts as ended.
      if (call.gone.aborted) return cancel();
      const frames = withhold ? withhold.push(chunk) : Buffer.from(chunk);
      if (frames) return call.writeFrames(frames);
    });
    call.gone.removeEventListener("abort", cancel);
    // The next command must not get a server that is about to end.
    if (terminates) parts.bazel.retire(backend);
    if (end.code === Status.OK) {
      if (isRun && isForShutdown(message)) await parts.localOutputBase.restore();
      if (last) {
        await parts.bazel.stop();
        await parts.localOutputBase.expunge();
        await call.write(Buffer.concat([last, encodeFields([[TERMINATION_EXPECTED, true]])]));
      }
      return call.end();
    }
    if (end.trailers["grpc-status"] !== undefined) return call.end(new StatusError(end.code, end.message));
    call.end(
      new StatusError(
        Status.UNAVAILABLE,
        `The Bazel server of this session ended unexpectedly (${end.message}); its log is server/jvm.out in the session's output base.`,
      ),
    );
  };

  const server = listenForCalls(host, serve, parts.onError);
  return {
    port: server.port,
    close() {
      server.close();
      connection?.connection.close();
      return Promise.resolve();
    },
  };
}

/** The command and its arguments, byte for byte in latin-1. */
function runArguments(run: Uint8Array): string[] {
  const args: string[] = [];
  scanFields(run, (f) => {
    if (f.number === 2) args.push(Buffer.from(bytesValue(run, f)).toString("latin1"));
  });
  return args;
}

/** True for the last response of a command that ended with exit code 0. */
function isSuccess(response: Uint8Array): boolean {
  let finished = false, exitCode = 0;
  scanFields(response, (f) => {
    if (f.number === 4) finished = varintValue(response, f) !== 0;
    else if (f.number === 5) exitCode = varintValue(response, f);
  });
  return finished && exitCode === 0;
}

/** True for the shutdown that a Bazel client asks for by itself: another set of startup options, or RBS switched off. */
function isForShutdown(run: Uint8Array): boolean {
  let description = "";
  scanFields(run, (f) => {
    if (f.number === 4) description = textValue(run, f);
  });
  return description.endsWith("(for shutdown)");
}
