/** The Workspace service, see proto/contract/rbs/v1/workspace.proto. */
import {
  create,
  type DescMessage,
  fromBinary,
  type MessageInitShape,
  type MessageShape,
  toBinary,
} from "@bufbuild/protobuf";
import { Buffer } from "node:buffer";
import { isDiskFull, RbsError, sentence } from "../../proto/base/errors.ts";
import { TreeEntryKind } from "../../proto/contract/gen/rbs/v1/tree_pb.ts";
import {
  ApplyResponseSchema,
  ApplyStartSchema,
  FetchRequestSchema,
  OpenRequestSchema,
  OpenResponseSchema,
} from "../../proto/contract/gen/rbs/v1/workspace_pb.ts";
import type { Stream } from "../../proto/transport/http2/stream.ts";
import type { Headers } from "../../proto/transport/http2/hpack.ts";
import { Pace } from "../../proto/base/time_slice.ts";
import { type ServerCall, Status, StatusError, unaryRequest } from "../../proto/transport/grpc/calls.ts";
import { requestMessages } from "../../proto/transport/grpc/messages.ts";
import { bytesValue, type Field, lengthPrefix, scanFields, WireError } from "../../proto/base/protobuf_fields.ts";
import { decodeBatch } from "../../proto/tree/batch.ts";
import { CompressionChoice } from "../../proto/tree/compression_choice.ts";
import { encodeEntry, type Entry } from "../../proto/tree/entry.ts";
import { decodeName, encodeName, TreeError } from "../../proto/tree/names.ts";
import type { Files } from "../../proto/tree/files.ts";
import type { DeveloperPaths } from "./developer_paths.ts";
import { type KnownDigests, NotThere, SessionFiles } from "./session_files.ts";
import type { ApplyStep, SyncedWorkspace } from "./synced_workspace.ts";
import type { Caller } from "./preemptible_lock.ts";

/** Maximum size of an Apply message, in bytes. A proxy splits larger files, and its batches are full at 1 MiB. */
const MAX_MESSAGE_BYTES = 4 << 20;
/** Maximum size of a request that names roots or files, in bytes. */
const MAX_REQUEST_BYTES = 16 << 20;
const MAX_ROOTS = 10_000;
/** Bytes of entries in one message. */
const ENTRIES_BYTES = 512 << 10;
/** Field numbers. */
const Request = { start: 1, batch: 2 }, Response = { entries: 3 }, RootEntries = { entries: 1 };

/** The Workspace service. Callers have been admitted before. */
export class WorkspaceService {
  readonly #storage: Files;
  readonly #workspace: SyncedWorkspace;
  readonly #paths: DeveloperPaths;
  readonly #digests?: KnownDigests;
  readonly #elsewhere?: (path: string) => string | undefined;

  /**
   * @param storage The session's own directory.
   * @param elsewhere Where a repository's file is in the storage, if its path does not say.
   * @param digests Digests of requested files, which need not be computed again.
   */
  constructor(
    storage: Files,
    workspace: SyncedWorkspace,
    paths: DeveloperPaths,
    digests?: KnownDigests,
    elsewhere?: (path: string) => string | undefined,
  ) {
    this.#elsewhere = elsewhere;
    this.#storage = storage;
    this.#workspace = workspace;
    this.#paths = paths;
    this.#digests = digests;
  }

  /** The Open method. */
  async open(stream: Stream, headers: Headers, call: ServerCall): Promise<void> {
    const request = unaryRequest(stream, MAX_REQUEST_BYTES);
    await explained(async () => {
      const { roots: wanted } = parsed(OpenRequestSchema, await request);
      if (wanted.length > MAX_ROOTS) {
        throw new StatusError(Status.INVALID_ARGUMENT, `There are more than ${MAX_ROOTS} roots.`);
      }
      const opened = await this.#workspace.open(wanted.map(decodeName), callerOf(headers, call));
      const send = (message: MessageInitShape<typeof OpenResponseSchema>["message"]) =>
        call.write(toBinary(OpenResponseSchema, create(OpenResponseSchema, { message })));
      await send({ case: "generation", value: opened.generation });
      for (const { path, refusal = "", kind, entries } of opened.roots) {
        const value = { path: encodeName(path), refusal, kind: KINDS[kind ?? "none"] };
        await send({ case: "root", value });
        for await (const message of entryMessages(entries, new Pace(call.gone))) await call.write(message);
      }
      for (const { digest, received } of opened.partials) {
        await send({ case: "partial", value: { digest: Uint8Array.from(digest), received: BigInt(received) } });
      }
      call.end();
    });
  }

  /** The Apply method. */
  async apply(stream: Stream, headers: Headers, call: ServerCall): Promise<void> {
    const messages = requestMessages(stream, MAX_MESSAGE_BYTES, { lends: true });
    await explained(async () => {
      const { generation, files, bytes } = await this.#workspace.apply(applySteps(messages), callerOf(headers, call));
      const response = create(ApplyResponseSchema, { generation, files: BigInt(files), bytes: BigInt(bytes) });
      void call.write(toBinary(ApplyResponseSchema, response));
      call.end();
    });
  }

  /** The Fetch method. */
  async fetch(stream: Stream, _: Headers, call: ServerCall): Promise<void> {
    const request = unaryRequest(stream, MAX_REQUEST_BYTES);
    await explained(async () => {
      const { files } = parsed(FetchRequestSchema, await request);
      const reader = new SessionFiles(this.#storage, this.#paths, {
        signal: call.gone,
        digests: this.#digests,
        elsewhere: this.#elsewhere,
      });
      const choice = new CompressionChoice(call);
      reader.encoder.compress = choice.worth;
      const wanted = files.map(({ path, digest, offset }) => ({
        path: decodeName(path),
        digest,
        offset: Number(offset),
      }));
      for await (const batch of reader.read(wanted)) {
        await call.write(batch, () => reader.encoder.reuse(batch));
        choice.sent(batch.length);
        call.gone.throwIfAborted();
        reader.encoder.compress = choice.worth;
      }
      call.end();
    });
  }
}

const KINDS = { none: TreeEntryKind.UNSPECIFIED, file: TreeEntryKind.FILE, directory: TreeEntryKind.DIRECTORY };

function callerOf(headers: Headers, call: ServerCall): Caller {
  return { epoch: Number(headers["rbs-epoch"]) || 0, gone: call.gone };
}

/** Encoded OpenResponses with RootEntries. */
async function* entryMessages(entries: readonly Entry[], pace: Pace): AsyncGenerator<Uint8Array> {
  let parts: Uint8Array[] = [], bytes = 0;
  const message = () => {
    const body = Buffer.concat(parts);
    parts = [];
    bytes = 0;
    return Buffer.concat([lengthPrefix(Response.entries, body.length), body]);
  };
  for (const entry of entries) {
    const encoded = encodeEntry(entry);
    parts.push(lengthPrefix(RootEntries.entries, encoded.length), encoded);
    bytes += encoded.length;
    if (bytes >= ENTRIES_BYTES) yield message();
    if (pace.due) await pace.rest();
  }
  if (bytes > 0) yield message();
}

/** Decodes the messages of an Apply call. */
async function* applySteps(messages: AsyncIterable<Uint8Array>): AsyncGenerator<ApplyStep> {
  for await (const message of messages) {
    // The last field of a oneof counts. Decoding all batches of one message would allow a bomb.
    let last: Field | undefined;
    scanFields(message, (field) => {
      if (field.wireType === 2 && (field.number === Request.start || field.number === Request.batch)) last = field;
    });
    if (!last) throw new TreeError("a message of Apply is neither start nor batch");
    const value = bytesValue(message, last);
    if (last.number === Request.batch) yield { records: decodeBatch(value) };
    else {
      const { root, singleFile, readOnly, generation, fresh } = parsed(ApplyStartSchema, value);
      yield { start: { generation, path: decodeName(root), single: singleFile, readOnly, fresh } };
    }
  }
}

/** Decodes a message. Throws a StatusError if it is malformed. */
function parsed<S extends DescMessage>(schema: S, bytes: Uint8Array): MessageShape<S> {
  try {
    return fromBinary(schema, bytes);
  } catch (e) {
    throw new StatusError(Status.INVALID_ARGUMENT, `A message is no ${schema.name} (${sentence(e)}).`);
  }
}

/** Converts errors to statuses. */
async function explained(serve: () => Promise<void>): Promise<void> {
  try {
    await serve();
  } catch (e) {
    if (e instanceof TreeError || e instanceof WireError) {
      throw new StatusError(Status.INVALID_ARGUMENT, `This was refused: ${sentence(e)}.`);
    }
    if (e instanceof NotThere) throw new StatusError(Status.NOT_FOUND, `${sentence(e)}.`);
    if (e instanceof RbsError) {
      throw new StatusError(isDiskFull(e.cause) ? Status.RESOURCE_EXHAUSTED : Status.INTERNAL, sentence(e));
    }
    throw e;
  }
}
