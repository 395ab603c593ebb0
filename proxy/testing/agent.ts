/** Test doubles around the proxy's commands: an agent, a session, and a Bazel client that speaks to our own server. */
import { create, fromBinary, type MessageInitShape, toBinary } from "@bufbuild/protobuf";
import { Buffer } from "node:buffer";
import {
  type RunRequest,
  RunRequestSchema,
  type RunResponse,
  RunResponseSchema,
} from "../../proto/contract/gen/bazel/v1/command_server_pb.ts";
import { ExecuteRequestSchema } from "../../proto/contract/gen/rbs/v1/command_pb.ts";
import { Stream } from "../../proto/transport/http2/stream.ts";
import type { Headers } from "../../proto/transport/http2/hpack.ts";
import { type CallEnd, readCall, ServerCall, StatusError, unaryRequest } from "../../proto/transport/grpc/calls.ts";
import { Connection } from "../../proto/transport/grpc/channel.ts";
import { MessageStream } from "../../proto/transport/grpc/message_stream.ts";
import { listenForCalls } from "../../proto/transport/grpc/server.ts";
import { requestMessages } from "../../proto/transport/grpc/messages.ts";
import { encodeFields, lengthPrefix } from "../../proto/base/protobuf_fields.ts";

export const SERVICE = "/command_server.CommandServer/";

/** A call that reached the agent. */
export interface AgentCall {
  method: string;
  headers: Headers;
  message: Buffer;
  call: ServerCall;
  stream: Stream;
}

/** What an agent does with a call. */
export type Script = (call: AgentCall) => Promise<void> | void;

/** A RunResponse of the real server. */
export function response(fields: MessageInitShape<typeof RunResponseSchema>): Uint8Array {
  return toBinary(RunResponseSchema, create(RunResponseSchema, { cookie: "real", ...fields }));
}

/** Answers Run with its arguments as output, and everything else with a cookie. */
export const obedient: Script = ({ method, message, call }) => {
  if (method === "Run") {
    const { arg } = fromBinary(RunRequestSchema, message);
    call.write(response({ commandId: "remote id" }));
    call.write(response({ commandId: "remote id", standardOutput: Buffer.from(arg.join()) }));
    call.write(response({ commandId: "remote id", finished: true, exitCode: 3 }));
  } else call.write(encodeFields([[1, "real"]]));
  call.end();
};

/** An agent's command port. */
export class ScriptedAgent implements Disposable {
  readonly calls: AgentCall[] = [];
  readonly server: ReturnType<typeof listenForCalls>;

  constructor(public script: Script = obedient) {
    this.server = listenForCalls("127.0.0.1", async (stream, headers, call) => {
      if (headers[":path"] === "/rbs.v1.Command/Execute") return await this.#execute(stream, headers, call);
      const message = await unaryRequest(stream, 64 << 20);
      const received = { method: headers[":path"].slice(SERVICE.length), headers, message, call, stream };
      this.calls.push(received);
      await this.script(received);
    }, (_, e) => {
      throw e;
    });
  }

  /** Has the script serve an Execute as if it were the Run in it; a cancel is a call of Cancel. */
  async #execute(stream: Stream, headers: Headers, call: ServerCall): Promise<void> {
    let sequence = 0;
    const run = new RunCall(stream, () => ++sequence);
    let told: Promise<void> | undefined;
    for await (const bytes of requestMessages(stream, 64 << 20)) {
      const { message } = fromBinary(ExecuteRequestSchema, bytes);
      if (message.case === "start") {
        const received = {
          method: "Run",
          headers,
          message: Buffer.from(message.value.runRequest),
          call: run,
          stream,
        };
        this.calls.push(received);
        told = (async () => await this.script(received))().catch((e) => {
          if (!(e instanceof StatusError)) throw e;
          call.end(e);
        });
      } else if (message.case === "cancel") {
        const nobody = new Stream(0, stream.connection, 0);
        nobody.settle();
        const received = {
          method: "Cancel",
          headers,
          message: Buffer.alloc(0),
          call: new ServerCall(nobody, {}),
          stream,
        };
        this.calls.push(received);
        void (async () => await this.script(received))().catch(() => {});
      }
    }
    await told;
  }

  /** The calls of one method so far. */
  of(method: string): AgentCall[] {
    return this.calls.filter((c) => c.method === method);
  }

  [Symbol.dispose](): void {
    this.server.close();
  }
}

/** The service side of a Run within an Execute. */
class RunCall extends ServerCall {
  readonly #sequence: () => number;

  constructor(stream: Stream, sequence: () => number) {
    super(stream, {});
    this.#sequence = sequence;
  }

  override write(response: Uint8Array): Promise<void> | undefined {
    return super.write(
      Buffer.concat([encodeFields([[1, this.#sequence()]]), lengthPrefix(2, response.length), response]),
    );
  }
}

/** What a command gave. */
export interface Ran {
  responses: RunResponse[];
  stdout: string;
  stderr: string;
  exitCode: number | undefined;
  end: CallEnd;
}

/** A Bazel client's side of a connection. */
export class BazelClient implements Disposable {
  readonly connection: Connection;

  constructor(readonly port: number, readonly cookie: string) {
    this.connection = new Connection("127.0.0.1", port);
  }

  /** An encoded RunRequest. */
  request(args: string[], fields: MessageInitShape<typeof RunRequestSchema> = {}): Uint8Array {
    return toBinary(
      RunRequestSchema,
      create(RunRequestSchema, {
        cookie: this.cookie,
        arg: args.map((a) => Buffer.from(a)),
        blockForLock: true,
        clientDescription: "pid=1",
        ...fields,
      }),
    );
  }

  /** Begins a command; `first` has its id. */
  async run(args: string[] | Uint8Array, fields: MessageInitShape<typeof RunRequestSchema> = {}) {
    const stream = await this.connection.start(
      `${SERVICE}Run`,
      args instanceof Uint8Array ? args : this.request(args, fields),
    );
    const responses: RunResponse[] = [];
    const first = Promise.withResolvers<RunResponse>();
    const messages = new MessageStream((message) => {
      responses.push(fromBinary(RunResponseSchema, Uint8Array.from(message)));
      first.resolve(responses[0]);
      return undefined;
    });
    const ended = readCall(stream, (chunk) => void messages.push(chunk)).then((end): Ran => ({
      responses,
      stdout: Buffer.concat(responses.map((r) => r.standardOutput)).toString(),
      stderr: Buffer.concat(responses.map((r) => r.standardError)).toString(),
      exitCode: responses.find((r) => r.finished)?.exitCode,
      end,
    }));
    return { stream, responses, first: first.promise, ended };
  }

  /** Calls a method with a cookie and perhaps a command id. */
  call(method: string, commandId = "", cookie = this.cookie) {
    return this.connection.unary(SERVICE + method, encodeFields([[1, cookie], [2, commandId]]));
  }

  [Symbol.dispose](): void {
    this.connection.close();
  }
}

export type { RunRequest };
