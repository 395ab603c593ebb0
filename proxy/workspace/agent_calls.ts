/** The proxy's side of the calls of rbs.v1.Workspace. */
import { fromBinary } from "@bufbuild/protobuf";
import { ExitCode } from "../../proto/bazel/exit_codes.ts";
import { RbsError, sentence } from "../../proto/base/errors.ts";
import { ApplyResponseSchema, RootSchema } from "../../proto/contract/gen/rbs/v1/workspace_pb.ts";
import type { Headers } from "../../proto/transport/http2/hpack.ts";
import { Status, StatusError } from "../../proto/transport/grpc/calls.ts";
import type { Connection } from "../../proto/transport/grpc/channel.ts";
import type { OutgoingCall } from "../../proto/transport/grpc/messages.ts";
import {
  bytesValue,
  encodeFields,
  lengthPrefix,
  scanFields,
  textValue,
  varintValue,
  WireError,
} from "../../proto/base/protobuf_fields.ts";
import { CompressionChoice } from "../../proto/tree/compression_choice.ts";
import { BatchEncoder, type TreeRecord } from "../../proto/tree/batch.ts";
import { decodeEntry, type Entry } from "../../proto/tree/entry.ts";
import { encodeName, TreeError } from "../../proto/tree/names.ts";

const SERVICE = "/rbs.v1.Workspace/";
/** Bounds on the answer to Open. `bytes` counts the messages about one root, or those that follow the last root. */
const LIMITS = { entries: 5_000_000, partials: 100_000, bytes: 1 << 30 };
/** What an empty message counts for, in bytes. */
const MESSAGE_BYTES = 64;
/** A generation is a short string that the agent chooses. Characters. */
const MAX_GENERATION = 200;
/** The longest refusal that is shown, in characters. A refusal is one sentence. */
const MAX_REFUSAL = 1_000;
const DIGEST_BYTES = 32;

/** A connection to the session's agent, with the headers for its calls. */
export interface WorkspaceLink {
  readonly connection: Connection;
  headers(): Headers;
}

/** Receives the answer to Open. Manifests may be large, so they are handed over entry by entry. */
export interface OpenVisitor {
  /**
   * @param index Index of the root in the request.
   * @param refusal Why the agent cannot have this root; empty if it can.
   */
  root(index: number, refusal: string): void;
  /** An entry of the last root that {@link root} named. */
  entry(entry: Entry): void;
  /** A large file that was cut off: the agent has its first `received` bytes. */
  partial(digest: Uint8Array, received: number): void;
}

/** The error when the user pressed Ctrl-C. */
export function interrupted(): RbsError {
  return new RbsError("The sync of the workspace was interrupted.", {
    culprit: "caller",
    exitCode: ExitCode.INTERRUPTED,
  });
}

async function begin(link: WorkspaceLink, method: string, signal: AbortSignal): Promise<OutgoingCall> {
  if (signal.aborted) throw interrupted();
  const aborted = Promise.withResolvers<never>();
  const abort = () => aborted.reject(interrupted());
  signal.addEventListener("abort", abort);
  aborted.promise.catch(() => {});
  const calling = link.connection.call(SERVICE + method, link.headers());
  try {
    return await Promise.race([calling, aborted.promise]);
  } catch (e) {
    calling.then((call) => call.cancel(), () => {});
    throw e;
  } finally {
    signal.removeEventListener("abort", abort);
  }
}

/** The error for an answer that no honest agent sends. */
function refused(why: string, cause?: unknown): RbsError {
  return new RbsError(
    `The agent's answer about the workspace was refused, since ${why}: run the command on another agent, and report this one.`,
    { cause, exitCode: ExitCode.INTERNAL_ERROR },
  );
}

/** Removes control characters, which could steer a terminal, and cuts the text to a sentence's length. */
function plain(text: string): string {
  return text.slice(0, MAX_REFUSAL).replaceAll(/\p{C}/gu, "\ufffd");
}

/**
 * Asks the agent what it has of these roots.
 *
 * Throws a {@link StatusError} unchanged, or an {@link RbsError} when interrupted and for an answer that no honest
 * agent sends. After an error, nothing that was visited can be trusted.
 *
 * @param roots Absolute paths.
 * @returns the agent's generation
 */
export async function openRoots(
  link: WorkspaceLink,
  roots: string[],
  visit: OpenVisitor,
  signal: AbortSignal,
  limits = LIMITS,
): Promise<string> {
  const call = await begin(link, "Open", signal);
  const abort = () => call.cancel();
  signal.addEventListener("abort", abort);
  if (signal.aborted) abort();
  let generation: string | undefined, index = -1, bytes = 0, entries = 0, partials = 0;
  try {
    void call.send(encodeFields(roots.map((root) => [1, encodeName(root)])));
    call.end();
    for await (const message of call.responses()) {
      bytes += message.length + MESSAGE_BYTES;
      if (bytes > limits.bytes) throw refused("it does not end");
      scanFields(message, (field) => {
        if (field.number > 4) return;
        if (field.wireType !== 2) throw refused("a message of it is none");
        const value = bytesValue(message, field);
        if (field.number === 1) generation = generationOf(textValue(message, field));
        else if (field.number === 2) {
          if (++index >= roots.length) throw refused("it has more than what was asked for");
          bytes = entries = 0;
          visit.root(index, plain(rootOf(value)));
        } else if (field.number === 3) {
          if (index < 0) throw refused("it has files of nothing that was asked for");
          scanFields(value, (f) => {
            if (f.number !== 1) return;
            if (++entries > limits.entries) {
              throw refused(`it has more than ${limits.entries.toLocaleString("en-US")} files in ${roots[index]}`);
            }
            visit.entry(decodeEntry(bytesValue(value, f)));
          });
        } else if (field.number === 4) {
          if (++partials > limits.partials) {
            throw refused(`it has more than ${limits.partials.toLocaleString("en-US")} files that were cut off`);
          }
          let digest: Uint8Array = new Uint8Array(), received = 0;
          scanFields(value, (f) => {
            if (f.number === 1) digest = bytesValue(value, f);
            else if (f.number === 2) received = varintValue(value, f);
          });
          if (digest.length !== DIGEST_BYTES) throw refused("a digest in it is none");
          visit.partial(digest, received);
        }
      });
      if (signal.aborted) throw interrupted();
    }
  } catch (e) {
    call.cancel();
    if (signal.aborted) throw interrupted();
    throw e instanceof WireError || e instanceof TreeError ? refused(sentence(e), e) : e;
  } finally {
    signal.removeEventListener("abort", abort);
  }
  if (!generation || index !== roots.length - 1) {
    throw new RbsError(
      "The agent's answer about the workspace is incomplete: restart the orchestrator and its agents.",
    );
  }
  return generation;
}

function appliedGeneration(answer: Uint8Array): string {
  let generation: string;
  try {
    ({ generation } = fromBinary(ApplyResponseSchema, answer));
  } catch (e) {
    throw refused("it is none", e);
  }
  return generationOf(generation);
}

function rootOf(value: Uint8Array): string {
  try {
    return fromBinary(RootSchema, value).refusal;
  } catch (e) {
    throw refused("a message of it is none", e);
  }
}

/** Checks a generation from the agent. Throws an RbsError if it is empty or too long. */
function generationOf(said: string): string {
  if (said === "" || said.length > MAX_GENERATION) throw refused("the generation in it is none");
  return said;
}

/** See ApplyStart in workspace.proto. */
export interface ApplyStart {
  generation: string;
  /** Absolute path. */
  root: string;
  readOnly: boolean;
  single: boolean;
  /** @default false */
  fresh?: boolean;
}

/** One Apply call: sends records, and returns the generation that they make. */
export class ApplyCall {
  readonly #call: OutgoingCall;
  readonly #signal: AbortSignal;
  readonly #encoder = new BatchEncoder();
  readonly #answer: Promise<Uint8Array>;
  #failure?: { error: unknown };
  /** All records were sent. */
  #complete = false;
  readonly #choice: CompressionChoice;
  /** Bytes handed to the connection, for progress and tests. */
  sentBytes = 0;
  /** Whether records wait for the network. */
  blocked = false;
  /** Called when {@link blocked} becomes true. */
  onBlocked?: () => void;

  private constructor(call: OutgoingCall, signal: AbortSignal) {
    this.#call = call;
    this.#choice = new CompressionChoice(call);
    this.#encoder.compress = this.#choice.worth;
    this.#signal = signal;
    signal.addEventListener("abort", this.#abort);
    if (signal.aborted) this.#abort();
    this.#answer = this.#read().finally(() => signal.removeEventListener("abort", this.#abort));
    this.#answer.catch((error) => this.#failure = { error });
  }

  /** Throws a StatusError UNAVAILABLE if there is no connection, and an RbsError when interrupted. */
  static async begin(link: WorkspaceLink, signal: AbortSignal): Promise<ApplyCall> {
    return new ApplyCall(await begin(link, "Apply", signal), signal);
  }

  readonly #abort = () => this.#call.cancel();

  async #read(): Promise<Uint8Array> {
    let answer: Uint8Array | undefined;
    for await (const message of this.#call.responses()) {
      if (answer) throw refused("there is more than one");
      answer = message;
    }
    // With an early answer, a command would run on files that never arrived.
    if (!this.#complete) throw refused("it came before all changes were sent");
    if (!answer) throw new StatusError(Status.INTERNAL, "The agent applied the changes without an answer.");
    return answer;
  }

  /** Names the root that the following records change. */
  async start({ generation, root, readOnly, single, fresh = false }: ApplyStart): Promise<void> {
    await this.flush();
    const start = encodeFields([[1, generation], [2, encodeName(root)], [3, readOnly], [4, single], [5, fresh]]);
    await this.#send([lengthPrefix(1, start.length), start]);
  }

  /**
   * Adds a record. Returns a promise if the caller has to wait before it adds more; it rejects when the call has
   * failed.
   */
  add(record: TreeRecord): Promise<void> | undefined {
    const batch = this.#encoder.add(record);
    return batch ? this.#batch(batch) : undefined;
  }

  /** Sends the records that are still buffered. */
  async flush(): Promise<void> {
    const batch = this.#encoder.flush();
    if (batch) await this.#batch(batch);
  }

  /**
   * Waits until the agent has applied everything.
   * @returns the new generation
   */
  async finish(): Promise<string> {
    await this.flush();
    this.#complete = true;
    this.#call.end();
    let answer: Uint8Array;
    try {
      answer = await this.#answer;
    } catch (e) {
      if (this.#signal.aborted) throw interrupted();
      throw e instanceof WireError ? refused(sentence(e), e) : e;
    }
    return appliedGeneration(answer);
  }

  /** Cancels the call. */
  cancel(): void {
    this.#call.cancel();
  }

  #batch(batch: Uint8Array): Promise<void> {
    return this.#send([lengthPrefix(2, batch.length), batch], () => this.#encoder.reuse(batch));
  }

  async #send(pieces: readonly Uint8Array[], released?: () => void): Promise<void> {
    if (this.#signal.aborted) throw interrupted();
    if (this.#failure) throw this.#failure.error;
    const bytes = pieces.reduce((sum, { length }) => sum + length, 0);
    this.sentBytes += bytes;
    const room = this.#call.send(pieces, released);
    if (room) {
      this.blocked = true;
      this.onBlocked?.();
      await room;
      this.blocked = false;
    } else await new Promise((resolve) => setImmediate(resolve));
    this.#choice.sent(bytes);
    this.#encoder.compress = this.#choice.worth;
    if (this.#signal.aborted) throw interrupted();
    // The reason for a failure arrives with the answer, a moment after the stream has unblocked.
    if (this.#failure) throw (this.#failure as { error: unknown }).error;
  }
}
