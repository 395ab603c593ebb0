/** What is to happen to a session for a caller that wants its server: decided by what is known, without doing any of it. */
import { Code, RpcError } from "../../proto/transport/rpc/client.ts";
import type { Session } from "../store/session.ts";
import type { Caller } from "./caller.ts";
import type { ServerRequest } from "./server_request.ts";
import { startupOptionsHash } from "./startup_options_hash.ts";
import { mayAdopt } from "./without_server_id.ts";

/**
 * What happens when a proxy asks for a matching server whose session another proxy process owns: the new one takes over
 * the warm agent, or the agent is ended and the new one gets another.
 */
export type OnBounce = "takeover" | "replace";

/** The settings of the orchestrator that decide. */
export interface DecisionRules {
  /** Whether new sessions share no files with the developer; sessions of the other kind are replaced. */
  readonly synced: boolean;
  /** @default "takeover" */
  readonly onBounce?: OnBounce;
  /** An agent that is not ready after this time has failed. Milliseconds. */
  readonly startTimeoutMs: number;
}

/** The result of one look at a session. */
export type Decision =
  /** The session is not the caller's to adopt: the caller gets one of its own. */
  | { readonly what: "look elsewhere" }
  /** There is no agent: it is started, in the place of a failed one if there was. */
  | { readonly what: "start"; readonly failed?: Session }
  /** The start that the caller waited for has failed and is tried again after a pause. */
  | { readonly what: "retry"; readonly failed: Session }
  /** The caller gets no server. */
  | { readonly what: "refuse"; readonly error: RpcError }
  /** The agent is ending. */
  | { readonly what: "wait for the end"; readonly session: Session }
  /** The agent does not suit the caller, and is ended for it. */
  | { readonly what: "replace"; readonly session: Session; readonly misfit: Misfit }
  /** The agent is starting. */
  | { readonly what: "wait for the start"; readonly session: Session }
  /** The agent suits the caller, if it answers. */
  | { readonly what: "serve"; readonly session: Session };

/** Why a session's agent does not suit a caller. */
export interface Misfit {
  /** Describes the former server to the user: "which …". */
  readonly which: string;
  /** For the operator, and for later callers of the session. */
  readonly reason: string;
  /** For a caller that waited for one agent and finds another: "was replaced …". */
  readonly replaced: string;
}

/** Why a caller that waited for a start got no server when the session vanished. */
const RELEASED = "was released while its agent started; run the command again.";
/** How often a start is retried for a caller after transient failures. */
const RETRIES = 2;

/**
 * Decides about a session for a caller.
 *
 * @param session Undefined if there is none.
 * @param now Milliseconds since 1970.
 */
export function decide(
  session: Session | undefined,
  caller: Pick<Caller, "request" | "joined" | "hasReplaced" | "retries">,
  rules: DecisionRules,
  now: number,
): Decision {
  const { request, joined, hasReplaced } = caller;
  if (request.adopts !== undefined && !mayAdopt(session, request.adopts)) return { what: "look elsewhere" };
  const workspace = JSON.stringify(request.sourcePath);
  const refuse = (code: Code, why: string): Decision => ({ what: "refuse", error: new RpcError(code, why) });
  if (!session) {
    if (joined === undefined) return { what: "start" };
    return refuse(Code.UNAVAILABLE, `The server of ${workspace} ${RELEASED}`);
  }
  if (session.status === "FAILED") {
    if (joined === undefined) return { what: "start", failed: session };
    if (mayRetry(caller.retries, session, rules, now)) return { what: "retry", failed: session };
    return refuse(session.failureTransient ? Code.UNAVAILABLE : Code.FAILED_PRECONDITION, session.failure);
  }
  if (session.status === "STOPPING") {
    if (joined === undefined || !session.failureTransient) return { what: "wait for the end", session };
    return refuse(Code.UNAVAILABLE, `The server of ${workspace} ${RELEASED}`);
  }
  const misfit = misfitOf(session, request, rules);
  if (!misfit) return { what: session.status === "PENDING" ? "wait for the start" : "serve", session };
  if (joined === undefined && !hasReplaced) return { what: "replace", session, misfit };
  return refuse(Code.FAILED_PRECONDITION, `The server of ${workspace} ${misfit.replaced}`);
}

/**
 * Why the agent of a PENDING or READY session does not suit `request`; undefined if it does.
 *
 * Only a proxy names startup options, and only its request can be a bounce: its session id belongs to one process, and with
 * "replace" no process gets another's server. A client that takes any server (jbazel) names the id that it found in
 * ListSessions, or a new one if it found none. If a proxy was faster meanwhile, the ids differ. Then jbazel must neither end
 * nor own the proxy's server, for then the proxy's next request would be the bounce: see ServerRequests.
 */
export function misfitOf(
  session: Session,
  request: ServerRequest,
  { synced, onBounce }: Pick<DecisionRules, "synced" | "onBounce">,
): Misfit | undefined {
  if (session.synced !== synced) {
    return {
      which: `has ${session.synced ? "a synced workspace" : "a shared workspace"}`,
      reason: "The orchestrator was started in another mode.",
      replaced: "was replaced by one of another mode; run the command again.",
    };
  }
  const hash = startupOptionsHash(request.startupOptions);
  if (hash === "") return undefined;
  if (hash !== session.startupOptionsHash) {
    return {
      which: "has other startup options",
      reason: "Another client wants other startup options.",
      replaced: "was replaced by another client with other startup options; use the same ones, or take turns.",
    };
  }
  if (onBounce === "replace" && session.sessionId !== request.sessionId) {
    return {
      which: "an earlier life of the client has left behind",
      reason: "Another life of the client wants a server of its own (--on-bounce=replace).",
      replaced: "was replaced by another client of the same workspace, as --on-bounce=replace of the orchestrator " +
        "asks for; take turns.",
    };
  }
  return undefined;
}

/**
 * Whether a caller that waited for a failed start gets another attempt. Not after a long one: a start that hangs until
 * --start-timeout would cost three times that.
 */
function mayRetry(retries: number, failed: Session, { startTimeoutMs }: DecisionRules, now: number): boolean {
  const tookLong = now - failed.createdAt > startTimeoutMs / 2;
  return failed.failureTransient && retries < RETRIES && !tookLong;
}
