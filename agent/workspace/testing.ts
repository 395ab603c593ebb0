/** For tests: a session's storage with its Workspace service, and a proxy that can send it anything. */
import { create, fromBinary, type MessageInitShape, toBinary } from "@bufbuild/protobuf";
import { Buffer } from "node:buffer";
import {
  ApplyRequestSchema,
  ApplyResponseSchema,
  type ApplyStartSchema,
  FetchRequestSchema,
  OpenRequestSchema,
  OpenResponseSchema,
  type Root,
} from "../../proto/contract/gen/rbs/v1/workspace_pb.ts";
import { StatusError } from "../../proto/transport/grpc/calls.ts";
import { Connection } from "../../proto/transport/grpc/channel.ts";
import type { OutgoingCall } from "../../proto/transport/grpc/messages.ts";
import { type CallServer, listenForCalls } from "../../proto/transport/grpc/server.ts";
import { lengthPrefix } from "../../proto/base/protobuf_fields.ts";
import { BatchEncoder, decodeBatch, type TreeRecord } from "../../proto/tree/batch.ts";
import { decodeEntry, encodeEntry, type Entry } from "../../proto/tree/entry.ts";
import { decodeName, encodeName } from "../../proto/tree/names.ts";
import { digestOf } from "../../proto/tree/read.ts";
import type { Beneath } from "../files/beneath.ts";
import { openStorage } from "../namespace/storage_folder.ts";
import { DeveloperPaths } from "./developer_paths.ts";
import type { Watch } from "./foreign_changes.ts";
import { SyncedWorkspace } from "./synced_workspace.ts";
import { Turns } from "./preemptible_lock.ts";
import { WorkspaceService } from "./workspace_service.ts";
import { type SyncTempDir, tempDirSync } from "../../tests/support/temp_dir.ts";

/** The developer's path of the workspace. */
export const WS = "/home/ann/ws";
/** The developer's path of the output base. */
export const OUTPUT_BASE = "/home/ann/.cache/bazel/_bazel_ann/0123";

/** A storage that outlives its agents. */
export class Storage implements Disposable {
  /** The session's own directory. */
  readonly path: string;
  /** The agent's access to it. */
  readonly files: Beneath;
  readonly #own?: SyncTempDir;

  constructor(path?: string) {
    if (path === undefined) this.#own = tempDirSync();
    this.path = path ?? this.#own!.path;
    this.files = openStorage(this.path);
  }

  /** Where a developer's path is stored. */
  at(path: string): string {
    return `${this.path}/root${path}`;
  }

  /** Waits until the kernel gives new changes a later time than all earlier ones; its clock advances in steps. */
  async tick(): Promise<void> {
    const now = Date.now(), probe = `${this.path}/tick`;
    do {
      await new Promise((resolve) => setTimeout(resolve, 1));
      Deno.writeTextFileSync(probe, "");
      Deno.removeSync(probe);
      Deno.writeTextFileSync(probe, "");
    } while (this.files.lstat("tick").ctimeMs <= now);
    Deno.removeSync(probe);
  }

  /**
   * Makes a file and its parents.
   * @returns its digest
   */
  write(path: string, content: string | Uint8Array): Uint8Array {
    const bytes = Buffer.from(content as string);
    Deno.mkdirSync(path.slice(0, path.lastIndexOf("/")), { recursive: true });
    Deno.writeFileSync(path, bytes);
    return digestOf(bytes);
  }

  [Symbol.dispose](): void {
    this.files[Symbol.dispose]();
    this.#own?.[Symbol.dispose]();
  }
}

/** What the agent has of a root. */
export interface Manifest {
  root: Root;
  entries: Entry[];
}

/** The answer to Open. */
export interface Opened {
  generation: string;
  manifests: Manifest[];
  /** Bytes received of partial files, by digest in hex. */
  partials: Map<string, number>;
}

/** A part of an Apply call. */
export type Part =
  | { start: Omit<MessageInitShape<typeof ApplyStartSchema>, "root" | "$typeName"> & { root?: string } }
  | { records: TreeRecord[] }
  | { raw: Uint8Array };

/** An agent's port and a connection to it. */
export class TestService implements Disposable {
  readonly workspace: SyncedWorkspace;
  readonly paths: DeveloperPaths;
  readonly log: string[] = [];
  readonly connection: Connection;
  readonly #server: CallServer;
  epoch = 1;

  constructor(storage: Storage, options: { limit?: number; quietMs?: number; saveMs?: number; watch?(): Watch } = {}) {
    this.paths = new DeveloperPaths({
      outputBase: OUTPUT_BASE,
      storageOutputBase: () => "out",
    });
    this.workspace = new SyncedWorkspace({
      storage: storage.files,
      paths: this.paths,
      outputBase: OUTPUT_BASE,
      log: (line) => this.log.push(line),
      watch: options.watch ?? (() => storage.files.watch()),
      limit: options.limit,
      saveMs: options.saveMs,
      turns: new Turns(options.quietMs),
    });
    const service = new WorkspaceService(storage.files, this.workspace, this.paths);
    this.#server = listenForCalls("127.0.0.1", async (stream, headers, call) => {
      const method = headers[":path"].split("/").at(-1)!.toLowerCase() as "open" | "apply" | "fetch";
      await service[method](stream, headers, call);
    }, (path, e) => this.log.push(`${path}: ${e}`));
    this.connection = this.connect();
  }

  /** Makes another connection. */
  connect(): Connection {
    return new Connection("127.0.0.1", this.#server.port);
  }

  /** Starts a call. */
  async call(method: string, connection = this.connection): Promise<OutgoingCall> {
    return await connection.call(`/rbs.v1.Workspace/${method}`, { "rbs-epoch": String(this.epoch) });
  }

  /** Calls Open. @param roots The developer's paths. */
  async open(...roots: string[]): Promise<Opened> {
    const call = await this.call("Open");
    void call.send(toBinary(OpenRequestSchema, create(OpenRequestSchema, { roots: roots.map(encodeName) })));
    call.end();
    const opened: Opened = { generation: "", manifests: [], partials: new Map() };
    for await (const bytes of call.responses()) {
      const { message } = fromBinary(OpenResponseSchema, bytes);
      if (message.case === "generation") opened.generation = message.value;
      else if (message.case === "root") opened.manifests.push({ root: message.value, entries: [] });
      else if (message.case === "entries") {
        const { entries } = opened.manifests.at(-1)!;
        for (const entry of message.value.entries) {
          entries.push(decodeEntry(encodeEntry({ ...plain(entry), path: decodeName(entry.path) })));
        }
      } else if (message.case === "partial") {
        opened.partials.set(message.value.digest.toHex(), Number(message.value.received));
      }
    }
    return opened;
  }

  /** One line for each entry of a root. */
  async list(root = WS): Promise<string[]> {
    const { manifests: [{ entries }] } = await this.open(root);
    return entries.map(({ path, kind, mode, size, target, digest }) =>
      kind === "symlink"
        ? `${path} -> ${target}`
        : kind === "directory"
        ? `${path}/ ${mode.toString(8)}`
        : `${path} ${mode.toString(8)} ${size} ${digest?.toHex().slice(0, 8)}`
    );
  }

  /** Changes the workspace, or another root, from its present state. */
  async change(records: TreeRecord[], start: Extract<Part, { start: unknown }>["start"] = {}) {
    return await this.apply({ start }, { records });
  }

  /** Makes an Apply call. */
  async apply(...parts: Part[]) {
    const call = await this.call("Apply");
    for (const part of parts) await this.send(call, part);
    call.end();
    return await answer(call);
  }

  /** Sends a part. */
  async send(call: OutgoingCall, part: Part): Promise<void> {
    if ("raw" in part) await call.send(part.raw);
    else if ("start" in part) {
      const { root = WS, generation = this.workspace.generation, ...more } = part.start;
      const value = { generation, root: encodeName(root), ...more };
      await call.send(
        toBinary(ApplyRequestSchema, create(ApplyRequestSchema, { message: { case: "start", value } })),
      );
    } else {
      const encoder = new BatchEncoder();
      for (const record of part.records) {
        const full = encoder.add(record);
        if (full) await call.send(batchMessage(full));
      }
      const last = encoder.flush();
      if (last) await call.send(batchMessage(last));
    }
  }

  /**
   * Fetches files.
   * @returns their contents by path, from their offset on
   */
  async fetch(...files: { path: string; digest: Uint8Array; offset?: number }[]): Promise<Map<string, Buffer>> {
    const call = await this.call("Fetch");
    const request = create(FetchRequestSchema, {
      files: files.map(({ path, digest, offset = 0 }) => ({
        path: encodeName(path),
        digest: Uint8Array.from(digest),
        offset: BigInt(offset),
      })),
    });
    void call.send(toBinary(FetchRequestSchema, request));
    call.end();
    const contents = new Map<string, Buffer>();
    let current = "";
    for await (const message of call.responses()) {
      for (const { entry, content = new Uint8Array() } of decodeBatch(message)) {
        if (entry) contents.set(current = `/${entry.path}`, Buffer.alloc(0));
        contents.set(current, Buffer.concat([contents.get(current)!, content]));
      }
    }
    return contents;
  }

  /** Ends like an agent that is killed: nothing is saved. */
  kill(): void {
    this.connection.close();
    this.#server.close();
  }

  [Symbol.dispose](): void {
    this.kill();
    this.workspace.save();
  }
}

function plain(
  entry: { kind: number; mode: number; size: bigint; mtimeMs: bigint; target: Uint8Array; digest: Uint8Array },
) {
  const kind = (["file", "directory", "symlink"] as const)[entry.kind - 1];
  return {
    kind,
    mode: entry.mode,
    size: Number(entry.size),
    mtimeMs: Number(entry.mtimeMs),
    target: kind === "symlink" ? decodeName(entry.target) : undefined,
    digest: entry.digest.length > 0 ? Buffer.from(entry.digest) : undefined,
  };
}

/** A FileBatch as a message of Apply. */
export function batchMessage(batch: Uint8Array): Uint8Array {
  return Buffer.concat([lengthPrefix(2, batch.length), batch]);
}

/** The response of an Apply call. */
export async function answer(call: OutgoingCall) {
  for await (const message of call.responses()) {
    const { generation, files, bytes } = fromBinary(ApplyResponseSchema, message);
    return { generation, files: Number(files), bytes: Number(bytes) };
  }
  throw new TypeError("Apply ended without an answer");
}

/** A file with its content. */
export function file(path: string, content: string | Uint8Array, changes: Partial<Entry> = {}): TreeRecord {
  const bytes = Buffer.from(content as string);
  return {
    entry: {
      path,
      kind: "file",
      mode: 0o644,
      size: bytes.length,
      mtimeMs: 1_700_000_000_123,
      digest: digestOf(bytes),
      ...changes,
    },
    content: bytes,
  };
}

/** A large file in pieces. */
export function pieces(path: string, content: Uint8Array, offset = 0, step = 256 << 10): TreeRecord[] {
  const { entry } = file(path, content);
  const records: TreeRecord[] = [];
  for (let at = offset; at < content.length; at += step) {
    const record = { content: content.subarray(at, at + step), more: at + step < content.length };
    records.push(at === offset ? { entry, offset, ...record } : record);
  }
  return records;
}

/** A directory. */
export function folder(path: string, mode = 0o755): TreeRecord {
  return { entry: { path, kind: "directory", mode, size: 0, mtimeMs: 0 } };
}

/** A symlink. */
export function link(path: string, target: string): TreeRecord {
  return { entry: { path, kind: "symlink", mode: 0, size: 0, mtimeMs: 0, target } };
}

/** Checks that an error is a status with this code, and a message that matches. */
export function status(code: number, like = /./): (e: unknown) => boolean {
  return (e) => {
    if (e instanceof StatusError && e.code === code && like.test(e.message)) return true;
    throw e;
  };
}
