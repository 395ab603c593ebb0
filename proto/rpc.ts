/**
 * Typed gRPC clients and servers from the generated descriptors, over @grpc/grpc-js: the one place where our own
 * services meet the wire.
 */
import {
  create,
  type DescMessage,
  fromBinary,
  type MessageInitShape,
  type MessageShape,
  toBinary,
} from "@bufbuild/protobuf";
import type { GenService, GenServiceMethods } from "@bufbuild/protobuf/codegenv2";
import * as grpc from "@grpc/grpc-js";
import { Buffer } from "node:buffer";
import { type AddressInfo, createServer, type Server, type Socket } from "node:net";
import type { Readable, Writable } from "node:stream";
import { setImmediate } from "node:timers";
import { createServer as createTlsServer, type Server as TlsServer, type TLSSocket } from "node:tls";
import { sentence } from "./errors.ts";
import { GoawayFilter } from "./goaway_filter.ts";
import type { Credentials } from "./identity/credentials.ts";
import type { Identity } from "./identity/spiffe.ts";
import { channelTls, type ClientTls, type Peer, peerOf, trustFailure } from "./tls/grpc.ts";
import { PROTOCOLS, secureContext } from "./tls/settings.ts";

export { status as Code } from "@grpc/grpc-js";

/** Anything that went wrong in a call, on either side. `message` is the sentence for a person. */
export class RpcError extends Error {
  override readonly name = "RpcError";

  /** @param code A gRPC status code, see {@link Code}. */
  constructor(readonly code: grpc.status, message: string, cause?: unknown) {
    super(message, { cause });
  }

  /** Turns anything thrown into an RpcError; what is not from gRPC becomes INTERNAL. */
  static from(thrown: unknown): RpcError {
    if (thrown instanceof RpcError) return thrown;
    const { code, details } = thrown as Partial<grpc.ServiceError>;
    if (typeof code === "number" && typeof details === "string") {
      const distrust = code === grpc.status.UNAVAILABLE ? trustFailure(details) : undefined;
      if (distrust) return new TrustError(distrust, thrown);
      return new RpcError(code, details, thrown);
    }
    return new RpcError(grpc.status.INTERNAL, sentence(thrown), thrown);
  }
}

/** Whoever listens is not who it must be, or does not speak TLS at all: nothing was sent to it. */
export class TrustError extends RpcError {
  /** @param why A clause. */
  constructor(readonly why: string, cause?: unknown) {
    super(grpc.status.UNAUTHENTICATED, `The connection is not to be trusted: ${why}.`, cause);
  }
}

// deno-lint-ignore no-explicit-any
type Service = GenService<any>;
type Methods<S> = S extends GenService<infer M extends GenServiceMethods> ? M : never;
type In<M> = M extends { input: infer I extends DescMessage } ? I : never;
type Out<M> = M extends { output: infer O extends DescMessage } ? O : never;

/** How a call is made. */
export interface CallOptions {
  /** Cancels the call. */
  signal?: AbortSignal;
  /** Milliseconds from now after which the call fails with DEADLINE_EXCEEDED. @default no deadline */
  timeoutMs?: number;
  /** Further metadata, by lower-case name. */
  metadata?: Record<string, string>;
}

/** A bidirectional call: send requests, end them, iterate over the responses. Leaving the iteration cancels. */
export interface BidiCall<I extends DescMessage, O extends DescMessage> extends AsyncIterable<MessageShape<O>> {
  /** Resolves when the transport takes more. */
  send(request: MessageInitShape<I>): Promise<void>;
  end(): void;
  cancel(): void;
}

/** The client of a service: a method each, in the shape of its kind. */
export type RpcClient<S extends Service> =
  & {
    [K in keyof Methods<S>]: Methods<S>[K] extends { methodKind: "unary" } ? (
        request: MessageInitShape<In<Methods<S>[K]>>,
        options?: CallOptions,
      ) => Promise<MessageShape<Out<Methods<S>[K]>>>
      : Methods<S>[K] extends { methodKind: "server_streaming" } ? (
          request: MessageInitShape<In<Methods<S>[K]>>,
          options?: CallOptions,
        ) => AsyncIterable<MessageShape<Out<Methods<S>[K]>>>
      : Methods<S>[K] extends { methodKind: "bidi_streaming" }
        ? (options?: CallOptions) => BidiCall<In<Methods<S>[K]>, Out<Methods<S>[K]>>
      : never;
  }
  & Disposable
  & { close(): void };

/** How a client connects. */
export interface RpcClientOptions {
  /** Sent as `authorization: Bearer …` with each call. */
  token?: string;
  /** Mutual TLS. @default plain text, which no server of RBS takes */
  tls?: ClientTls;
  channel?: grpc.ChannelOptions;
}

/** Notices a dead peer within 10 s, also while nothing is sent; never limits a message's size. */
const CHANNEL_DEFAULTS: grpc.ChannelOptions = {
  "grpc.max_receive_message_length": -1,
  "grpc.max_send_message_length": -1,
  "grpc.keepalive_time_ms": 5_000,
  "grpc.keepalive_timeout_ms": 3_000,
  // Between heartbeats as well: the next call shall not wait for a connection that is dead.
  "grpc.keepalive_permit_without_calls": 1,
  "grpc.initial_reconnect_backoff_ms": 100,
  "grpc.max_reconnect_backoff_ms": 2_000,
  "grpc.enable_http_proxy": 0,
  // grpc-js 1.14.7 retries a call on a session that has just died in microtasks without end: 100 % CPU, for ever.
  "grpc.enable_retries": 0,
  "grpc.use_local_subchannel_pool": 1,
};

/**
 * A client of `service` at `address` ("host:port"). Connects on the first call; `close()` it.
 * Every error that a method throws is an {@link RpcError}.
 */
export function createRpcClient<S extends Service>(
  service: S,
  address: string,
  options: RpcClientOptions = {},
): RpcClient<S> {
  const tls = options.tls && channelTls(options.tls);
  const client = new grpc.Client(address, tls?.credentials ?? grpc.credentials.createInsecure(), {
    ...CHANNEL_DEFAULTS,
    ...tls && { "grpc.ssl_target_name_override": tls.name },
    ...options.channel,
  });
  const metadata = (call: CallOptions = {}) => {
    const m = new grpc.Metadata();
    if (options.token) m.set("authorization", `Bearer ${options.token}`);
    for (const [k, v] of Object.entries(call.metadata ?? {})) m.set(k, v);
    return m;
  };
  const deadline = (call: CallOptions = {}): grpc.CallOptions =>
    call.timeoutMs === undefined ? {} : { deadline: Date.now() + call.timeoutMs };

  // deno-lint-ignore no-explicit-any
  const methods: Record<string, any> = {};
  for (const method of service.methods) {
    const path = `/${service.typeName}/${method.name}`;
    const encode = (m: MessageInitShape<DescMessage>) => Buffer.from(toBinary(method.input, create(method.input, m)));
    const decode = (b: Uint8Array) => fromBinary(method.output, b);
    switch (method.methodKind) {
      case "unary":
        methods[method.localName] = (request: MessageInitShape<DescMessage>, call?: CallOptions) =>
          new Promise((resolve, reject) => {
            if (call?.signal?.aborted) return reject(new RpcError(grpc.status.CANCELLED, "the call was cancelled"));
            const c = client.makeUnaryRequest(path, encode, decode, request, metadata(call), deadline(call), (e, r) => {
              call?.signal?.removeEventListener("abort", abort);
              e ? reject(RpcError.from(e)) : resolve(r);
            });
            const abort = () => c.cancel();
            call?.signal?.addEventListener("abort", abort);
          });
        break;
      case "server_streaming":
        methods[method.localName] = (request: MessageInitShape<DescMessage>, call?: CallOptions) =>
          responsesOf(
            client.makeServerStreamRequest(path, encode, decode, request, metadata(call), deadline(call)),
            call,
          );
        break;
      case "bidi_streaming":
        methods[method.localName] = (call?: CallOptions) => {
          const stream = client.makeBidiStreamRequest(path, encode, decode, metadata(call), deadline(call));
          const responses = responsesOf(stream, call);
          return {
            send: (m: MessageInitShape<DescMessage>) => write(stream as unknown as Writable, m),
            end: () => stream.end(),
            cancel: () => stream.cancel(),
            [Symbol.asyncIterator]: () => responses[Symbol.asyncIterator](),
          };
        };
        break;
      default:
        throw new TypeError(`${path}: ${method.methodKind} methods are not used by RBS`);
    }
  }
  methods.close = methods[Symbol.dispose as unknown as string] = () => client.close();
  return methods as RpcClient<S>;
}

/** Writes one message; resolves when the stream takes more, or is gone (its reader learns why). */
function write(stream: Writable, m: unknown): Promise<void> {
  return new Promise<void>((resolve) => {
    if (stream.destroyed || stream.writableEnded || stream.write(m)) return resolve();
    const done = () => {
      for (const e of ["drain", "close", "error", "cancelled"]) stream.off(e, done);
      resolve();
    };
    for (const e of ["drain", "close", "error", "cancelled"]) stream.on(e, done);
  });
}

/**
 * The messages of a stream of grpc-js, with back-pressure, until it has ended or is gone. Unlike with the stream's own
 * iterator, leaving it does not destroy the stream: the other direction of the call may still be in use.
 */
async function* messagesOf<T>(stream: Readable): AsyncGenerator<T, void> {
  let wake = () => {};
  const woken = () => wake();
  for (const e of ["readable", "end", "close"]) stream.on(e, woken);
  try {
    while (true) {
      const message = stream.read() as T | null;
      if (message !== null) yield message;
      else if (stream.readableEnded || stream.destroyed) return;
      else await new Promise<void>((resolve) => wake = resolve);
    }
  } finally {
    for (const e of ["readable", "end", "close"]) stream.off(e, woken);
  }
}

/** The responses of a call; ends only after both the last message and the status, whichever grpc-js reports first. */
function responsesOf<T>(stream: grpc.ClientReadableStream<T>, call?: CallOptions): AsyncIterable<T> {
  const abort = () => stream.cancel();
  if (call?.signal?.aborted) abort();
  else call?.signal?.addEventListener("abort", abort);
  const settled = Promise.withResolvers<RpcError | undefined>();
  stream.on("error", (e) => settled.resolve(RpcError.from(e)));
  stream.on("status", (s: grpc.StatusObject) => {
    call?.signal?.removeEventListener("abort", abort);
    if (s.code === grpc.status.OK) settled.resolve(undefined);
  });
  return {
    async *[Symbol.asyncIterator]() {
      let ended = false;
      try {
        for await (const message of messagesOf<T>(stream)) {
          if (call?.signal?.aborted) break;
          yield message;
        }
        const error = await settled.promise;
        ended = true;
        if (error) throw error;
      } finally {
        if (!ended) stream.cancel();
      }
    },
  };
}

/** The requests of a call. Throws the signal's reason when the caller is gone before it has ended them. */
async function* requestsOf(call: Readable, signal: AbortSignal): AsyncGenerator<unknown, void> {
  yield* messagesOf(call);
  signal.throwIfAborted();
}

/** What a handler knows of its call. */
export interface CallContext {
  /** Aborted when the caller is gone or has cancelled. */
  readonly signal: AbortSignal;
  /** The caller's metadata value, or undefined. */
  metadata(name: string): string | undefined;
  /** Who calls, as the certificate says; undefined: somebody without one that counts here, or in plain text. */
  readonly identity?: Identity;
  /** Why it is nobody: a clause for a message. */
  readonly stranger?: string;
}

/** The implementation of a service: a function for each method. Throw an {@link RpcError} to fail with its code. */
export type RpcImplementation<S extends Service> = {
  [K in keyof Methods<S>]: Methods<S>[K] extends { methodKind: "unary" }
    ? (request: MessageShape<In<Methods<S>[K]>>, context: CallContext) => Promise<MessageInitShape<Out<Methods<S>[K]>>>
    : Methods<S>[K] extends { methodKind: "server_streaming" } ? (
        request: MessageShape<In<Methods<S>[K]>>,
        context: CallContext,
      ) => AsyncIterable<MessageInitShape<Out<Methods<S>[K]>>>
    : Methods<S>[K] extends { methodKind: "bidi_streaming" } ? (
        requests: AsyncIterable<MessageShape<In<Methods<S>[K]>>>,
        context: CallContext,
      ) => AsyncIterable<MessageInitShape<Out<Methods<S>[K]>>>
    : never;
};

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
  /** Called before each handler; throws an {@link RpcError} to refuse. `path` is "/package.Service/Method". */
  authorize(path: string, context: CallContext): void | Promise<void>;
  /** Called with what a handler threw that was not an RpcError. */
  onError?(path: string, error: unknown): void;
}

/** A request larger than this is refused with RESOURCE_EXHAUSTED before it is read: our own requests are small. */
export const MAX_REQUEST_BYTES = 4 << 20;

/** How long a caller may take for its TLS handshake. Milliseconds. */
const HANDSHAKE_MS = 5_000;

const CALLER_GONE = new RpcError(grpc.status.CANCELLED, "the caller is gone");

/** A listening gRPC server. */
export class RpcServer implements AsyncDisposable {
  readonly #server: grpc.Server;
  readonly #options: RpcServerOptions;
  readonly #sockets = new Set<Socket>();
  /** Who is at the other end of each connection, by the name that grpc-js has for it. */
  readonly #peers = new Map<string, Peer>();
  #connections = 0;
  #listener?: Server | TlsServer;
  #credentials?: Credentials;
  #closed?: Promise<void>;
  /** The port that it listens on; 0 before {@link listen}. */
  port = 0;

  constructor(options: RpcServerOptions) {
    this.#options = options;
    this.#credentials = options.credentials;
    this.#server = new grpc.Server({
      "grpc.max_receive_message_length": MAX_REQUEST_BYTES,
      "grpc.max_send_message_length": -1,
      "grpc.keepalive_time_ms": 5_000,
      "grpc.keepalive_timeout_ms": 3_000,
    });
  }

  /** Adds a service. Call it before {@link listen}. */
  add<S extends Service>(service: S, implementation: RpcImplementation<S>): this {
    const definition: Record<string, grpc.MethodDefinition<unknown, unknown>> = {};
    const handlers: grpc.UntypedServiceImplementation = {};
    for (const method of service.methods) {
      const path = `/${service.typeName}/${method.name}`;
      const handler = (implementation as Record<string, unknown>)[method.localName] as (
        request: unknown,
        context: CallContext,
      ) => unknown;
      definition[method.localName] = {
        path,
        requestStream: method.methodKind === "bidi_streaming",
        responseStream: method.methodKind !== "unary",
        requestSerialize: () => Buffer.alloc(0),
        requestDeserialize: (b) => fromBinary(method.input, b),
        responseSerialize: (m) =>
          Buffer.from(toBinary(method.output, create(method.output, m as MessageInitShape<DescMessage>))),
        responseDeserialize: () => undefined,
      };
      const prepare = async (call: grpc.ServerDuplexStream<unknown, unknown>) => {
        const gone = new AbortController();
        // After an answer as well, and an error of its own would take longer than the rest of it.
        call.on("cancelled", () => gone.abort(CALLER_GONE));
        const context: CallContext = {
          signal: gone.signal,
          metadata: (name) => call.metadata.get(name)[0]?.toString(),
          ...this.#peers.get(call.getPeer()),
        };
        const decided = this.#options.authorize(path, context);
        if (decided) await decided;
        return context;
      };
      const refuse = (thrown: unknown): Partial<grpc.StatusObject> => {
        if (!(thrown instanceof RpcError)) this.#options.onError?.(path, thrown);
        const error = RpcError.from(thrown);
        // A message cut inside of a character would make grpc-js throw where nobody catches it.
        return { code: error.code, details: error.message.toWellFormed() };
      };
      handlers[method.localName] = method.methodKind === "unary"
        ? (call: grpc.ServerUnaryCall<unknown, unknown>, callback: grpc.sendUnaryData<unknown>) => {
          (async () => await handler(call.request, await prepare(call as never)))().then(
            (r) => callback(null, r),
            (e) => callback(refuse(e)),
          );
        }
        : async (call: grpc.ServerDuplexStream<unknown, unknown>) => {
          try {
            const context = await prepare(call);
            const request = method.methodKind === "bidi_streaming"
              ? requestsOf(call as unknown as Readable, context.signal)
              : (call as { request?: unknown }).request;
            for await (const response of handler(request, context) as AsyncIterable<unknown>) {
              await write(call as unknown as Writable, response);
              if (context.signal.aborted) break;
            }
            call.end();
          } catch (e) {
            call.emit("error", refuse(e));
          }
        };
    }
    this.#server.addService(definition as grpc.ServiceDefinition, handlers);
    return this;
  }

  /**
   * Starts to listen. Rejects with the system's error (`code` EADDRINUSE, EADDRNOTAVAIL …).
   *
   * The socket is ours and not grpc-js's, so that each connection goes through a {@link GoawayFilter}.
   *
   * @returns the port
   */
  async listen(): Promise<number> {
    const at = /^(?:\[(?<ip6>.*)\]|(?<host>[^:]*)):(?<port>\d+)$/.exec(this.#options.address)?.groups;
    if (!at) throw new TypeError(`${this.#options.address}: not a HOST:PORT to listen on`);
    const injector = this.#server.createConnectionInjector(grpc.ServerCredentials.createInsecure());
    const inject = (socket: Socket, peer: Peer) => {
      socket.setNoDelay(true);
      // A number of ours, since a port may be another connection's by the time that the last call is looked at.
      const filter = new GoawayFilter(socket, `connection ${++this.#connections}`);
      const name = `${filter.remoteAddress}:${filter.remotePort}`;
      this.#peers.set(name, peer);
      filter.on("close", () => this.#peers.delete(name));
      injector.injectConnection(filter);
    };
    const listener = this.#listener = this.#credentials
      ? this.#tlsListener(this.#credentials, inject)
      : createServer((socket) => {
        this.#keep(socket);
        inject(socket, { stranger: "it speaks plain text" });
      });
    await new Promise<void>((resolve, reject) => {
      listener.on("error", reject); // a connection that cannot be accepted later is its caller's trouble
      listener.listen({ host: at.ip6 ?? at.host, port: Number(at.port) }, resolve);
    });
    return this.port = (listener.address() as AddressInfo).port;
  }

  /** Proves itself with other credentials to those who come from here on. Who is there already stays. */
  replaceCredentials(credentials: Credentials): void {
    if (!this.#credentials) throw new TypeError("this server speaks plain text");
    (this.#listener as TlsServer | undefined)?.setSecureContext(secureContext(credentials));
    this.#credentials = credentials;
  }

  #keep(socket: Socket): void {
    this.#sockets.add(socket);
    socket.on("close", () => this.#sockets.delete(socket));
  }

  #tlsListener(credentials: Credentials, inject: (socket: Socket, peer: Peer) => void): TlsServer {
    const { admitStrangers = false } = this.#options;
    const listener = createTlsServer({
      ...secureContext(credentials),
      requestCert: true,
      rejectUnauthorized: !admitStrangers,
      ALPNProtocols: PROTOCOLS,
    });
    /** Those in mid-handshake, by their address. */
    const timers = new Map<string, ReturnType<typeof setTimeout>>();
    const settle = (socket: Socket) => {
      const key = `${socket.remoteAddress} ${socket.remotePort}`;
      clearTimeout(timers.get(key));
      timers.delete(key);
    };
    listener.on("connection", (socket: Socket) => {
      this.#keep(socket);
      const key = `${socket.remoteAddress} ${socket.remotePort}`;
      timers.set(key, setTimeout(() => socket.destroy(), HANDSHAKE_MS));
      socket.on("close", () => {
        clearTimeout(timers.get(key));
        timers.delete(key);
      });
    });
    listener.on("tlsClientError", (_: Error, socket: TLSSocket) => {
      socket.on("error", () => {});
      socket.destroy();
    });
    listener.on("secureConnection", (socket: TLSSocket) => {
      settle(socket);
      this.#keep(socket);
      const peer = peerOf(socket, (this.#credentials ?? credentials).trustDomain);
      if (socket.alpnProtocol === PROTOCOLS[0] && (peer.identity || admitStrangers)) return inject(socket, peer);
      socket.on("error", () => {});
      socket.destroy();
    });
    return listener;
  }

  /** Stops at once; calls in flight fail with UNAVAILABLE at their callers. */
  close(): void {
    this.#closed ??= new Promise((resolve) => {
      const listener = this.#listener;
      const unbound = new Promise<void>((unbound) => listener?.listening ? listener.close(() => unbound()) : unbound());
      // First, so that no GOAWAY leaves: our callers may be Denos, too.
      for (const socket of this.#sockets) socket.destroy();
      // Later, because a handler may call us: Deno frees a session that is destroyed, even while it reads from it.
      setImmediate(() => {
        this.#server.forceShutdown();
        unbound.then(resolve);
      });
    });
  }

  /** Closes; the port is free then. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.close();
    await this.#closed;
  }
}
