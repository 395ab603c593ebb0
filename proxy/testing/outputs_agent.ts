/** An agent that has outputs: what it says that it has, and what it gives, are the test's to choose. */
import { fromBinary } from "@bufbuild/protobuf";
import { Buffer } from "node:buffer";
import { createHash } from "node:crypto";
import { type FetchRequest, FetchRequestSchema } from "../../proto/contract/gen/rbs/v1/workspace_pb.ts";
import { type ServerCall, Status, StatusError, unaryRequest } from "../../proto/transport/grpc/calls.ts";
import { Connection } from "../../proto/transport/grpc/channel.ts";
import { listenForCalls } from "../../proto/transport/grpc/server.ts";
import { encodeFields } from "../../proto/base/protobuf_fields.ts";
import { BatchEncoder, type TreeRecord } from "../../proto/tree/batch.ts";
import { encodeEntry, type Entry } from "../../proto/tree/entry.ts";
import { decodeName } from "../../proto/tree/names.ts";

/** SHA-256. */
export function sha256(content: Uint8Array | string): Uint8Array {
  return new Uint8Array(createHash("sha256").update(content).digest());
}

/** An output of the agent's. */
export type Made = Partial<Entry> & { path: string; content?: Uint8Array | string };

/** What an agent does with a call of Fetch. */
export type FetchScript = (request: FetchRequest, call: ServerCall) => Promise<void> | void;

/** The agent's command port, with Fetch only. */
export class OutputsAgent implements Disposable {
  /** By absolute path. */
  readonly contents = new Map<string, Uint8Array>();
  /** What was asked for, in its order. */
  readonly asked: { path: string; offset: number }[] = [];
  readonly #server;
  readonly link: { connection: Connection; headers(): Record<string, string> };

  /** @param script Replaces {@link give}. */
  constructor(public script: FetchScript = (request, call) => this.give(request, call)) {
    this.#server = listenForCalls("127.0.0.1", async (stream, headers, call) => {
      const message = await unaryRequest(stream, 64 << 20);
      if (headers[":path"] !== "/rbs.v1.Workspace/Fetch") throw new StatusError(Status.UNIMPLEMENTED, headers[":path"]);
      const request = fromBinary(FetchRequestSchema, message);
      for (const { path, offset } of request.files) this.asked.push({ path: decodeName(path), offset: Number(offset) });
      await this.script(request, call);
    }, (_, e) => {
      throw e;
    });
    this.link = { connection: new Connection("127.0.0.1", this.#server.port), headers: () => ({ "rbs-epoch": "1" }) };
  }

  /** An honest agent's answer. */
  async give({ files }: FetchRequest, call: ServerCall): Promise<void> {
    await send(call, files.flatMap(({ path, offset }) => this.records(decodeName(path), Number(offset))));
    call.end();
  }

  /** The records of one file. */
  records(path: string, offset = 0): TreeRecord[] {
    const content = this.contents.get(path);
    if (!content) throw new StatusError(Status.NOT_FOUND, path);
    const entry: Entry = { path: path.slice(1), kind: "file", mode: 0o644, size: content.length, mtimeMs: 0 };
    const records: TreeRecord[] = [];
    const step = 256 << 10;
    for (let at = offset; at === offset || at < content.length; at += step) {
      const more = at + step < content.length;
      records.push({
        ...at === offset && { entry, offset },
        content: content.subarray(at, at + step),
        more,
        ...!more && { digest: sha256(content) },
      });
    }
    return records;
  }

  /** Has the agent make outputs. @returns the manifest: encoded Outputs messages */
  make(made: Made[], fields: { cleaned?: boolean; warnings?: string[]; id?: Uint8Array } = {}): Uint8Array[] {
    const entries = made.map(({ content = "", ...given }) => {
      const bytes = Buffer.from(content as string);
      const kind = given.kind ?? (given.target === undefined ? "file" : "symlink");
      if (kind === "file") this.contents.set(given.path, bytes);
      return encodeEntry({
        kind,
        mode: kind === "directory" ? 0o755 : 0o555,
        size: kind === "file" ? bytes.length : 0,
        mtimeMs: kind === "file" ? 1_700_000_000_123 : 0,
        ...kind === "file" && { digest: sha256(bytes) },
        ...given,
      });
    });
    const half = entries.length >> 1;
    return [
      encodeFields(entries.slice(0, half).map((e) => [1, e])),
      encodeFields([
        ...entries.slice(half).map((e): [number, Uint8Array] => [1, e]),
        [2, fields.id ?? sha256(Buffer.concat(entries))],
        [4, fields.cleaned],
        ...(fields.warnings ?? []).map((w): [number, string] => [5, w]),
      ]),
    ];
  }

  /** Breaks the connections, as a cut link does. */
  cut(): void {
    this.link.connection.reconnect();
  }

  /** Ends; nobody listens on its port any more. */
  stop(): void {
    this.#server.close();
  }

  [Symbol.dispose](): void {
    this.link.connection.close();
    this.stop();
  }
}

/** Sends records, in batches. */
export async function send(call: ServerCall, records: Iterable<TreeRecord>): Promise<void> {
  const encoder = new BatchEncoder();
  for (const record of records) {
    const message = encoder.add(record);
    if (message) await call.write(message);
  }
  const last = encoder.flush();
  if (last) await call.write(last);
}
