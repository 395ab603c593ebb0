/**
 * Typed gRPC clients from the generated descriptors, over @grpc/grpc-js, and what an implementation of a service looks
 * like; see server.ts for what serves it.
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
import type { Readable, Writable } from "node:stream";
import type { Caller } from "../../identity/access_rules.ts";
import { clockDoubt } from "../tls/clocks.ts";
import { Code, RpcError, TrustError } from "./error.ts";
import { channelTls, type ClientTls, SERVER_NAMES } from "../tls/channel_credentials.ts";

export { Code, RpcError, TrustError } from "./error.ts";

/**
 * A failure of a call, which says more if the peer's certificate was not believed because of the clocks.
 *
 * @param address "HOST:PORT".
 */
export async function withClocks(
  thrown: unknown,
  address: string,
  peer: keyof typeof SERVER_NAMES = "orchestrator",
): Promise<unknown> {
  if (!(thrown instanceof TrustError)) return thrown;
  const [, host = "", port] = /^(.*):(\d+)$/.exec(address) ?? [];
  const doubt = await clockDoubt(host.replace(/^\[|\]$/g, ""), Number(port), SERVER_NAMES[peer]);
  return doubt ? new TrustError(doubt, thrown, true) : thrown;
}

/** A service of the generated descriptors. */
// deno-lint-ignore no-explicit-any
export type Service = GenService<any>;
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
            if (call?.signal?.aborted) return reject(new RpcError(Code.CANCELLED, "the call was cancelled"));
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

/** What a handler knows of its call, and of its caller. */
export interface CallContext extends Caller {
  /** Aborted when the caller is gone or has cancelled. */
  readonly signal: AbortSignal;
  /** The caller's metadata value, or undefined. */
  metadata(name: string): string | undefined;
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
