/** An agent's Workspace service for tests of the proxy: small, obedient, and cut off or refusing where a test says so. */
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import {
  ApplyRequestSchema,
  ApplyResponseSchema,
  OpenRequestSchema,
  OpenResponseSchema,
} from "../../proto/contract/gen/rbs/v1/workspace_pb.ts";
import { FileBatchSchema } from "../../proto/contract/gen/rbs/v1/tree_pb.ts";
import type { Stream } from "../../proto/transport/http2/stream.ts";
import { type ServerCall, Status, StatusError, unaryRequest } from "../../proto/transport/grpc/calls.ts";
import { Connection } from "../../proto/transport/grpc/channel.ts";
import { requestMessages } from "../../proto/transport/grpc/messages.ts";
import { listenForCalls } from "../../proto/transport/grpc/server.ts";
import { encodeFields, lengthPrefix } from "../../proto/base/protobuf_fields.ts";
import { decodeBatch, type TreeRecord } from "../../proto/tree/batch.ts";
import { encodeEntry } from "../../proto/tree/entry.ts";
import { decodeName } from "../../proto/tree/names.ts";
import { localFiles } from "../../proto/tree/local_files.ts";
import { digestFile } from "../../proto/tree/read.ts";
import { scanTree } from "../../proto/tree/scan.ts";
import { TreeError } from "../../proto/tree/names.ts";
import { TreeWriter } from "../../proto/tree/writer.ts";

/** What a test may do in an agent's place; what throws ends the call. */
export interface AgentScript {
  open?(roots: string[]): Promise<void> | void;
  /** Before each message of an Apply call. @param cut cuts the connection off */
  message?(number: number, cut: () => void): Promise<void> | void;
  /** When all was applied, before the answer. */
  applied?(): Promise<void> | void;
  /** Refusals of roots, by path. */
  refusals?: Record<string, string>;
}

/** Keeps each root below a folder, by its absolute path. */
export class WorkspaceAgent implements Disposable {
  generation = 1;
  readonly calls: string[] = [];
  /** Of the last Apply call. */
  records: TreeRecord[] = [];
  /** Bytes of batches in all. */
  receivedBytes = 0;
  readonly connection: Connection;
  readonly #server: ReturnType<typeof listenForCalls>;

  /** @param folder Absolute; made when needed. */
  constructor(readonly folder: string, public script: AgentScript = {}) {
    this.#server = listenForCalls("127.0.0.1", async (stream, headers, call) => {
      const method = headers[":path"].split("/").at(-1)!;
      this.calls.push(method);
      if (method === "Open") await this.#open(stream, call);
      else await this.#apply(stream, call);
    }, () => {});
    this.connection = new Connection("127.0.0.1", this.#server.port);
  }

  get port(): number {
    return this.#server.port;
  }

  /** How the proxy reaches it. */
  get link() {
    return { connection: this.connection, headers: () => ({ authorization: "Bearer token" }) };
  }

  /** Where a root's files are. */
  root(path: string): string {
    return `${this.folder}/root${path}`;
  }

  /** What was called since the last time. */
  takeCalls(): string[] {
    return this.calls.splice(0);
  }

  async #open(stream: Stream, call: ServerCall): Promise<void> {
    const { roots } = fromBinary(OpenRequestSchema, await unaryRequest(stream, 1 << 20));
    const paths = roots.map(decodeName);
    await this.script.open?.(paths);
    const send = (message: Parameters<typeof create<typeof OpenResponseSchema>>[1]) =>
      call.write(toBinary(OpenResponseSchema, create(OpenResponseSchema, message)));
    send({ message: { case: "generation", value: `g${this.generation}` } });
    for (const [i, path] of paths.entries()) {
      const refusal = this.script.refusals?.[path] ?? "";
      send({ message: { case: "root", value: { path: roots[i], refusal } } });
      const entries = [...(await scanTree(localFiles, this.root(path))).values()].sort((a, b) =>
        a.path < b.path ? -1 : 1
      );
      for (const entry of entries) {
        if (entry.kind === "file") entry.digest = digestFile(localFiles, `${this.root(path)}/${entry.path}`);
        const inner = encodeFields([[1, encodeEntry(entry)]]);
        await call.write(new Uint8Array([...lengthPrefix(3, inner.length), ...inner]));
      }
    }
    for (const { digest, received } of this.#writer("/").partials()) {
      send({
        message: { case: "partial", value: { digest: digest as Uint8Array<ArrayBuffer>, received: BigInt(received) } },
      });
    }
    call.end();
  }

  #writer(root: string): TreeWriter {
    return new TreeWriter({
      files: localFiles,
      root: this.root(root),
      staging: `${this.folder}/staging`,
      digests: "optional",
    });
  }

  async #apply(stream: Stream, call: ServerCall): Promise<void> {
    this.records = [];
    let writer: TreeWriter | undefined;
    let number = 0;
    try {
      for await (const bytes of requestMessages(stream, 8 << 20)) {
        await this.script.message?.(++number, () => stream.connection.close());
        const { message } = fromBinary(ApplyRequestSchema, bytes);
        if (message.case === "start") {
          if (message.value.generation !== `g${this.generation}`) {
            throw new StatusError(Status.FAILED_PRECONDITION, "The generation is another one.");
          }
          const root = this.root(decodeName(message.value.root));
          if (message.value.fresh && (await scanTree(localFiles, root)).size > 0) {
            throw new StatusError(Status.FAILED_PRECONDITION, "It has something.", { "rbs-reason": "not-empty" });
          }
          writer?.close();
          writer = this.#writer(decodeName(message.value.root));
        } else if (message.case === "batch") {
          const batch = toBinary(FileBatchSchema, message.value);
          this.receivedBytes += batch.length;
          for (const record of decodeBatch(batch)) {
            this.records.push(record);
            await writer!.apply(record);
          }
        }
      }
      await this.script.applied?.();
    } catch (e) {
      if (e instanceof TreeError) throw new StatusError(Status.INVALID_ARGUMENT, e.message);
      throw e;
    } finally {
      writer?.close();
      if (writer) this.generation++;
    }
    call.write(toBinary(ApplyResponseSchema, create(ApplyResponseSchema, { generation: `g${this.generation}` })));
    call.end();
  }

  [Symbol.dispose](): void {
    this.connection.close();
    this.#server.close();
  }
}
