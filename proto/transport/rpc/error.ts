/** How calls of our own services fail. Apart from client.ts, so that a program which only serves loads no client. */
import { sentence } from "../../base/errors.ts";
import { AccessDenied } from "../../identity/access_denied.ts";
import { Code } from "../grpc/status_code.ts";
import { trustFailure } from "../tls/trust.ts";

export { Code } from "../grpc/status_code.ts";

/**
 * Why nobody has answered a call. unknown name: the host has no address. not connected: there was no connection. broken off:
 * there was one.
 */
export interface NoAnswer {
  kind: "unknown name" | "not connected" | "broken off";
  /** The system's name for it, if it has said one: "ECONNREFUSED". */
  systemCode?: string;
}

/**
 * What the status that grpc-js 1.14 makes by itself means. It has the code of what a server says, and nothing else to tell
 * it by than the text: this is the only place that reads it.
 */
function noAnswer(code: Code, details: string): NoAnswer | undefined {
  if (code !== Code.UNAVAILABLE) return undefined;
  const systemCode = /\bE[A-Z]{4,}/.exec(details)?.[0];
  if (/^Name resolution failed/.test(details)) return { kind: "unknown name", systemCode };
  if (/^No connection established/.test(details)) return { kind: "not connected", systemCode };
  const lost = /^(Connection dropped|read E|write E|Stream removed|connect E|Socket closed)/.test(details);
  return lost ? { kind: "broken off", systemCode } : undefined;
}

/** Anything that went wrong in a call, on either side. `message` is the sentence for a person. */
export class RpcError extends Error {
  override readonly name = "RpcError";

  /**
   * @param code See {@link Code}.
   * @param noAnswer Undefined: somebody has answered.
   */
  constructor(readonly code: Code, message: string, cause?: unknown, readonly noAnswer?: NoAnswer) {
    super(message, { cause });
  }

  /** Turns anything thrown into an RpcError; what is neither from gRPC nor an {@link AccessDenied} becomes INTERNAL. */
  static from(thrown: unknown): RpcError {
    if (thrown instanceof RpcError) return thrown;
    if (thrown instanceof AccessDenied) {
      const code = thrown.kind === "unauthenticated" ? Code.UNAUTHENTICATED : Code.PERMISSION_DENIED;
      return new RpcError(code, thrown.sentence, thrown);
    }
    // The ServiceError of grpc-js.
    const { code, details } = thrown as { code?: unknown; details?: unknown };
    if (typeof code === "number" && typeof details === "string") {
      const distrust = code === Code.UNAVAILABLE ? trustFailure(details) : undefined;
      if (distrust) return new TrustError(distrust, thrown);
      return new RpcError(code, details, thrown, noAnswer(code, details));
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
