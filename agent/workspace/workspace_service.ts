/** The Workspace service, see proto/rbs/v1/workspace.proto. */
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { Buffer } from "node:buffer";
import { RbsError, sentence } from "../../proto/errors.ts";
import {
  ApplyResponseSchema,
  ApplyStartSchema,
  FetchRequestSchema,
  OpenRequestSchema,
  OpenResponseSchema,
} from "../../proto/gen/rbs/v1/workspace_pb.ts";
import type { Stream } from "../../proto/http2/connection.ts";
import type { Headers } from "../../proto/http2/hpack.ts";
import { Pace } from "../../proto/pace.ts";
import { type ServerCall, Status, StatusError, unaryRequest } from "../../proto/relay/calls.ts";
import { requestMessages } from "../../proto/relay/messages.ts";
import { bytesValue, lengthPrefix, scanFields, WireError } from "../../proto/relay/wire.ts";
import { decodeBatch, MAX_BATCH_BYTES, type TreeRecord } from "../../proto/tree/batch.ts";
import { encodeEntry } from "../../proto/tree/entry.ts";
import { decodeName, encodeName, TreeError } from "../../proto/tree/names.ts";
import type { DeveloperPaths } from "./developer_paths.ts";
import { NotThere, SessionFiles } from "./session_files.ts";
import type { SyncedWorkspace } from "./synced_workspace.ts";

/** The largest message: a batch, with room for its frame. */
const MAX_MESSAGE_BYTES = MAX_BATCH_BYTES + (1 << 16);
/** The largest request that names roots or files. */
const MAX_REQUEST_BYTES = 64 << 20;
const MAX_ROOTS = 10_000;
/** Bytes of entries in one message. */
const ENTRIES_BYTES = 512 << 10;
/** A link that holds us back for more than this share of the time has time for compression. */
const SLOW_SHARE = 0.5;

/** See the file's head. */
export class WorkspaceService {
  readonly #workspace: SyncedWorkspace;
  readonly #paths: DeveloperPaths;

  constructor(workspace: SyncedWorkspace, paths: DeveloperPaths) {
    this.#workspace = workspace;
    this.#paths = paths;
  }

  /** The Open method. */
  open(stream: Stream, _: Headers, call: ServerCall): Promise<void> {
    return this.#explained(async () => {
      const { roots } = fromBinary(OpenRequestSchema, await unaryRequest(stream, MAX_REQUEST_BYTES));
      if (roots.length > MAX_ROOTS) {
        throw new StatusError(Status.INVALID_ARGUMENT, `There are more than ${MAX_ROOTS} roots.`);
      }
      const write = (message: Uint8Array) => call.write(message);
      type Message = Parameters<typeof create<typeof OpenResponseSchema>>[1];
      const send = (message: Message) => write(toBinary(OpenResponseSchema, create(OpenResponseSchema, message)));
      // All is looked at first: the generation is that of what is then said.
      const manifests = [];
      for (const bytes of roots) {
        const path = decodeName(bytes);
        const refusal = this.#paths.refusal(path) ?? "";
        manifests.push({ path, refusal, entries: refusal ? [] : await this.#workspace.manifest(path, call.gone) });
      }
      await send({ message: { case: "generation", value: this.#workspace.generation } });
      for (const { path, refusal, entries } of manifests) {
        await send({ message: { case: "root", value: { path: encodeName(path), refusal } } });
        let parts: Uint8Array[] = [], bytes = 0;
        const flush = () => {
          const body = Buffer.concat(parts);
          parts = [];
          bytes = 0;
          return write(Buffer.concat([lengthPrefix(3, body.length), body]));
        };
        const pace = new Pace(call.gone);
        for (const entry of entries) {
          const encoded = encodeEntry(entry);
          parts.push(lengthPrefix(1, encoded.length), encoded);
          bytes += encoded.length;
          if (bytes >= ENTRIES_BYTES) await flush();
          if (pace.due) await pace.rest();
        }
        if (bytes > 0) await flush();
      }
      for (const { digest, received } of this.#workspace.partials()) {
        await send({ message: { case: "partial", value: { digest, received: BigInt(received) } } });
      }
      call.end();
    });
  }

  /** The Apply method. */
  apply(stream: Stream, _: Headers, call: ServerCall): Promise<void> {
    const messages = requestMessages(stream, MAX_MESSAGE_BYTES);
    return this.#explained(async () => {
      const applying = this.#workspace.begin();
      let change: ((record: TreeRecord) => void) | undefined;
      // What this call itself has changed does not make its own generation stale.
      let generation = this.#workspace.generation;
      const pace = new Pace();
      const before = generation;
      try {
        for await (const message of messages) {
          let start: Uint8Array | undefined, batch: Uint8Array | undefined;
          scanFields(message, (f) => {
            if (f.number === 1) start = bytesValue(message, f);
            else if (f.number === 2) batch = bytesValue(message, f);
          });
          if (start) {
            const { root, readOnly, singleFile, generation: known } = fromBinary(ApplyStartSchema, start);
            if (known !== before || this.#workspace.generation !== generation) {
              throw new StatusError(
                Status.FAILED_PRECONDITION,
                "The agent's workspace is another one than the caller thinks.",
                { "rbs-reason": "generation" },
              );
            }
            const path = decodeName(root);
            const refusal = this.#paths.refusal(path);
            if (refusal) throw new StatusError(Status.FAILED_PRECONDITION, refusal);
            change = applying.change(path, { single: singleFile, readOnly });
          }
          if (!batch) continue;
          if (!change) throw new TreeError("a batch of files came before its root was named");
          for (const record of decodeBatch(batch)) {
            change(record);
            if (pace.due) await pace.rest();
          }
          generation = this.#workspace.generation;
        }
      } finally {
        applying.end();
      }
      call.write(toBinary(
        ApplyResponseSchema,
        create(ApplyResponseSchema, {
          generation: this.#workspace.generation,
          files: BigInt(applying.files),
          bytes: BigInt(applying.bytes),
        }),
      ));
      call.end();
    });
  }

  /** The Fetch method. */
  fetch(stream: Stream, _: Headers, call: ServerCall): Promise<void> {
    return this.#explained(async () => {
      const { files } = fromBinary(FetchRequestSchema, await unaryRequest(stream, MAX_REQUEST_BYTES));
      const reader = new SessionFiles(this.#paths);
      const pace = new Pace(call.gone);
      let waited = 0;
      const began = performance.now();
      const send = async (batch: Uint8Array) => {
        const busy = call.write(batch);
        if (!busy) return;
        const from = performance.now();
        await busy;
        waited += performance.now() - from;
        reader.encoder.compress = waited / (performance.now() - began) > SLOW_SHARE;
      };
      for (const { path, digest, offset } of files) {
        const name = decodeName(path);
        if (this.#paths.hostPath(name) === undefined || /\/\.\.?(\/|$)|\/\//.test(name) || !name.startsWith("/")) {
          throw new StatusError(Status.INVALID_ARGUMENT, `${JSON.stringify(name)} is no file of this session.`);
        }
        for (const batch of reader.read({ path: name, digest, offset: Number(offset) })) {
          await send(batch);
          call.gone.throwIfAborted();
        }
        if (pace.due) await pace.rest();
      }
      const last = reader.encoder.flush();
      if (last) await send(last);
      call.end();
    });
  }

  /** Has errors become statuses. */
  async #explained(serve: () => Promise<void>): Promise<void> {
    try {
      await serve();
    } catch (e) {
      if (e instanceof TreeError || e instanceof WireError) {
        throw new StatusError(Status.INVALID_ARGUMENT, `This was refused: ${sentence(e)}.`);
      }
      if (e instanceof NotThere || e instanceof Deno.errors.NotFound) {
        throw new StatusError(Status.NOT_FOUND, `${sentence(e)}.`);
      }
      if (e instanceof RbsError) throw new StatusError(Status.RESOURCE_EXHAUSTED, sentence(e));
      throw e;
    }
  }
}
