/**
 * Runs one command at the agent, over as many connections as necessary: its responses have sequence numbers, and a new
 * connection continues where the last one broke.
 */
import { create, toBinary } from "@bufbuild/protobuf";
import { Buffer } from "node:buffer";
import { isFinished } from "../../proto/bazel/run_response.ts";
import { sentence } from "../../proto/base/errors.ts";
import { ExecuteRequestSchema, type OutputsRequest } from "../../proto/contract/gen/rbs/v1/command_pb.ts";
import { StreamError } from "../../proto/transport/http2/errors.ts";
import type { Headers } from "../../proto/transport/http2/hpack.ts";
import { ConnectError } from "../../proto/transport/grpc/channel.ts";
import { Status, StatusError } from "../../proto/transport/grpc/calls.ts";
import type { OutgoingCall } from "../../proto/transport/grpc/messages.ts";
import { bytesValue, scanFields, varintValue, WireError } from "../../proto/base/protobuf_fields.ts";
import { AgentPatience } from "../session/agent_patience.ts";
import type { AgentLink } from "../session/session.ts";

const EXECUTE = "/rbs.v1.Command/Execute";
/** Bytes of responses after which an acknowledgement is sent. */
const ACKNOWLEDGE_BYTES = 1 << 20;
/** Delay of the acknowledgement for fewer bytes, in milliseconds. */
const ACKNOWLEDGE_MS = 100;
/** Shorter interruptions are not reported. Milliseconds. */
const SILENCE_MS = 1_000;

/** A command for {@link runRemotely}. */
export interface RemoteCommand {
  id: string;
  /** A RunRequest with an empty cookie. */
  request: Uint8Array;
  link: AgentLink;
  /** The client's own headers. */
  headers: Headers;
  /** Only where laptop and agent share no disk. */
  workspaceGeneration?: string;
  outputs?: OutputsRequest;
  /** How long an unreachable agent is retried, in milliseconds. @default as long as the agent keeps the command */
  graceMs?: number;
  /** Aborted when the user presses Ctrl-C. */
  cancelled: AbortSignal;
  /** Aborted when the client is gone. */
  gone: AbortSignal;
  /** Whether the agent still belongs to the session, as far as is known. */
  isCurrent(): boolean;
  say(text: string): void;
  /** Takes a RunResponse; `last` marks the last one. A returned promise is awaited before the next. */
  onResponse(response: Buffer, last: boolean): Promise<void> | undefined;
  /** Takes an encoded Outputs message. */
  onOutputs(outputs: Buffer): void;
  /** Takes an encoded NamedPart. A returned promise is awaited before the next message. */
  onNamed(part: Buffer): Promise<void> | undefined;
}

/**
 * How the command ended.
 * - finished: the last response was taken.
 * - cancelled: the user pressed Ctrl-C, or the client is gone.
 * - refused: the certificates are not trusted because the clocks differ; another attempt does not help.
 * - stale: the agent has run nothing, and is the wrong one, or has another workspace (`generation`).
 * - no server: the agent has run nothing, since it cannot start a Bazel server.
 * - broken: the agent may have run it, and then something failed (`ended`: the agent was told to end).
 */
export type RemoteOutcome =
  | { kind: "finished" }
  | { kind: "cancelled" }
  | { kind: "refused"; why: string }
  | { kind: "stale"; why: string; generation?: boolean; changed?: boolean }
  | { kind: "no server"; why: string }
  | { kind: "broken"; why: string; ended?: boolean };

/** Runs a command to its end. */
export async function runRemotely(command: RemoteCommand): Promise<RemoteOutcome> {
  const { link, cancelled, gone, say, graceMs } = command;
  const patience = new AgentPatience({ isCurrent: command.isCurrent, patienceMs: graceMs });
  let received = 0, said = 0;
  for (;;) {
    let call: OutgoingCall | undefined;
    let failure: unknown;
    try {
      call = await link.connection.call(EXECUTE, link.headers(command.headers), {
        first: start(command, received),
      });
      patience.connected();
    } catch (e) {
      failure = e;
    }
    if (call) {
      const attempt = await listen(call, command, received, () => {
        const { lostMs } = patience;
        if (said > 0 && lostMs !== undefined) {
          say(`rbs: connected to the agent again after ${(lostMs / 1000).toFixed(1)}s\n`);
        }
        said = 0;
        patience.answered({ resetWaits: true });
      });
      received = attempt.received;
      if (attempt.over) return attempt.over;
      failure = attempt.error;
    }
    if (gone.aborted || cancelled.aborted) {
      void deliverCancel(command, received);
      if (!gone.aborted) {
        say(`rbs: interrupted; the agent at ${link.name} cannot be reached just now, and is told when it can.\n`);
      }
      return { kind: "cancelled" };
    }
    if (received === 0 && isClocks(failure)) return { kind: "refused", why: sentence(failure) };
    const why = `The agent at ${link.name} cannot be reached (${sentence(failure)}).`;
    const verdict = patience.failed(failure);
    if (verdict === "late") return { kind: "broken", why };
    if (verdict === "gone") {
      if (received === 0) return { kind: "stale", why };
      return { kind: "broken", why: `The agent at ${link.name} was lost in mid-command (${sentence(failure)}).` };
    }
    const lost = patience.lostMs!;
    if (lost > SILENCE_MS && lost - said > Math.min(10_000, said)) {
      said = lost;
      say(`rbs: the connection to the agent at ${link.name} was lost; trying again ${(lost / 1000).toFixed(1)}s\n`);
    }
    await patience.wait(AbortSignal.any([cancelled, gone]));
  }
}

/** One connection's part of a command. The start was sent with the call. */
async function listen(
  call: OutgoingCall,
  command: RemoteCommand,
  received: number,
  onAlive: () => void,
): Promise<{ received: number; over?: RemoteOutcome; error?: unknown }> {
  const { link, cancelled, gone } = command;
  let acknowledged = received, unacknowledged = 0, finished = false;
  let timer: ReturnType<typeof setTimeout> | undefined;
  const acknowledge = () => {
    clearTimeout(timer);
    timer = undefined;
    if (acknowledged === received) return;
    acknowledged = received;
    unacknowledged = 0;
    void call.send(encode({ case: "acknowledge", value: BigInt(received) }));
  };
  const cancel = () => {
    void call.send(encode({ case: "cancel", value: {} }));
    // After Ctrl-C on a dead link the user must not wait for the keep-alive.
    link.connection.probe();
  };
  const cut = () => call.cancel();
  cancelled.addEventListener("abort", cancel);
  gone.addEventListener("abort", cut);
  if (cancelled.aborted) cancel();
  if (gone.aborted) cut();
  try {
    let alive = false;
    for await (const message of call.responses()) {
      if (!alive) onAlive();
      alive = true;
      const { sequence, response, outputs, named } = decode(message);
      if (sequence !== received + 1) {
        throw new WireError(`response ${sequence} came where ${received + 1} was due`);
      }
      if (response) {
        finished = isFinished(response);
        const busy = command.onResponse(response, finished);
        if (busy) await busy;
      } else if (outputs) command.onOutputs(outputs);
      else if (named) await command.onNamed(named);
      received = sequence;
      unacknowledged += message.length;
      if (finished || unacknowledged >= ACKNOWLEDGE_BYTES) acknowledge();
      else timer ??= setTimeout(acknowledge, ACKNOWLEDGE_MS);
      if (finished) {
        // The agent ends the call when it knows that everything has arrived; the client does not wait for that.
        call.end();
        return { received, over: { kind: "finished" } };
      }
    }
    const what = received > 0 ? "without a result" : "without a word";
    return { received, over: { kind: "broken", why: `The Bazel server ended the command ${what}.` } };
  } catch (e) {
    if (e instanceof WireError || e instanceof RangeError) {
      call.cancel();
      return {
        received,
        over: { kind: "broken", why: `The agent at ${link.name} sent what is no response (${sentence(e)}).` },
      };
    }
    if (!(e instanceof StatusError)) {
      // Nothing reads from here on: the agent would keep the command and its responses while the connection exists.
      call.cancel();
      throw e;
    }
    if (gone.aborted) return { received, over: { kind: "cancelled" } };
    if (isLost(e)) return { received, error: e };
    return { received, over: refused(e, command, received) };
  } finally {
    clearTimeout(timer);
    cancelled.removeEventListener("abort", cancel);
    gone.removeEventListener("abort", cut);
  }
}

/** Whether the machines refuse each other's certificates because of their clocks. */
export function isClocks(e: unknown): boolean {
  return e instanceof ConnectError && e.reason === "clocks";
}

/** Whether only the connection ended, while the command continues. */
function isLost(e: StatusError): boolean {
  return e.details["grpc-status"] === undefined && e.cause instanceof StreamError &&
    (e.cause.lost !== undefined || e.cause.refused);
}

/** The outcome for a status from the agent, or for its end of the call. */
function refused(e: StatusError, { cancelled, link }: RemoteCommand, received: number): RemoteOutcome {
  if (e.code === Status.CANCELLED && cancelled.aborted) return { kind: "cancelled" };
  if (received === 0 && (e.code === Status.FAILED_PRECONDITION || e.code === Status.UNAUTHENTICATED)) {
    const reason = e.details["rbs-reason"], changed = reason === "changed";
    return { kind: "stale", why: e.message, generation: changed || reason === "generation", changed };
  }
  if (received === 0 && e.details["rbs-reason"] === "no-server") return { kind: "no server", why: e.message };
  if (e.details["grpc-status"] === undefined) {
    return { kind: "broken", why: `The agent at ${link.name} was lost in mid-command (${e.message}).` };
  }
  return {
    kind: "broken",
    ended: e.details["rbs-reason"] === "ended",
    why: e.message || `The agent at ${link.name} ended the command with gRPC status ${e.code}.`,
  };
}

/** Tells an agent that was unreachable to cancel the command. */
async function deliverCancel(command: RemoteCommand, received: number): Promise<void> {
  const patience = new AgentPatience({ isCurrent: command.isCurrent, connected: true });
  for (;;) {
    let failure: unknown;
    try {
      const call = await command.link.connection.call(EXECUTE, command.link.headers(command.headers), {
        first: start(command, received, true),
      });
      patience.connected();
      void call.send(encode({ case: "cancel", value: {} }));
      for await (const message of call.responses()) {
        received = decode(message).sequence;
        void call.send(encode({ case: "acknowledge", value: BigInt(received) }));
      }
      return;
    } catch (e) {
      if (!(e instanceof ConnectError || (e instanceof StatusError && isLost(e)))) return;
      failure = e;
    }
    if (patience.failed(failure) !== "again") return;
    await patience.wait();
  }
}

function encode(
  message: Parameters<typeof create<typeof ExecuteRequestSchema>>[1] extends infer I
    ? I extends { message?: infer M } ? M : never
    : never,
): Uint8Array {
  return toBinary(ExecuteRequestSchema, create(ExecuteRequestSchema, { message }));
}

function start(command: RemoteCommand, received: number, attach = received > 0): Uint8Array {
  return encode({
    case: "start",
    value: {
      commandId: command.id,
      received: BigInt(received),
      attach,
      // An agent that has the command also has its request.
      runRequest: attach ? new Uint8Array() : command.request,
      workspaceGeneration: command.workspaceGeneration,
      outputs: attach ? undefined : command.outputs,
    },
  });
}

interface Decoded {
  sequence: number;
  response?: Buffer;
  outputs?: Buffer;
  named?: Buffer;
}

/** Decodes an ExecuteResponse; bytes are views. Throws a WireError. */
function decode(message: Buffer): Decoded {
  const decoded: Decoded = { sequence: 0 };
  scanFields(message, (f) => {
    if (f.number === 1 && f.wireType === 0) decoded.sequence = varintValue(message, f);
    else if (f.number === 2 && f.wireType === 2) decoded.response = bytesValue(message, f) as Buffer;
    else if (f.number === 3 && f.wireType === 2) decoded.outputs = bytesValue(message, f) as Buffer;
    else if (f.number === 4 && f.wireType === 2) decoded.named = bytesValue(message, f) as Buffer;
  });
  return decoded;
}
