/**
 * Serves our own services, from the generated descriptors, on our own HTTP/2.
 *
 * Why not by grpc-js, which is our clients': its server, and node:http2 below it, gather what strangers send before
 * anybody can refuse them, bound neither header lists nor streams, and abort the process in Deno 2.9.6 when a peer says
 * GOAWAY (denoland/deno#36788). Here a caller is decided about from the headers alone, and what it may hold is counted.
 */
import { create, type DescMessage, fromBinary, type MessageInitShape, toBinary } from "@bufbuild/protobuf";
import { parseHostPort } from "../../base/host_port.ts";
import type { AdmissionLimits } from "../admission.ts";
import { ByteBudget, Holding, type Meter } from "../../base/byte_budget.ts";
import type { Stream } from "../http2/stream.ts";
import type { Headers } from "../http2/hpack.ts";
import { AccessDenied } from "../../identity/access_denied.ts";
import type { Credentials } from "../../identity/credentials.ts";
import { type Identity, spiffeUri } from "../../identity/spiffe.ts";
import { type ServerCall, StatusError } from "../grpc/calls.ts";
import { type CallServer, listenForCalls } from "../grpc/server.ts";
import type { Listener } from "../listener.ts";
import { TcpListener } from "../tcp_listener.ts";
import { RequestBody } from "./request_body.ts";
import type { CallContext, RpcImplementation, Service } from "./client.ts";
import { Code, RpcError } from "./error.ts";
import { TlsListener } from "../tls/listener.ts";

/** How a server listens. */
export interface RpcServerOptions {
  /** "host:port"; port 0 takes a free one. */
  address: string;
  /** Mutual TLS: what the server proves itself with, and whom it trusts. @default plain text, which is for tests */
  credentials?: Credentials;
  /**
   * Lets callers speak who have no certificate that counts, so that {@link authorize} can tell them why, and enrol them.
   * @default false: their connection ends
   */
  admitStrangers?: boolean;
  /** Whether somebody known has any business here; who has not is cut off before HTTP/2. @default everybody has */
  accepts?(identity: Identity): boolean;
  /**
   * Called before each handler, and before anything of the request is taken; throws an {@link RpcError} or an
   * {@link AccessDenied} to refuse. `path` is "/package.Service/Method".
   */
  authorize(path: string, context: CallContext): void | Promise<void>;
  /** Called with what a handler threw that was neither of these. */
  onError?(path: string, error: unknown): void;
  /** What callers may cost. */
  limits?: Partial<AdmissionLimits>;
  /** What the requests of one caller who is known may hold together, in bytes. @default CALLER_BYTES */
  callerBytes?: number;
  /** Told why a connection was refused, in one sentence; not of each when there are many. */
  onRefused?(why: string): void;
}

/** A message larger than this is refused with RESOURCE_EXHAUSTED before it is taken: our own requests are small. */
export const MAX_REQUEST_BYTES = 4 << 20;
/** The same of a caller who is nobody known. The request for a certificate has a few hundred bytes. */
const MAX_STRANGERS_REQUEST_BYTES = 32 << 10;

/** The default of {@link RpcServerOptions.callerBytes}. */
const CALLER_BYTES = 2 * MAX_REQUEST_BYTES;
/** What an open call holds beside its request: its stream, its headers, its timer. Bytes. */
const CALL_BYTES = 4 << 10;

const CALLER_GONE = new RpcError(Code.CANCELLED, "the caller is gone");

/** What serves a method. */
interface Method {
  readonly kind: "unary" | "server_streaming" | "bidi_streaming";
  decode(message: Uint8Array): unknown;
  encode(message: unknown): Uint8Array;
  handle(request: unknown, context: CallContext): unknown;
}

/** A listening gRPC server. */
export class RpcServer implements AsyncDisposable {
  readonly #options: RpcServerOptions;
  readonly #methods = new Map<string, Method>();
  /** What those who are known hold, by their names. */
  readonly #callers = new Map<string, ByteBudget>();
  #credentials?: Credentials;
  #tls?: TlsListener;
  #server?: CallServer;
  /** The port that it listens on; 0 before {@link listen}. */
  port = 0;

  constructor(options: RpcServerOptions) {
    this.#options = options;
    this.#credentials = options.credentials;
  }

  /** Adds a service. Call it before {@link listen}. */
  add<S extends Service>(service: S, implementation: RpcImplementation<S>): this {
    for (const { name, localName, methodKind, input, output } of service.methods) {
      const path = `/${service.typeName}/${name}`;
      if (methodKind === "client_streaming") throw new TypeError(`${path}: ${methodKind} methods are not used by RBS`);
      const handlers = implementation as Record<string, Method["handle"]>;
      this.#methods.set(path, {
        kind: methodKind,
        decode: (message) => fromBinary(input, message, { readUnknownFields: false }),
        encode: (message) => toBinary(output, create(output, message as MessageInitShape<DescMessage>)),
        // An object's own method may want its `this`.
        handle: (request, context) => handlers[localName](request, context),
      });
    }
    return this;
  }

  /**
   * Starts to listen. Rejects with the system's error (`code` EADDRINUSE, EADDRNOTAVAIL …).
   *
   * @returns the port
   */
  async listen(): Promise<number> {
    const { address, admitStrangers, accepts, limits, onRefused } = this.#options;
    const at = parseHostPort(address);
    if (!at) throw new TypeError(`${address}: not a HOST:PORT to listen on`);
    const { host: hostname, port } = at;
    let listener: Listener;
    if (this.#credentials) {
      const credentials = this.#credentials;
      listener = this.#tls = await TlsListener.listen({
        hostname,
        port,
        credentials,
        admitStrangers,
        accepts,
        limits,
        onRefused,
      });
    } else listener = new TcpListener({ hostname, port, trusted: true });
    const onError = (path: string, e: unknown) => this.#options.onError?.(path, e);
    this.#server = listenForCalls(listener, (...call) => this.#serve(...call), onError, { keepAlive: true });
    return this.port = this.#server.port;
  }

  /** Proves itself with other credentials to those who come from here on. Who is there already stays. */
  replaceCredentials(credentials: Credentials): void {
    if (!this.#credentials) throw new TypeError("this server speaks plain text");
    this.#tls?.replaceCredentials(credentials);
    this.#credentials = credentials;
  }

  /** Stops at once; calls in flight fail with UNAVAILABLE at their callers. */
  close(): void {
    this.#server?.close();
  }

  /** Closes; the port is free then. */
  [Symbol.asyncDispose](): Promise<void> {
    this.close();
    return Promise.resolve();
  }

  /** Serves a call; called in the turn in which it came. */
  async #serve(stream: Stream, headers: Headers, call: ServerCall): Promise<void> {
    const path = headers[":path"] ?? "";
    const { caller } = call;
    const isStranger = this.#credentials !== undefined && !caller.identity;
    const holding = new Holding(isStranger ? COUNTED_BEFORE : this.#budgetOf(caller.identity));
    const gone = new AbortController();
    call.gone.addEventListener("abort", () => gone.abort(CALLER_GONE));
    const context: CallContext = {
      signal: gone.signal,
      metadata: (name) => headers[name.toLowerCase()],
      ...caller,
    };
    let body: RequestBody | undefined;
    const fail = (error: RpcError) => {
      body?.fail(error);
      call.end(new StatusError(error.code, error.message));
    };
    /** Ends the call although its handler has not. */
    const stop = (error: RpcError) => {
      // At once, so that the caller's other calls have the room.
      holding.release();
      fail(error);
      gone.abort(error);
    };
    let timer: ReturnType<typeof setTimeout> | undefined;
    try {
      if (!holding.take(CALL_BYTES)) throw new RpcError(Code.RESOURCE_EXHAUSTED, "The caller has too many calls open.");
      body = new RequestBody(stream, holding, isStranger ? MAX_STRANGERS_REQUEST_BYTES : MAX_REQUEST_BYTES, stop);
      const method = this.#methods.get(path);
      if (!method) throw new RpcError(Code.UNIMPLEMENTED, `The server does not have the method ${path.slice(0, 200)}.`);
      const encoding = headers["grpc-encoding"] ?? "identity";
      if (encoding !== "identity") return refuseCompressed(call, encoding);
      const decided = this.#options.authorize(path, context);
      if (decided) await decided;
      if (headers["grpc-timeout"] !== undefined) {
        const late = new RpcError(Code.DEADLINE_EXCEEDED, "The call's deadline has passed.");
        timer = setTimeout(() => stop(late), timeoutMs(headers["grpc-timeout"]));
      }
      body.accept();
      await answer(method, body, context, call, holding);
    } catch (thrown) {
      const isRefusal = thrown instanceof RpcError || thrown instanceof AccessDenied;
      if (!isRefusal) this.#options.onError?.(path, thrown);
      fail(RpcError.from(thrown));
    } finally {
      clearTimeout(timer);
      // Not before: an answer that the caller does not read is held for it.
      void stream.closed.then(() => holding.release());
    }
  }

  #budgetOf(peer: Identity | undefined): ByteBudget {
    const name = peer && this.#credentials ? spiffeUri(this.#credentials.trustDomain, peer) : "";
    const known = this.#callers.get(name);
    if (known) return known;
    for (const [other, { held }] of this.#callers) if (held === 0) this.#callers.delete(other);
    const budget = new ByteBudget(this.#options.callerBytes ?? CALLER_BYTES);
    this.#callers.set(name, budget);
    return budget;
  }
}

/** For strangers, whose bytes are counted by their connection already, and in little memory. */
const COUNTED_BEFORE: Meter = { take: () => true, give() {} };

async function answer(
  method: Method,
  body: RequestBody,
  context: CallContext,
  call: ServerCall,
  holding: Meter,
): Promise<void> {
  const write = (response: unknown) => {
    const message = method.encode(response);
    if (!holding.take(message.length)) {
      throw new RpcError(Code.RESOURCE_EXHAUSTED, "The caller has too many answers open that it does not read.");
    }
    return { length: message.length, drained: call.write(message) };
  };
  const request = method.kind === "bidi_streaming"
    ? decoded(body.messages(), method, context.signal)
    : decode(method, await body.unary());
  if (method.kind === "unary") {
    write(await method.handle(request, context));
  } else {
    for await (const response of method.handle(request, context) as AsyncIterable<unknown>) {
      const { length, drained } = write(response);
      await drained;
      holding.give(length);
      if (context.signal.aborted) break;
    }
  }
  call.end();
}

async function* decoded(messages: AsyncIterable<Uint8Array>, method: Method, signal: AbortSignal) {
  for await (const message of messages) yield decode(method, message);
  signal.throwIfAborted();
}

function decode(method: Method, message: Uint8Array): unknown {
  try {
    return method.decode(message);
  } catch (e) {
    throw new RpcError(
      Code.INVALID_ARGUMENT,
      "The request was refused: it is not the message that the method takes.",
      e,
    );
  }
}

function refuseCompressed(call: ServerCall, encoding: string): void {
  const why = `Messages are not compressed here, and the call's are by ${encoding.slice(0, 50)}.`;
  call.end(new StatusError(Code.UNIMPLEMENTED, why, { "grpc-accept-encoding": "identity" }));
}

const UNIT_MS: Readonly<Record<string, number>> = { n: 1e-6, u: 1e-3, m: 1, S: 1e3, M: 60e3, H: 3600e3 };

/** Throws an {@link RpcError} for what is no time. */
function timeoutMs(header: string): number {
  const [, number, unit] = /^(\d{1,8})([numSMH])$/.exec(header) ?? [];
  if (unit === undefined) throw new RpcError(Code.INVALID_ARGUMENT, "The call's grpc-timeout is no time.");
  return Math.min(Number(number) * UNIT_MS[unit], 2 ** 31 - 1);
}
