/** Fetches the content of outputs from the agent, and accepts only what was asked for. */
import { ExitCode } from "../../proto/bazel/exit_codes.ts";
import { RbsError, sentence } from "../../proto/base/errors.ts";
import { Pace } from "../../proto/base/time_slice.ts";
import { Status, StatusError } from "../../proto/transport/grpc/calls.ts";
import type { OutgoingCall } from "../../proto/transport/grpc/messages.ts";
import { WireError } from "../../proto/base/protobuf_fields.ts";
import { decodeBatch, type TreeRecord } from "../../proto/tree/batch.ts";
import type { Entry } from "../../proto/tree/entry.ts";
import { TreeError } from "../../proto/tree/names.ts";
import { WireWriter } from "../../proto/tree/wire_codec.ts";
import { AgentPatience } from "../session/agent_patience.ts";
import type { AgentLink } from "../session/session.ts";
import { refusal } from "./allowed_paths.ts";

const FETCH = "/rbs.v1.Workspace/Fetch";
/**
 * Maximum number of files and bytes of a request: larger ones would be large messages, smaller ones many round trips.
 */
const REQUEST_FILES = 4096;
const REQUEST_BYTES = 1 << 20;
const NOTHING = new Uint8Array();

/** A file to fetch, with its absolute path at the agent and its digest. */
export interface Wanted {
  readonly entry: Entry;
}

/** A part of a file. */
export interface Part extends Pick<TreeRecord, "offset"> {
  content: Uint8Array<ArrayBuffer>;
  /** Whether this is the first part of the file. */
  first: boolean;
  /** Whether more parts follow. */
  more: boolean;
}

/** Options of {@link fetchFiles}. */
export interface FetchOptions<W extends Wanted> {
  link: Pick<AgentLink, "connection" | "headers">;
  signal: AbortSignal;
  /** Whether the agent still belongs to the session, as far as is known. */
  isCurrent?(): boolean;
  /** Called before the content of a message is processed. */
  onMessage?(): void;
  /**
   * Takes a part of a file: its first, or the one after the previous part. A returned promise is awaited before the
   * next call. The content is valid until then or, if `keep` is called, until the function that `keep` returns is
   * called.
   */
  take(file: W, part: Part, keep: () => () => void): Promise<void> | undefined;
  /** Called on each new connection. Returns how many bytes from a file's start are already here. */
  received(): (file: W) => number;
  /** Shows why it takes longer. */
  note(text: string): void;
}

/**
 * Fetches files, reconnecting as often as necessary. Throws an RbsError if the agent is lost, or sends what was not
 * asked for.
 */
export async function fetchFiles<W extends Wanted>(files: Iterable<W>, options: FetchOptions<W>): Promise<void> {
  const { link, signal, isCurrent } = options;
  const left = new Map<string, W>();
  for (const file of files) left.set(file.entry.path, file);
  // The agent has just run a command, so it counts as reached.
  const patience = new AgentPatience({ isCurrent, connected: true });
  while (left.size > 0) {
    signal.throwIfAborted();
    try {
      const call = await begin(link, signal);
      patience.connected();
      await receive(call, left, options, () => patience.answered({ resetWaits: true }));
    } catch (e) {
      signal.throwIfAborted();
      if (!(e instanceof StatusError)) throw e;
      if (e.details["grpc-status"] !== undefined) throw explain(e);
      const again = patience.lostMs !== undefined;
      if (patience.failed(e) !== "again") {
        throw new RbsError(
          `The agent was lost before all outputs were here (${sentence(e)}): run the command again.`,
          { cause: e, exitCode: ExitCode.INTERNAL_ERROR },
        );
      }
      if (again) options.note(`the connection to the agent was lost (${sentence(e)}); trying again`);
      await patience.wait(signal);
    }
  }
}

/** Starts a call. Ctrl-C does not wait for a connection attempt, which may take seconds. */
async function begin(
  { connection, headers }: FetchOptions<Wanted>["link"],
  signal: AbortSignal,
): Promise<OutgoingCall> {
  const calling = connection.call(FETCH, headers(), { lends: true }); // Messages are written at once.
  const aborted = Promise.withResolvers<never>();
  const abort = () => aborted.reject(signal.reason);
  signal.addEventListener("abort", abort);
  if (signal.aborted) abort();
  try {
    return await Promise.race([calling, aborted.promise]);
  } catch (e) {
    calling.then((call) => call.cancel(), () => {});
    throw e;
  } finally {
    signal.removeEventListener("abort", abort);
  }
}

/** One call: requests the first of the remaining files, and removes each from `left` when it is complete. */
async function receive<W extends Wanted>(
  call: OutgoingCall,
  left: Map<string, W>,
  { signal, take, received, onMessage }: FetchOptions<W>,
  onAlive: () => void,
): Promise<void> {
  const asked = new Map<string, { file: W; offset: number }>();
  const request = new WireWriter(1 << 16);
  const has = received();
  for (const [path, file] of left) {
    if (asked.size >= REQUEST_FILES || request.length >= REQUEST_BYTES) break;
    const offset = has(file);
    request.message(1, (out) => {
      out.text(1, path);
      out.bytes(2, file.entry.digest!);
      if (offset > 0) out.varint(3, offset);
    });
    asked.set(path, { file, offset });
  }
  const cut = () => call.cancel();
  signal.addEventListener("abort", cut);
  if (signal.aborted) cut();
  try {
    void call.send(request.take());
    call.end();
    const pace = new Pace(signal);
    /** The file whose next part is due, and how many of its bytes were taken. */
    let current: { file: W; at: number } | undefined;
    for await (const message of call.responses()) {
      onAlive();
      signal.throwIfAborted();
      const records = decoded(message);
      if (records.length === 0) throw refusal("a batch of files", "is empty");
      onMessage?.();
      for (const record of records) {
        if (pace.due) await pace.rest();
        const first = record.entry !== undefined;
        if (record.entry) {
          const path = `/${record.entry.path.replace(/^\/+/, "")}`;
          const wanted = asked.get(path);
          if (current || !wanted) throw refusal(path, "was not asked for");
          if (record.entry.kind !== "file") throw refusal(path, `is a ${record.entry.kind} and was said to be a file`);
          if ((record.offset ?? 0) !== wanted.offset) throw refusal(path, "does not begin where it was asked to");
          asked.delete(path);
          current = { file: wanted.file, at: wanted.offset };
        }
        if (!current || record.remove !== undefined || record.copyFrom !== undefined) {
          throw refusal("a batch of files", "has what was not asked for");
        }
        const { file } = current;
        const { content = NOTHING, more = false } = record as { content?: Uint8Array<ArrayBuffer>; more?: boolean };
        current.at += content.length;
        if (current.at > file.entry.size || (more && content.length === 0) || (!more && current.at < file.entry.size)) {
          throw refusal(file.entry.path, "has not the size that it was said to have");
        }
        const offset = first ? record.offset : undefined;
        const long = take(file, { content, first, more, offset }, () => call.keep(message));
        if (long) await long;
        if (more) continue;
        left.delete(file.entry.path);
        current = undefined;
      }
    }
    const missing = current?.file.entry.path ?? asked.keys().next().value;
    if (missing !== undefined) throw refusal(missing, "did not come");
  } finally {
    signal.removeEventListener("abort", cut);
    call.cancel();
  }
}

function decoded(message: Uint8Array): TreeRecord[] {
  try {
    return decodeBatch(message);
  } catch (e) {
    if (e instanceof TreeError || e instanceof WireError) throw refusal("a batch of files", `is none (${sentence(e)})`);
    throw e;
  }
}

/** Converts a status of Fetch. */
function explain(e: StatusError): RbsError {
  const options = { cause: e, exitCode: ExitCode.INTERNAL_ERROR };
  switch (e.code) {
    case Status.NOT_FOUND:
      return new RbsError(
        `An output was changed at the agent before it was here (${e.message}): run the command again.`,
        options,
      );
    case Status.FAILED_PRECONDITION:
    case Status.UNAUTHENTICATED:
      return new RbsError(
        `Another proxy took the session before all outputs were here: run the command again.`,
        options,
      );
    default:
      return new RbsError(
        `The agent does not give the outputs (${e.message || `gRPC status ${e.code}`}): run the command again.`,
        options,
      );
  }
}
