/** How calls of our own services fail. Apart from rpc.ts, so that a program which only serves loads no client. */
import { sentence } from "./errors.ts";
import { trustFailure } from "./tls/trust.ts";

/** The status codes of gRPC (github.com/grpc/grpc, doc/statuscodes.md). */
export enum Code {
  OK = 0,
  CANCELLED = 1,
  UNKNOWN = 2,
  INVALID_ARGUMENT = 3,
  DEADLINE_EXCEEDED = 4,
  NOT_FOUND = 5,
  ALREADY_EXISTS = 6,
  PERMISSION_DENIED = 7,
  RESOURCE_EXHAUSTED = 8,
  FAILED_PRECONDITION = 9,
  ABORTED = 10,
  OUT_OF_RANGE = 11,
  UNIMPLEMENTED = 12,
  INTERNAL = 13,
  UNAVAILABLE = 14,
  DATA_LOSS = 15,
  UNAUTHENTICATED = 16,
}

/** Anything that went wrong in a call, on either side. `message` is the sentence for a person. */
export class RpcError extends Error {
  override readonly name = "RpcError";

  /** @param code See {@link Code}. */
  constructor(readonly code: Code, message: string, cause?: unknown) {
    super(message, { cause });
  }

  /** Turns anything thrown into an RpcError; what is not from gRPC becomes INTERNAL. */
  static from(thrown: unknown): RpcError {
    if (thrown instanceof RpcError) return thrown;
    // The ServiceError of grpc-js.
    const { code, details } = thrown as { code?: unknown; details?: unknown };
    if (typeof code === "number" && typeof details === "string") {
      const distrust = code === Code.UNAVAILABLE ? trustFailure(details) : undefined;
      if (distrust) return new TrustError(distrust, thrown);
      return new RpcError(code, details, thrown);
    }
    return new RpcError(Code.INTERNAL, sentence(thrown), thrown);
  }
}

/** Whoever listens is not who it must be, or does not speak TLS at all: nothing was sent to it. */
export class TrustError extends RpcError {
  /**
   * @param why A clause.
   * @param clocks It is the clocks.
   */
  constructor(readonly why: string, cause?: unknown, readonly clocks = false) {
    super(Code.UNAUTHENTICATED, `The connection is not to be trusted: ${why}.`, cause);
  }
}
