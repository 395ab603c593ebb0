import { create, fromBinary, type MessageInitShape, toBinary } from "@bufbuild/protobuf";
import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { CancelRequestSchema, RunRequestSchema, RunResponseSchema } from "../proto/gen/bazel/v1/command_server_pb.ts";
import type { Headers } from "../proto/http2/hpack.ts";
import { readCall, type ServerCall, Status, StatusError, unaryRequest } from "../proto/relay/calls.ts";
import { Connection } from "../proto/relay/connection.ts";
import { MessageStream } from "../proto/relay/message_stream.ts";
import { listenForCalls } from "../proto/relay/server.ts";
import { encodeFields } from "../proto/relay/wire.ts";
import { Code } from "../proto/rpc.ts";
import { eventually } from "../proto/testing/pipe.ts";
import { Activity } from "./activity.ts";
import { type Backend, startCommandRelay } from "./command_relay.ts";
import { Gate } from "./gate.ts";

const SERVICE = "/command_server.CommandServer/";

interface ServerCalled {
  method: string;
  headers: Headers;
  message: Buffer;
  call: ServerCall;
}
type Script = (called: ServerCalled) => Promise<void> | void;

const response = (fields: MessageInitShape<typeof RunResponseSchema>) =>
  toBinary(RunResponseSchema, create(RunResponseSchema, { cookie: "real answer", ...fields }));

const obedient: Script = ({ method, call }) => {
  if (method === "Run") {
    call.write(response({ commandId: "id" }));
    call.write(response({ commandId: "id", standardOutput: Buffer.from("out"), finished: true, exitCode: 3 }));
  } else call.write(encodeFields([[1, "real answer"]]));
  call.end();
};

/** A real Bazel server, as far as the relay knows. */
class FakeBazel implements Disposable {
  readonly calls: ServerCalled[] = [];
  readonly server;
  readonly backend: Backend;

  constructor(public script: Script = obedient) {
    this.server = listenForCalls("127.0.0.1", async (stream, headers, call) => {
      const message = await unaryRequest(stream, 64 << 20);
      const called = { method: headers[":path"].slice(SERVICE.length), headers, message, call };
      this.calls.push(called);
      await this.script(called);
    }, () => {});
    this.backend = {
      host: "127.0.0.1",
      port: this.server.port,
      requestCookie: "real ask",
      responseCookie: "real answer",
    };
  }

  of(method: string): ServerCalled[] {
    return this.calls.filter((c) => c.method === method);
  }

  cancels(): string[] {
    return this.of("Cancel").map((c) => {
      const { cookie, commandId } = fromBinary(CancelRequestSchema, c.message);
      assert.equal(cookie, "real ask");
      return commandId;
    });
  }

  [Symbol.dispose](): void {
    this.server.close();
  }
}

/** A relay in front of a server, with a proxy's connection to it. */
function relay(script?: Script) {
  const bazel = new FakeBazel(script);
  const servers = [bazel];
  const events: string[] = [];
  const errors: unknown[] = [];
  const activity = new Activity();
  const gate = new Gate({ accessToken: "owner", controlToken: "control", epoch: 2 });
  let ensure: (signal?: AbortSignal) => Promise<Backend> = () => Promise.resolve(servers.at(-1)!.backend);
  const started = startCommandRelay({
    bazel: {
      ensure: (signal) => ensure(signal),
      retire: (backend) => void events.push(`retire ${servers.findIndex((s) => s.backend.port === backend.port)}`),
      stop: () => Promise.resolve(void events.push("stop")),
    },
    gate,
    activity,
    localOutputBase: {
      ensure: () => Promise.resolve(void events.push("links")),
      restore: () => Promise.resolve(void events.push("restored")),
      expunge: () => Promise.resolve(void events.push("expunged")),
    },
    onError: (_, e) => void errors.push(e),
  });
  const connection = new Connection("127.0.0.1", started.port);
  const headers = { authorization: "Bearer owner", "rbs-epoch": "2", "x-own": "kept", "grpc-timeout": "100S" };
  const request = (fields: MessageInitShape<typeof RunRequestSchema> = {}) =>
    toBinary(RunRequestSchema, create(RunRequestSchema, { arg: [Buffer.from("build")], ...fields, cookie: "" }));
  return {
    bazel,
    events,
    errors,
    activity,
    gate,
    connection,
    headers,
    request,
    /** Takes a server's place. */
    replace(server: FakeBazel) {
      servers.push(server);
      return server;
    },
    onEnsure: (f: typeof ensure) => void (ensure = f),
    async run(fields: MessageInitShape<typeof RunRequestSchema> = {}, more: Headers = {}) {
      // The cookie's field stands there empty, as the proxy sends it.
      const message = Buffer.concat([Buffer.from([0x0a, 0]), request(fields)]);
      const stream = await connection.start(`${SERVICE}Run`, message, { ...headers, ...more });
      const chunks: Buffer[] = [];
      const ended = readCall(stream, (chunk) => void chunks.push(Buffer.from(chunk))).then((end) => {
        const responses: Uint8Array[] = [];
        new MessageStream((m) => {
          responses.push(Uint8Array.from(m));
          return undefined;
        }).push(Buffer.concat(chunks));
        return { end, responses };
      });
      return { stream, ended };
    },
    call: (method: string, more: Headers = {}) =>
      connection.unary(SERVICE + method, encodeFields([[1, "x"], [2, "id"]]), { headers: { ...headers, ...more } }),
    async [Symbol.asyncDispose]() {
      connection.close();
      await started.close();
      for (const server of servers) server[Symbol.dispose]();
      await eventually(() => activity.running === 0, "the end of the commands");
    },
  };
}

/** A command that runs until it is cancelled. */
function untilCancelled(named: Promise<void> = Promise.resolve()): Script {
  const cancelled = Promise.withResolvers<void>();
  return async (called) => {
    if (called.method === "Cancel") {
      obedient(called);
      return cancelled.resolve();
    }
    await named;
    called.call.write(response({ commandId: "id" }));
    await cancelled.promise;
    called.call.write(response({ finished: true, exitCode: 8 }));
    called.call.end();
  };
}

Deno.test("a command reaches the real server with its cookie, and its responses come back as they are", async () => {
  await using r = relay();
  const { end, responses } = await (await r.run({ clientDescription: "pid=1" })).ended;
  assert.equal(end.code, 0);
  assert.deepEqual(responses, [
    response({ commandId: "id" }),
    response({ commandId: "id", standardOutput: Buffer.from("out"), finished: true, exitCode: 3 }),
  ]);
  const { headers, message } = r.bazel.calls[0];
  const sent = fromBinary(RunRequestSchema, message);
  assert.deepEqual([sent.cookie, sent.clientDescription, String(sent.arg[0])], ["real ask", "pid=1", "build"]);
  assert.deepEqual([headers["x-own"], headers["grpc-timeout"]], ["kept", "100S"]);
  assert.deepEqual([headers.authorization, headers["rbs-epoch"]], [undefined, undefined]);
  assert.deepEqual(r.events, ["links"]);
});

Deno.test("only the owner is admitted, with its present epoch", async () => {
  await using r = relay();
  for (const authorization of ["Bearer control", "Bearer ", "Basic owner", "owner"]) {
    assert.equal((await r.call("Ping", { authorization })).code, Code.UNAUTHENTICATED);
  }
  for (const epoch of ["1", "", "x", "-1"]) {
    assert.equal((await r.call("Ping", { "rbs-epoch": epoch })).code, Code.FAILED_PRECONDITION);
  }
  r.gate.raise(3);
  const refused = await (await r.run()).ended;
  assert.deepEqual([refused.end.code, /taken over/.test(refused.end.message)], [Code.FAILED_PRECONDITION, true]);
  assert.equal(r.bazel.calls.length, 0);
  assert.equal((await r.call("Ping", { "rbs-epoch": "3" })).code, 0);
  assert.equal(
    (await r.connection.unary("/other/Method", Buffer.from(""), { headers: { ...r.headers, "rbs-epoch": "3" } })).code,
    Status.UNIMPLEMENTED,
  );
});

Deno.test("a proxy that is gone has its command cancelled, which counts as running until it has ended", async () => {
  await using r = relay(untilCancelled());
  const { stream } = await r.run();
  await eventually(() => stream.received > 0);
  assert.equal(r.activity.running, 1);
  stream.reset();
  await eventually(() => r.bazel.cancels().length === 1);
  await eventually(() => r.activity.running === 0);
  assert.deepEqual(r.bazel.cancels(), ["id"]);
  assert.equal(r.bazel.of("Run")[0].call.gone.aborted, false);
});

Deno.test("a proxy that is gone before the command has a name has it cancelled as soon as it has one", async () => {
  const named = Promise.withResolvers<void>();
  await using r = relay(untilCancelled(named.promise));
  await r.run();
  await eventually(() => r.bazel.calls.length === 1);
  r.connection.close(); // the whole connection, as when the proxy is killed
  await eventually(() => r.activity.running === 1);
  named.resolve();
  await eventually(() => r.bazel.cancels().length === 1);
  await eventually(() => r.activity.running === 0);
});

Deno.test("a proxy that is gone while the server is being started never starts its command", async () => {
  await using r = relay();
  const started = Promise.withResolvers<Backend>();
  r.onEnsure(() => started.promise);
  const { stream } = await r.run();
  await eventually(() => r.events.includes("links"));
  stream.reset();
  // The reset has been read when a later call was answered.
  assert.equal((await r.call("Ping", { authorization: "wrong" })).code, Code.UNAUTHENTICATED);
  started.resolve(r.bazel.backend);
  await eventually(() => r.activity.running === 0);
  assert.equal(r.bazel.calls.length, 0);
  assert.deepEqual(r.errors, []);
});

Deno.test("a server that dies in mid-run is UNAVAILABLE, with a sentence that says where its log is", async () => {
  await using r = relay(({ call }) => {
    call.write(response({ commandId: "id" }));
  });
  const { stream, ended } = await r.run();
  await eventually(() => stream.received > 0);
  r.bazel.server.close();
  const { end, responses } = await ended;
  assert.deepEqual([end.code, responses.length], [Status.UNAVAILABLE, 1]);
  assert.match(
    end.message,
    /^The Bazel server of this session ended unexpectedly \(.*\); its log is server\/jvm\.out in/,
  );
  assert.equal(end.trailers["grpc-status"], "14");
});

Deno.test("a server that does not listen any more is given up, and the command goes to the next", async () => {
  await using r = relay();
  assert.equal((await (await r.run()).ended).end.code, 0);
  r.bazel.server.close();
  let asked = 0;
  const next = new FakeBazel();
  r.onEnsure(() => Promise.resolve(++asked === 1 ? r.bazel.backend : r.replace(next).backend));
  // The broken connection may be noticed before or after the call is made.
  await eventually(async () => (await r.call("Ping")).code === 0);
  assert.equal((await (await r.run()).ended).end.code, 0);
  assert.equal(next.of("Run").length, 1);
  assert.ok(r.events.includes("retire 0"));
});

Deno.test("a server that says it ends is given up before the next command", async () => {
  await using r = relay(({ call }) => {
    call.write(response({ commandId: "id" }));
    call.write(response({ standardError: Buffer.alloc(10_000) }));
    call.write(response({ finished: true, terminationExpected: true }));
    call.end();
  });
  await (await r.run({ clientDescription: "pid=1" })).ended;
  assert.deepEqual(r.events, ["links", "retire 0"]);
});

Deno.test("a shutdown on the client's own account restores the local output base, an ordinary one does not", async () => {
  await using r = relay();
  await (await r.run({ clientDescription: "pid=1" })).ended;
  assert.deepEqual(r.events, ["links"]);
  await (await r.run({ clientDescription: "pid=1 (for shutdown)" })).ended;
  assert.deepEqual(r.events, ["links", "links", "restored"]);
});

Deno.test("other methods pass, their errors too, and they count as no command", async () => {
  await using r = relay((called) => {
    assert.equal(r.activity.running, 0);
    if (called.method !== "Future") return obedient(called);
    called.call.end(new StatusError(5, "not here"));
  });
  const ping = await r.call("Ping");
  assert.deepEqual([ping.code, ping.data], [0, encodeFields([[1, "real answer"]])]);
  const future = await r.call("Future");
  assert.deepEqual([future.code, future.message], [5, "not here"]);
  assert.deepEqual(r.bazel.of("Ping")[0].message, encodeFields([[1, "real ask"], [2, "id"]]));
  assert.deepEqual(r.events, []);
});

Deno.test("a start that fails gives its sentence to the caller", async () => {
  await using r = relay();
  r.onEnsure(() => Promise.reject(new Error("The Bazel server ended with code 1: see jvm.out.")));
  const { end } = await (await r.run()).ended;
  assert.deepEqual([end.code, end.message], [Status.INTERNAL, "The Bazel server ended with code 1: see jvm.out."]);
});

Deno.test("a proxy that reads slowly holds the server back", async () => {
  let written = 0;
  await using r = relay(async ({ call }) => {
    call.write(response({ commandId: "id" }));
    for (let i = 0; i < 64; i++) {
      await call.write(response({ standardOutput: new Uint8Array(1 << 20) }));
      written += 1 << 20;
    }
    call.write(response({ finished: true }));
    call.end();
  });
  const stream = await r.connection.start(`${SERVICE}Run`, r.request(), r.headers);
  const read = Promise.withResolvers<void>();
  let bytes = 0;
  stream.onData = (chunk) => {
    bytes += chunk.length;
    return read.promise;
  };
  let before = -1;
  for (let calm = 0; calm < 20; calm = written === before && written > 0 ? calm + 1 : 0) {
    before = written;
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
  assert.ok(written < 16 << 20, `${written} bytes were written ahead`);
  read.resolve();
  await stream.closed;
  assert.ok(bytes > 64 << 20);
});
