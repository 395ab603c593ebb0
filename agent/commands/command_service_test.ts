import { create, fromBinary, type MessageInitShape, toBinary } from "@bufbuild/protobuf";
import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { type AddressInfo, connect as connectTo, createServer } from "node:net";
import {
  CancelRequestSchema,
  RunRequestSchema,
  RunResponseSchema,
} from "../../proto/contract/gen/bazel/v1/command_server_pb.ts";
import type { Headers } from "../../proto/transport/http2/hpack.ts";
import { ExecuteRequestSchema, ExecuteResponseSchema } from "../../proto/contract/gen/rbs/v1/command_pb.ts";
import { type ServerCall, Status, StatusError, unaryRequest } from "../../proto/transport/grpc/calls.ts";
import { Connection } from "../../proto/transport/grpc/channel.ts";
import { listenForCalls } from "../../proto/transport/grpc/server.ts";
import { encodeFields } from "../../proto/base/protobuf_fields.ts";
import { Code } from "../../proto/transport/rpc/client.ts";
import { RbsError } from "../../proto/base/errors.ts";
import { eventually } from "../../tests/support/eventually.ts";
import { Activity } from "../control/activity.ts";
import { type Backend, BazelUpstream } from "../bazel/bazel_upstream.ts";
import { listenForProxy } from "./command_port.ts";
import { relay as relayCall } from "./command_relay.ts";
import { CommandService, type CommandServiceParts } from "./command_service.ts";
import { Gate } from "../control/gate.ts";

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
      connection: new Connection("127.0.0.1", this.server.port),
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
    this.backend.connection.close();
    this.server.close();
  }
}

const execute = (message: MessageInitShape<typeof ExecuteRequestSchema>["message"]) =>
  toBinary(ExecuteRequestSchema, create(ExecuteRequestSchema, { message }));

/** How a call of Execute ended, and what came before. */
interface Ended {
  end: { code: number; message: string; details: Record<string, string> };
  responses: Uint8Array[];
  sequences: number[];
}

/** An agent's command port in front of a server, with a proxy's connection to it. */
function agent(
  script?: Script,
  { graceMs = 60_000, closedMs, check }: {
    graceMs?: number;
    closedMs?: number;
    /** Of a synced session. */
    check?: NonNullable<CommandServiceParts["synced"]>["check"];
  } = {},
) {
  const bazel = new FakeBazel(script);
  const servers = [bazel];
  const events: string[] = [];
  const errors: unknown[] = [];
  const activity = new Activity();
  const gate = new Gate({ accessToken: "owner", epoch: 2, owner: "ann" });
  const ann = { identity: { kind: "user", userId: "ann" } } as const;
  let ensure: (signal?: AbortSignal) => Promise<Backend> = () => Promise.resolve(servers.at(-1)!.backend);
  const source = {
    isThere: true,
    ensure: (signal?: AbortSignal) => ensure(signal),
    retire: (backend: Backend) =>
      void events.push(`retire ${servers.findIndex((s) => s.backend.port === backend.port)}`),
    stop: () => Promise.resolve(void events.push("stop")),
  };
  const onError = (_: string, e: unknown) => void errors.push(e);
  const upstream = new BazelUpstream(source);
  const service = new CommandService({
    upstream,
    bazel: source,
    gate,
    activity,
    localOutputBase: {
      ensure: () => Promise.resolve(void events.push("links")),
      restore: () => Promise.resolve(void events.push("restored")),
      expunge: () => Promise.resolve(void events.push("expunged")),
    },
    synced: check && {
      generation: "",
      check,
      ran: () => void events.push("ran"),
      outputs: { prepare: (args) => Promise.resolve({ args, collect: () => Promise.resolve([]) }) },
    },
    graceMs,
    closedMs,
    onError,
  });
  const port = listenForProxy({
    at: "127.0.0.1",
    // In plain text nobody proves anything; who may call is gate_test.ts's matter.
    gate: { admit: (path, _, authorization, epoch) => gate.admit(path, ann, authorization, epoch) },
    handlers: { "/rbs.v1.Command/Execute": (...call) => service.execute(...call) },
    relay: (...call) => relayCall(upstream, ...call),
    onError,
  });
  const connections: Connection[] = [];
  const connect = (to = port.port) => {
    const connection = new Connection("127.0.0.1", to);
    connections.push(connection);
    return connection;
  };
  const headers = { authorization: "Bearer owner", "rbs-epoch": "2", "x-own": "kept", "grpc-timeout": "100S" };
  const request = (fields: MessageInitShape<typeof RunRequestSchema> = {}) =>
    // The cookie's field stands there empty, as the proxy sends it.
    Buffer.concat([
      Buffer.from([0x0a, 0]),
      toBinary(RunRequestSchema, create(RunRequestSchema, { arg: [Buffer.from("build")], ...fields, cookie: "" })),
    ]);
  let ids = 0;
  const connection = connect();
  return {
    bazel,
    source,
    events,
    errors,
    activity,
    gate,
    service,
    port,
    connection,
    connect,
    headers,
    request,
    /** Takes a server's place. */
    replace(server: FakeBazel) {
      servers.push(server);
      return server;
    },
    onEnsure: (f: typeof ensure) => void (ensure = f),
    /** Starts a command, or attaches to one; acknowledges what comes unless it is told not to. */
    async run(
      fields: MessageInitShape<typeof RunRequestSchema> = {},
      options: { more?: Headers; id?: string; received?: number; attach?: boolean; on?: Connection; mute?: boolean } =
        {},
    ) {
      const call = await (options.on ?? connection).call("/rbs.v1.Command/Execute", { ...headers, ...options.more });
      const commandId = options.id ?? `command ${++ids}`;
      const start = { commandId, received: BigInt(options.received ?? 0), attach: options.attach };
      void call.send(execute({ case: "start", value: { ...start, runRequest: request(fields) } }));
      const seen: Ended = { end: { code: 0, message: "", details: {} }, responses: [], sequences: [] };
      const ended = (async () => {
        try {
          for await (const bytes of call.responses()) {
            const { sequence, message } = fromBinary(ExecuteResponseSchema, bytes);
            seen.sequences.push(Number(sequence));
            if (message.case === "runResponse") seen.responses.push(Uint8Array.from(message.value));
            if (!options.mute) void call.send(execute({ case: "acknowledge", value: sequence }));
          }
        } catch (e) {
          if (!(e instanceof StatusError)) throw e;
          seen.end = { code: e.code, message: e.message, details: e.details };
        }
        return seen;
      })();
      const cancel = () => void call.send(execute({ case: "cancel", value: {} }));
      return { call, id: commandId, seen, ended, cancel };
    },
    call: (method: string, more: Headers = {}) =>
      connection.unary(SERVICE + method, encodeFields([[1, "x"], [2, "id"]]), { headers: { ...headers, ...more } }),
    async [Symbol.asyncDispose]() {
      for (const c of connections) c.close();
      port.close();
      upstream.close();
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
  await using r = agent();
  const { end, responses, sequences } = await (await r.run({ clientDescription: "pid=1" })).ended;
  assert.equal(end.code, 0);
  assert.deepEqual(responses, [
    response({ commandId: "id" }),
    response({ commandId: "id", standardOutput: Buffer.from("out"), finished: true, exitCode: 3 }),
  ]);
  assert.deepEqual(sequences, [1, 2]);
  const { headers, message } = r.bazel.calls[0];
  const sent = fromBinary(RunRequestSchema, message);
  assert.deepEqual([sent.cookie, sent.clientDescription, String(sent.arg[0])], ["real ask", "pid=1", "build"]);
  assert.deepEqual([headers["x-own"], headers["grpc-timeout"]], ["kept", "100S"]);
  assert.deepEqual([headers.authorization, headers["rbs-epoch"]], [undefined, undefined]);
  assert.deepEqual(r.events, ["links", "links"]);
});

Deno.test("only the owner is admitted, with its present epoch", async () => {
  await using r = agent();
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
    Status.PERMISSION_DENIED,
  );
});

Deno.test("a proxy that is gone has its command cancelled, which counts as running until it has ended", async () => {
  await using r = agent(untilCancelled());
  const { call, seen } = await r.run();
  await eventually(() => seen.responses.length > 0);
  assert.equal(r.activity.running, 1);
  call.cancel();
  await eventually(() => r.bazel.cancels().length === 1);
  await eventually(() => r.activity.running === 0);
  assert.deepEqual(r.bazel.cancels(), ["id"]);
  assert.equal(r.bazel.of("Run")[0].call.gone.aborted, false);
});

Deno.test("a proxy that is gone before the command has a name has it cancelled as soon as it has one", async () => {
  const named = Promise.withResolvers<void>();
  await using r = agent(untilCancelled(named.promise));
  await r.run();
  await eventually(() => r.bazel.calls.length === 1);
  r.connection.close(); // the whole connection, as when the proxy is killed
  await eventually(() => r.activity.running === 1);
  named.resolve();
  await eventually(() => r.bazel.cancels().length === 1);
  await eventually(() => r.activity.running === 0);
});

Deno.test("a proxy that is gone while the server is being started never starts its command", async () => {
  await using r = agent();
  const started = Promise.withResolvers<Backend>();
  r.onEnsure(() => started.promise);
  const { call } = await r.run();
  await eventually(() => r.events.includes("links"));
  call.cancel();
  // The reset has been read when a later call was answered.
  assert.equal((await r.call("Ping", { authorization: "wrong" })).code, Code.UNAUTHENTICATED);
  started.resolve(r.bazel.backend);
  await eventually(() => r.activity.running === 0);
  assert.equal(r.bazel.calls.length, 0);
  assert.deepEqual(r.errors, []);
});

Deno.test("a proxy that is gone while the developer's files are looked at starts no command", async () => {
  const looking = Promise.withResolvers<void>(),
    left = Promise.withResolvers<void>(),
    looked = Promise.withResolvers<void>();
  let looks = 0;
  await using r = agent(undefined, {
    async check({ gone }) {
      if (++looks > 1) return undefined;
      gone.addEventListener("abort", () => left.resolve());
      looking.resolve();
      await looked.promise;
    },
  });
  const { call } = await r.run();
  await looking.promise;
  call.cancel();
  await left.promise;
  looked.resolve();
  assert.equal((await (await r.run()).ended).end.code, 0);
  assert.equal(r.bazel.of("Run").length, 1);
  assert.deepEqual(r.events.filter((event) => event === "ran"), ["ran"]);
});

Deno.test("a server that dies in mid-run is UNAVAILABLE, with a sentence that says where its log is", async () => {
  await using r = agent(({ call }) => {
    call.write(response({ commandId: "id" }));
  });
  const { ended, seen } = await r.run();
  await eventually(() => seen.responses.length > 0);
  r.bazel.server.close();
  const { end, responses } = await ended;
  assert.deepEqual([end.code, responses.length], [Status.UNAVAILABLE, 1]);
  assert.match(
    end.message,
    /^The Bazel server of this session ended unexpectedly \(.*\); its log is server\/jvm\.out in/,
  );
  assert.equal(end.details["grpc-status"], "14");
});

Deno.test("a server that does not listen any more is given up, and the command goes to the next", async () => {
  await using r = agent();
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
  await using r = agent(({ call }) => {
    call.write(response({ commandId: "id" }));
    call.write(response({ standardError: Buffer.alloc(10_000) }));
    call.write(response({ finished: true, terminationExpected: true }));
    call.end();
  });
  await (await r.run({ clientDescription: "pid=1" })).ended;
  assert.deepEqual(r.events, ["links", "retire 0", "links"]);
});

Deno.test("a shutdown starts no server in order to end it", async () => {
  await using r = agent();
  r.source.isThere = false;
  r.onEnsure(() => Promise.reject(new RbsError("The Bazel server ended with code 1 before it answered.")));
  const shutdown = { arg: [Buffer.from("shutdown")], clientDescription: "pid=1 (for shutdown)" };
  const { responses, end } = await (await r.run(shutdown)).ended;
  assert.equal(end.code, 0);
  const { finished, exitCode, terminationExpected } = fromBinary(RunResponseSchema, responses[0]);
  assert.deepEqual([finished, exitCode, terminationExpected, responses.length], [true, 0, true, 1]);
  assert.deepEqual(r.events, ["restored"]);
});

Deno.test("a shutdown on the client's own account restores the local output base, an ordinary one does not", async () => {
  await using r = agent();
  await (await r.run({ clientDescription: "pid=1" })).ended;
  assert.deepEqual(r.events, ["links", "links"]);
  await (await r.run({ clientDescription: "pid=1 (for shutdown)" })).ended;
  assert.deepEqual(r.events, ["links", "links", "links", "restored"]);
});

Deno.test("other methods pass, their errors too, and they count as no command", async () => {
  await using r = agent((called) => {
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
  await using r = agent();
  r.onEnsure(() => Promise.reject(new Error("The Bazel server ended with code 1: see jvm.out.")));
  const { end } = await (await r.run()).ended;
  assert.deepEqual([end.code, end.message], [Status.INTERNAL, "The Bazel server ended with code 1: see jvm.out."]);
});

Deno.test("a caller is told that no server can be had, so that it need not think that one has died", async () => {
  await using r = agent();
  r.onEnsure(() => Promise.reject(new RbsError("It is another version: install the same one.", { exitCode: 36 })));
  const { end } = await (await r.run()).ended;
  assert.deepEqual([end.message, end.details["rbs-reason"]], [
    "It is another version: install the same one.",
    "no-server",
  ]);
});

Deno.test("a command that the server does not hear about is cancelled as soon as it has a name", async () => {
  const named = Promise.withResolvers<void>();
  await using r = agent(untilCancelled(named.promise));
  const { cancel, ended } = await r.run();
  await eventually(() => r.bazel.calls.length === 1);
  cancel();
  cancel();
  named.resolve();
  const { responses } = await ended;
  assert.equal(fromBinary(RunResponseSchema, responses.at(-1)!).exitCode, 8);
  assert.deepEqual(r.bazel.cancels(), ["id"]);
});

/** Says `count` numbered things, each when it is told to. */
function talking(count: number) {
  const turns = Array.from({ length: count }, () => Promise.withResolvers<void>());
  const script: Script = async ({ method, call }) => {
    if (method !== "Run") return obedient({ method, call } as ServerCalled);
    call.write(response({ commandId: "id" }));
    for (const [i, turn] of turns.entries()) {
      await turn.promise;
      call.write(response({ standardOutput: Buffer.from(String(i)) }));
    }
    call.write(response({ finished: true, exitCode: 3 }));
    call.end();
  };
  return { script, say: (i: number) => turns[i].resolve() };
}

const output = (responses: Uint8Array[]) =>
  responses.map((r) => Buffer.from(fromBinary(RunResponseSchema, r).standardOutput).toString()).join("");

Deno.test("a caller whose connection broke attaches again: nothing is lost, doubled or run twice", async () => {
  const { script, say } = talking(4);
  await using r = agent(script);
  const first = await r.run({}, { on: r.connect() });
  say(0);
  await eventually(() => output(first.seen.responses) === "0");
  const { received } = { received: first.seen.sequences.at(-1)! };
  // Said while nobody is there.
  first.call.closed.then(() => say(1));
  r.connection.probe();
  const second = r.connect();
  // As when a proxy changes its network: the old connection is still open here.
  const resumed = await r.run({}, { id: first.id, received, attach: true, on: second });
  assert.equal((await first.ended).end.code, Status.ABORTED);
  say(1);
  say(2);
  say(3);
  const { responses, sequences, end } = await resumed.ended;
  assert.deepEqual([output(responses), sequences[0], end.code], ["123", received + 1, 0]);
  assert.equal(r.bazel.of("Run").length, 1);
});

Deno.test("the same start sent twice starts one command", async () => {
  const { script, say } = talking(1);
  await using r = agent(script);
  const first = await r.run({}, { mute: true });
  await eventually(() => first.seen.sequences.length > 0);
  const again = await r.run({}, { id: first.id });
  say(0);
  assert.deepEqual((await again.ended).sequences, [1, 2, 3]);
  assert.equal(r.bazel.of("Run").length, 1);
});

Deno.test("what a caller has acknowledged is kept no more, and a command that is not known is not found", async () => {
  const { script, say } = talking(1);
  await using r = agent(script);
  const first = await r.run();
  await eventually(() => first.seen.sequences.length === 1);
  // The acknowledgement has been read when a later call was answered.
  await r.call("Ping");
  await eventually(async () =>
    (await (await r.run({}, { id: first.id, attach: true, on: r.connect() })).ended).end.code === Status.NOT_FOUND
  );
  say(0);
  const other = await (await r.run({}, { id: "never started", attach: true })).ended;
  assert.deepEqual([other.end.code, r.bazel.of("Run").length], [Status.NOT_FOUND, 1]);
});

Deno.test("a command without a caller is cancelled when the grace period is over", async () => {
  await using r = agent(untilCancelled(), { graceMs: 20 });
  const connection = r.connect();
  const { seen } = await r.run({}, { on: connection });
  await eventually(() => seen.responses.length > 0);
  connection.close();
  await eventually(() => r.activity.running === 0);
  assert.deepEqual(r.bazel.cancels(), ["id"]);
});

/** A connection to a port that can be broken as a NAT or VPN breaks one that it has forgotten: the far end gets a reset. */
async function forgetful(port: number) {
  // Only node:net can reset a connection.
  const server = createServer((near) => {
    near.pipe(far).pipe(near);
    near.on("error", () => {});
    far.on("close", () => near.destroy());
  });
  const far = connectTo(port, "127.0.0.1");
  far.on("error", () => {});
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return {
    port: (server.address() as AddressInfo).port,
    forget: () => void far.resetAndDestroy(),
    [Symbol.dispose]() {
      far.destroy();
      server.close();
    },
  };
}

Deno.test("a connection that was reset leaves its command more time than one that was closed", async () => {
  const cancelled = Promise.withResolvers<void>();
  await using r = agent(async (called) => {
    const { method, message, call } = called;
    if (method !== "Run") {
      obedient(called);
      return method === "Cancel" ? cancelled.resolve() : undefined;
    }
    const commandId = String(Buffer.from(fromBinary(RunRequestSchema, message).arg[0]));
    call.write(response({ commandId }));
    await cancelled.promise;
    call.write(response({ commandId, finished: true, exitCode: 8 }));
    call.end();
  }, { closedMs: 20 });
  using link = await forgetful(r.port.port);
  const reset = await r.run({ arg: [Buffer.from("reset")] }, { on: r.connect(link.port) });
  const connection = r.connect();
  const closed = await r.run({ arg: [Buffer.from("closed")] }, { on: connection });
  await eventually(() => reset.seen.responses.length === 1 && closed.seen.responses.length === 1);
  link.forget();
  await reset.ended;
  // The reset has been read when a later call was answered.
  assert.equal((await r.call("Ping")).code, 0);
  connection.close();
  await eventually(() => r.bazel.cancels().length > 0);
  assert.deepEqual(r.bazel.cancels(), ["closed"]);
  const { responses } = await (await r.run({}, { id: reset.id, received: 1, attach: true })).ended;
  assert.equal(fromBinary(RunResponseSchema, responses.at(-1)!).exitCode, 8);
  assert.deepEqual(r.bazel.cancels(), ["closed"]);
});

Deno.test("a newer owner does not wait for a command that nobody has any more", async () => {
  await using r = agent(untilCancelled());
  const connection = r.connect();
  const { seen } = await r.run({}, { on: connection });
  await eventually(() => seen.responses.length > 0);
  connection.close();
  // Still within the time in which its caller may come back.
  r.gate.raise(3);
  await eventually(async () => {
    await (await r.run({ arg: [Buffer.from("info")] }, { more: { "rbs-epoch": "3" }, id: "new", mute: true })).call
      .cancel();
    return r.bazel.cancels().length > 0;
  });
});

Deno.test("an agent that ends says so to the callers of its commands", async () => {
  await using r = agent(({ call }) => void call.write(response({ commandId: "id" })));
  const { ended, seen } = await r.run();
  await eventually(() => seen.responses.length > 0);
  await r.service.end();
  const { end, responses } = await ended;
  assert.deepEqual([end.code, end.details["rbs-reason"], responses.length], [Status.UNAVAILABLE, "ended", 1]);
  assert.match(end.message, /^This session's agent was told to end/);
});

Deno.test("an agent that ends refuses commands that have not begun, so that their callers ask for another one", async () => {
  await using r = agent(() => {});
  const { ended } = await r.run();
  await eventually(() => r.bazel.calls.length > 0);
  await r.service.end();
  const refused = await ended;
  const late = await (await r.run({}, { id: "late" })).ended;
  for (const { end, responses } of [refused, late]) {
    assert.deepEqual([end.code, end.details["rbs-reason"], responses.length], [
      Status.FAILED_PRECONDITION,
      undefined,
      0,
    ]);
  }
  assert.equal(r.bazel.calls.length, 1);
});

Deno.test("a start that is none is refused", async () => {
  await using r = agent();
  for (const bytes of [Buffer.from("0affff", "hex"), execute({ case: "cancel", value: {} }), Buffer.alloc(0)]) {
    const call = await r.connection.call("/rbs.v1.Command/Execute", r.headers);
    void call.send(bytes);
    await assert.rejects(call.responses()[Symbol.asyncIterator]().next(), { code: Status.INVALID_ARGUMENT });
  }
  assert.equal(r.bazel.calls.length, 0);
});

Deno.test("a proxy that reads slowly holds the server back", async () => {
  let written = 0;
  await using r = agent(async ({ call }) => {
    call.write(response({ commandId: "id" }));
    for (let i = 0; i < 64; i++) {
      await call.write(response({ standardOutput: new Uint8Array(1 << 20) }));
      written += 1 << 20;
    }
    call.write(response({ finished: true }));
    call.end();
  });
  const call = await r.connection.call("/rbs.v1.Command/Execute", r.headers);
  void call.send(execute({ case: "start", value: { commandId: "slow", runRequest: r.request() } }));
  let before = -1;
  for (let calm = 0; calm < 20; calm = written === before && written > 0 ? calm + 1 : 0) {
    before = written;
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
  assert.ok(written < 48 << 20, `${written} bytes were written ahead`);
  let bytes = 0;
  for await (const message of call.responses()) {
    bytes += message.length;
    void call.send(execute({ case: "acknowledge", value: fromBinary(ExecuteResponseSchema, message).sequence }));
  }
  assert.ok(bytes > 64 << 20);
});
