/**
 * The Command service: runs the commands of the session's owner on its real Bazel server, and keeps their responses
 * until they have arrived. A command outlives the connection that brought it.
 *
 *     proxy                         agent                                  Bazel server
 *       │ start {id, RunRequest}      │                                         │
 *       │────────────────────────────>│ Run, cookie patched                     │
 *       │                             │────────────────────────────────────────>│
 *       │ {1, …} {2, …} {3, …}        │ journal                                 │
 *       │<────────────────────────────│<────────────────────────────────────────│
 *       │ acknowledge 2               │                                         │
 *       │────────────────────────────>│                                         │
 *       ╳ (the link breaks)           │ keeps 3, 4, 5                           │
 *       │ start {id, received: 3}     │                                         │
 *       │────────────────────────────>│                                         │
 *       │ {4, …} {5, …}               │                                         │
 *       │<────────────────────────────│                                         │
 */
import { fromBinary } from "@bufbuild/protobuf";
import { Buffer } from "node:buffer";
import { unref } from "../../proto/base/timers.ts";
import { changeRun, isForShutdown, readRunRequest, type RunRequest } from "../../proto/bazel/run_request.ts";
import { ResponseField } from "../../proto/bazel/run_response.ts";
import { RbsError, sentence } from "../../proto/base/errors.ts";
import { type ExecuteRequest, ExecuteRequestSchema, type Start } from "../../proto/contract/gen/rbs/v1/command_pb.ts";
import { StreamError } from "../../proto/transport/http2/errors.ts";
import type { Stream } from "../../proto/transport/http2/stream.ts";
import type { Headers } from "../../proto/transport/http2/hpack.ts";
import { readCall, type ServerCall, Status, StatusError } from "../../proto/transport/grpc/calls.ts";
import { MessageStream } from "../../proto/transport/grpc/message_stream.ts";
import { frame } from "../../proto/transport/grpc/message_stream.ts";
import { requestMessages } from "../../proto/transport/grpc/messages.ts";
import { bytesValue, encodeFields, scanFields, textValue, varintValue } from "../../proto/base/protobuf_fields.ts";
import {
  type Backend,
  type BazelUpstream,
  COMMAND_SERVER,
  serverLost,
  type UpstreamCall,
} from "../bazel/bazel_upstream.ts";
import { CommandJournal, ExecuteResponseField, type Sink } from "./command_journal.ts";
import { withoutExpunge } from "../../proto/bazel/clean_expunge.ts";
import type { Caller } from "../workspace/preemptible_lock.ts";

/** As in the proxy: a command line and an environment, with room to spare. Bytes. */
const MAX_REQUEST_BYTES = 64 << 20;
/**
 * How long a caller may take to return after its connection was closed in order, which most likely means that it has
 * died. Milliseconds.
 */
const CLOSED_MS = 5_000;
/**
 * The same after a reset. A NAT or VPN that drops the connection causes one, and then the caller returns within
 * seconds, or when its link works again. The kernel of a caller that was killed during output causes one too, and a
 * build without a caller must not run for the whole grace period. Milliseconds.
 */
const RESET_MS = 60_000;
/** How long callers have to receive the message that the agent ends. Milliseconds. */
const LAST_WORDS_MS = 1_000;
/** The proxy replaces it by its own. */
const NO_COOKIE = "none";

/** Dependencies of {@link CommandService}. */
export interface CommandServiceParts {
  upstream: BazelUpstream;
  bazel: { readonly isThere: boolean; retire(backend: Backend): void; stop(): Promise<void> };
  gate: { readonly epoch: number };
  /** Counts the running commands. */
  activity: { begin(): Disposable };
  /** The output base as the developer's machine sees it. */
  localOutputBase: { ensure(): Promise<void>; restore(): Promise<void>; expunge(): Promise<void> };
  /** Only where laptop and agent share no disk. */
  synced?: {
    /** The generation of the developer's files here. */
    readonly generation: string;
    /** Checks for foreign changes, which end the generation. @returns a sentence about them */
    check(caller: Caller): Promise<string | undefined>;
    /** Call it after programs of the session have run. */
    ran(): void;
    outputs: CommandOutputs;
  };
  /** Maximum time that a command continues without its caller. Milliseconds. */
  graceMs: number;
  /** For tests: replaces CLOSED_MS. */
  closedMs?: number;
  onError(what: string, error: unknown): void;
}

/** Finds out what a command has made. */
export interface CommandOutputs {
  /** Prepares a command; the result has the arguments for the server. */
  prepare(args: readonly string[], start: Start): Promise<PreparedCommand>;
}

/** A command between its start and its end. */
export interface PreparedCommand {
  args: readonly string[];
  /** Inspects a RunResponse on its way. @returns its replacement, if it changes */
  filter?(response: Uint8Array): Uint8Array | undefined;
  /** Sends new content of files that options name, while the command writes them. */
  followed?: {
    begin(take: (part: Uint8Array) => Promise<void> | undefined): void;
    finish(take: (part: Uint8Array) => Promise<void> | undefined): Promise<void>;
  };
  /** Returns encoded Outputs messages. Call it once, when the command has ended. */
  collect(end: { exitCode: number; execRequest?: Uint8Array }): Promise<Uint8Array[]>;
  /** Called at the end, however the command ended. */
  [Symbol.dispose]?(): void;
}

/** State of a command. */
interface Command {
  readonly id: string;
  readonly epoch: number;
  readonly journal: CommandJournal;
  readonly cancelled: AbortController;
  /** Ends the call that is attached to the command. */
  replace?: (why: StatusError) => void;
  /** The attached call. */
  call?: ServerCall;
  /** While no call is attached: the timer that abandons the command. */
  orphaned?: ReturnType<typeof setTimeout>;
  /** Resolves with the status when nothing more is appended. Never rejects. */
  readonly done: Promise<StatusError | undefined>;
}

/** For a command that has not begun. */
const ENDING = new StatusError(Status.FAILED_PRECONDITION, "This session's agent was told to end.");

/** The Command service of one session. */
export class CommandService {
  readonly #parts: CommandServiceParts;
  readonly #commands = new Map<string, Command>();
  #isEnding = false;

  constructor(parts: CommandServiceParts) {
    this.#parts = parts;
  }

  /** The Execute method. */
  async execute(stream: Stream, headers: Headers, call: ServerCall): Promise<void> {
    const messages = requestMessages(stream, MAX_REQUEST_BYTES)[Symbol.asyncIterator]();
    const first = await messages.next();
    const start = first.done ? undefined : request(first.value).message;
    if (start?.case !== "start" || start.value.commandId === "") {
      throw new StatusError(Status.INVALID_ARGUMENT, "The first message of Execute is not a start.");
    }
    // Parsed once, here.
    const run = runOf(start.value);
    await this.#checkWorkspace(start.value, run, headers, call);
    // For a caller that is gone no command is started, since nobody would cancel it.
    if (call.gone.aborted) return;
    const command = this.#find(start.value, run, headers);
    const sink: Sink = (message) => call.writeFrames(frame(message));
    const over = Promise.withResolvers<StatusError | undefined>();
    command.replace?.(new StatusError(Status.ABORTED, "Another call has attached to this command."));
    clearTimeout(command.orphaned);
    if (!command.journal.attach(Number(start.value.received), sink)) {
      throw new StatusError(
        Status.NOT_FOUND,
        "The part of the command's output that this caller lacks is not kept any more.",
      );
    }
    command.replace = over.resolve;
    command.call = call;
    const left = () => over.resolve(undefined);
    call.gone.addEventListener("abort", left);
    if (call.gone.aborted) left();
    void this.#obey(command, messages).catch((e) => {
      if (e instanceof StatusError && e.code !== Status.CANCELLED) over.resolve(e);
    });
    void command.done.then(async (status) => {
      await command.journal.delivered();
      over.resolve(status);
      this.#commands.delete(command.id);
    });

    const status = await over.promise;
    call.gone.removeEventListener("abort", left);
    command.journal.detach(sink);
    if (command.replace === over.resolve) command.replace = command.call = undefined;
    if (call.gone.aborted) return this.#orphan(command, call.gone.reason);
    call.end(status);
  }

  /** Cancels commands of older epochs without a caller, after a newer owner took over the session. */
  cancelOlder(): void {
    for (const command of this.#commands.values()) {
      if (command.epoch < this.#parts.gate.epoch && command.replace === undefined) this.#abandon(command);
    }
  }

  /** Refuses a new command if the developer's files have changed here: the session's programs can write there. */
  async #checkWorkspace(start: Start, { command }: RunRequest, headers: Headers, call: ServerCall): Promise<void> {
    const { synced } = this.#parts;
    if (!synced || start.attach || this.#commands.has(start.commandId) || command === "shutdown") return;
    const changed = await synced.check({ epoch: Number(headers["rbs-epoch"]) || 0, gone: call.gone });
    if (changed) throw new StatusError(Status.FAILED_PRECONDITION, changed, { "rbs-reason": "changed" });
  }

  /**
   * Ends the calls of all commands with a sentence, since the agent ends; otherwise each would report a lost connection
   * or server. A command without a response has not begun, since the first response has the command's id: its caller
   * asks for another agent, as do all later callers. Resolves when the callers have the message, or after
   * LAST_WORDS_MS.
   */
  async end(): Promise<void> {
    this.#isEnding = true;
    const why = new StatusError(
      Status.UNAVAILABLE,
      "This session's agent was told to end, and the command with it.",
      { "rbs-reason": "ended" },
    );
    const calls = [...this.#commands.values()].flatMap(({ replace, call, journal }) => {
      replace?.(journal.sequence === 0 ? ENDING : why);
      return call ? [call.closed()] : [];
    });
    let timer: ReturnType<typeof setTimeout> | undefined;
    await Promise.race([Promise.all(calls), new Promise((resolve) => timer = setTimeout(resolve, LAST_WORDS_MS))]);
    clearTimeout(timer);
  }

  /** The command of a start; begins it if it is new. */
  #find(start: Start, run: RunRequest, headers: Headers): Command {
    const known = this.#commands.get(start.commandId);
    if (known) return known;
    if (start.attach) throw new StatusError(Status.NOT_FOUND, "This agent does not know the command.");
    if (this.#isEnding) throw ENDING;
    const { synced } = this.#parts;
    // `shutdown` does not depend on the files.
    if (synced && run.command !== "shutdown" && start.workspaceGeneration !== synced.generation) {
      throw new StatusError(
        Status.FAILED_PRECONDITION,
        "The agent's workspace is another one than the caller thinks.",
        {
          "rbs-reason": "generation",
        },
      );
    }
    this.cancelOlder();
    const journal = new CommandJournal(), cancelled = new AbortController();
    const done = this.#run(start, run, headers, journal, cancelled.signal).then(
      () => undefined,
      (e) => {
        if (e instanceof StatusError) return e;
        if (!cancelled.signal.aborted) this.#parts.onError("a command", e);
        return new StatusError(cancelled.signal.aborted ? Status.CANCELLED : Status.INTERNAL, sentence(e));
      },
    );
    const command = { id: start.commandId, epoch: this.#parts.gate.epoch, journal, cancelled, done };
    this.#commands.set(command.id, command);
    return command;
  }

  async #obey(command: Command, messages: AsyncIterator<Buffer>): Promise<void> {
    for (;;) {
      const next = await messages.next();
      if (next.done) return;
      const { message } = request(next.value);
      if (message.case === "acknowledge") command.journal.acknowledge(Number(message.value));
      else if (message.case === "cancel") command.cancelled.abort();
      else throw new StatusError(Status.INVALID_ARGUMENT, "A message of Execute is neither acknowledge nor cancel.");
    }
  }

  /** No call is attached: the command continues while its caller may return. */
  #orphan(command: Command, reason: unknown): void {
    const lost = reason instanceof StreamError ? reason.lost : undefined;
    // The caller itself ended the call, and will not return.
    if (lost === undefined) return this.#abandon(command);
    const { graceMs, closedMs = CLOSED_MS } = this.#parts;
    const patience = { closed: closedMs, reset: RESET_MS, silent: graceMs }[lost];
    command.orphaned = setTimeout(() => this.#abandon(command), Math.min(patience, graceMs));
    unref(command.orphaned);
  }

  #abandon(command: Command): void {
    clearTimeout(command.orphaned);
    command.cancelled.abort();
    command.journal.abandon();
    void command.done.then(() => this.#commands.delete(command.id));
  }

  /** Runs a command to its end, appending its responses to the journal. Rejects with a StatusError. */
  async #run(
    start: Start,
    request: RunRequest,
    headers: Headers,
    journal: CommandJournal,
    cancelled: AbortSignal,
  ): Promise<void> {
    const { activity, bazel, localOutputBase, synced, upstream } = this.#parts;
    using _running = activity.begin();
    if (request.command === "shutdown" && !bazel.isThere) {
      // Starting a server in order to end it makes no sense, and may fail.
      if (isForShutdown(request)) await localOutputBase.restore();
      const over = encodeFields([[1, NO_COOKIE], [ResponseField.finished, true], [
        ResponseField.terminationExpected,
        true,
      ]]);
      return await journal.append(ExecuteResponseField.runResponse, Buffer.from(over));
    }
    await localOutputBase.ensure();
    const { args, expunge } = withoutExpunge(request.args.map((arg) => arg.toString("latin1")));
    const prepared = await synced?.outputs.prepare(args, start);
    using _prepared = { [Symbol.dispose]: () => prepared?.[Symbol.dispose]?.() };
    const sent = prepared?.args ?? args;
    // Usually the arguments are unchanged: there are many, and the developer waits.
    const other = expunge || sent !== args ? sent.map((arg) => Buffer.from(arg, "latin1")) : undefined;
    const run = await upstream.start(
      `${COMMAND_SERVER}Run`,
      ({ requestCookie: cookie }) => changeRun(start.runRequest, { cookie, args: other }),
      headers,
      cancelled,
    ).catch((e) => {
      // There is no server (another version, a full disk): reported before anything was run.
      throw e instanceof RbsError ? new StatusError(Status.INTERNAL, sentence(e), { "rbs-reason": "no-server" }) : e;
    });

    const takePart = (part: Uint8Array) => journal.append(ExecuteResponseField.named, part);
    prepared?.followed?.begin(takePart);
    let commandId: string | undefined, terminates = false;
    let last: { message: Buffer; exitCode: number; execRequest?: Uint8Array } | undefined;
    let collected: Promise<Uint8Array[]> | undefined;
    let cancelSent = false;
    const cancel = () => {
      // A Run without an id yet is cancelled at the first response, below.
      if (cancelSent || commandId === undefined) return;
      cancelSent = true;
      // By an explicit Cancel: Bazel's server does not stop a silent action because its client's stream was reset.
      void this.#cancel(run, commandId);
    };
    cancelled.addEventListener("abort", cancel);
    let busy: Promise<void> | undefined;
    const responses = new MessageStream((response) => {
      const seen = inspect(response, commandId === undefined);
      commandId ??= seen.commandId;
      terminates ||= seen.terminates;
      const bytes = Buffer.from(prepared?.filter?.(response) ?? response);
      if (seen.finished) {
        last = { message: bytes, exitCode: seen.exitCode, execRequest: seen.execRequest };
        // At once: the status that follows does not change what was made.
        if (!expunge) collected ??= prepared?.collect(last);
      } else {
        const room = Promise.all([busy, journal.append(ExecuteResponseField.runResponse, bytes)]).then(() => {
          if (busy === room) busy = undefined;
        });
        busy = room;
      }
      return undefined;
    });
    const end = await readCall(run.stream, (chunk) => {
      responses.push(chunk);
      if (cancelled.aborted) cancel();
      // Also for a part of a message: otherwise a slow caller would make the agent collect one large message after the
      // other.
      return busy;
    }).finally(() => {
      synced?.ran();
      return prepared?.followed?.finish(takePart);
    });
    cancelled.removeEventListener("abort", cancel);
    // The next command must not get a server that is about to end.
    if (terminates) bazel.retire(run.backend);
    if (end.code !== Status.OK) {
      if (end.trailers["grpc-status"] !== undefined) throw new StatusError(end.code, end.message);
      bazel.retire(run.backend);
      throw serverLost(end.message);
    }
    if (isForShutdown(request)) await localOutputBase.restore();
    // `run` may need a repository that this command has fetched.
    else if (!expunge) await localOutputBase.ensure();
    if (!last) return;
    if (expunge && last.exitCode === 0) {
      await bazel.stop();
      await localOutputBase.expunge();
      last.message = Buffer.concat([last.message, encodeFields([[ResponseField.terminationExpected, true]])]);
    }
    const parts = await (collected ?? prepared?.collect(last)) ?? [];
    // All at once, so that they are sent together.
    await Promise.all([
      ...parts.map((part) => journal.append(ExecuteResponseField.outputs, part)),
      journal.append(ExecuteResponseField.runResponse, last.message),
    ]);
  }

  async #cancel({ backend }: UpstreamCall, commandId: string): Promise<void> {
    const request = encodeFields([[1, backend.requestCookie], [2, commandId]]);
    const end = await backend.connection.unary(`${COMMAND_SERVER}Cancel`, request);
    if (end.code !== Status.OK) this.#parts.onError("Cancel", new StatusError(end.code, end.message));
  }
}

function request(bytes: Uint8Array): ExecuteRequest {
  try {
    return fromBinary(ExecuteRequestSchema, bytes);
  } catch (e) {
    throw new StatusError(Status.INVALID_ARGUMENT, `A message of Execute is none (${sentence(e)}).`);
  }
}

/** The fields of a response other than its output. */
function inspect(response: Uint8Array, wantsId: boolean) {
  const seen = {
    commandId: undefined as string | undefined,
    finished: false,
    exitCode: 0,
    terminates: false,
    execRequest: undefined as Uint8Array | undefined,
  };
  scanFields(response, (f) => {
    if (f.number === ResponseField.finished) seen.finished = varintValue(response, f) !== 0;
    else if (f.number === ResponseField.exitCode) seen.exitCode = varintValue(response, f);
    else if (f.number === ResponseField.commandId && wantsId) seen.commandId = textValue(response, f);
    else if (f.number === ResponseField.terminationExpected) seen.terminates = varintValue(response, f) !== 0;
    else if (f.number === ResponseField.execRequest) seen.execRequest = Buffer.from(bytesValue(response, f));
  });
  return seen;
}

/** Parses the request of a start. Throws a StatusError. */
function runOf({ runRequest }: Start): RunRequest {
  try {
    return readRunRequest(runRequest);
  } catch (e) {
    throw new StatusError(Status.INVALID_ARGUMENT, `The Run of a start cannot be read (${sentence(e)}).`);
  }
}
