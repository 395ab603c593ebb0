import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { once } from "node:events";
import { connect } from "node:net";
import { Agent, type CommandInit } from "../../contract/gen/rbs/v1/agent_pb.ts";
import { Orchestrator } from "../../contract/gen/rbs/v1/orchestrator_pb.ts";
import { type CallContext, Code, createRpcClient, RpcError, type RpcImplementation } from "./client.ts";
import { MAX_REQUEST_BYTES, RpcServer, type RpcServerOptions } from "./server.ts";

type Orchestrating = Partial<RpcImplementation<typeof Orchestrator>>;
type Acting = Partial<RpcImplementation<typeof Agent>>;

/** A listening server with both of our services, and clients of it; all of it goes with the scope. */
async function serve(handlers: Orchestrating & Acting, options: Partial<RpcServerOptions> = {}) {
  const server = new RpcServer({ address: "127.0.0.1:0", authorize() {}, ...options })
    .add(Orchestrator, handlers as RpcImplementation<typeof Orchestrator>)
    .add(Agent, handlers as RpcImplementation<typeof Agent>);
  const address = `127.0.0.1:${await server.listen()}`;
  const orchestrator = createRpcClient(Orchestrator, address, { token: "secret" });
  const agent = createRpcClient(Agent, address);
  return {
    server,
    orchestrator,
    agent,
    async [Symbol.asyncDispose]() {
      orchestrator.close();
      agent.close();
      await server[Symbol.asyncDispose]();
    },
  };
}

const fails = (promise: Promise<unknown>, code: Code, message?: RegExp | string) =>
  assert.rejects(promise, (e) => {
    assert.ok(e instanceof RpcError, String(e));
    assert.equal(Code[e.code], Code[code], e.message);
    if (typeof message === "string") assert.equal(e.message, message);
    else if (message) assert.match(e.message, message);
    return true;
  });

const step = (description: string) => ({ event: { case: "step" as const, value: { description } } });
const stdin = (text: string) => ({ message: { case: "stdin" as const, value: Buffer.from(text) } });
const stdout = (text: string) => ({ message: { case: "stdout" as const, value: Buffer.from(text) } });
const all = <T>(messages: AsyncIterable<T>) => Array.fromAsync(messages);
/** Resolves when the signal is aborted. */
const aborted = (signal: AbortSignal) =>
  signal.aborted ? Promise.resolve() : new Promise((resolve) => signal.addEventListener("abort", resolve));

Deno.test("a unary call brings the request, the token and the metadata, and takes back the response", async () => {
  let seen: CallContext | undefined;
  await using s = await serve({
    heartbeat(request, context) {
      seen = context;
      return Promise.resolve({ intervalSeconds: request.userId.length });
    },
  });
  const response = await s.orchestrator.heartbeat({ userId: "ünïcode" }, { metadata: { "rbs-epoch": "7" } });
  assert.equal(response.intervalSeconds, 7);
  assert.equal(seen?.metadata("authorization"), "Bearer secret");
  assert.equal(seen?.metadata("rbs-epoch"), "7");
  assert.equal(seen?.metadata("absent"), undefined);
  assert.equal(seen!.identity, undefined);
});

Deno.test("50 MB stream down to a slow start whole and in order, and are made only as they are read", async () => {
  let made = 0;
  await using s = await serve({
    async *getServerStream() {
      for (; made < 800; made++) yield step(`${made}:`.padEnd(65_536, "x"));
    },
  });
  let received = 0;
  for await (const { event } of s.orchestrator.getServerStream({})) {
    if (received === 0) {
      // Some round trips, in which an unrestrained server would make all of it.
      for (let i = 0; i < 20; i++) await fails(s.orchestrator.listSessions({}), Code.INTERNAL);
      assert.ok(made < 200, `${made} messages were made while one was read`);
    }
    assert.equal(event.case, "step");
    assert.equal(event.value!.description.length, 65_536);
    assert.ok(event.value!.description.startsWith(`${received}:`));
    received++;
  }
  assert.equal(received, 800);
});

Deno.test("a bidirectional call answers each request as it comes", async () => {
  await using s = await serve({
    async *executeCommand(requests) {
      for await (const { message } of requests) {
        if (message.case === "stdin") yield stdout(Buffer.from(message.value).toString().toUpperCase());
      }
      yield { message: { case: "exitCode", value: 3 } };
    },
  });
  const call = s.agent.executeCommand();
  const responses = call[Symbol.asyncIterator]();
  for (const text of ["one", "two", "three"]) {
    await call.send(stdin(text));
    const { value } = await responses.next();
    assert.equal(Buffer.from(value.message.value).toString(), text.toUpperCase());
  }
  call.end();
  assert.deepEqual((await responses.next()).value.message, { case: "exitCode", value: 3 });
  assert.equal((await responses.next()).done, true);
});

Deno.test("a handler that reads no further than the first request can still answer", async () => {
  await using s = await serve({
    async *executeCommand(requests) {
      let init: CommandInit | undefined;
      for await (const { message } of requests) {
        if (message.case === "init") init = message.value;
        break;
      }
      yield stdout(init!.args.join(" "));
      yield { message: { case: "exitCode", value: 0 } };
    },
  });
  const call = s.agent.executeCommand({ timeoutMs: 10_000 });
  await call.send({ message: { case: "init", value: { args: ["bazel", "info"] } } });
  await call.send(stdin("unread"));
  const [first, second] = await all(call);
  assert.equal(Buffer.from(first.message.value as Uint8Array).toString(), "bazel info");
  assert.equal(second.message.case, "exitCode");
});

Deno.test("requests can be sent on after the call has failed, and go nowhere", async () => {
  await using s = await serve({
    // deno-lint-ignore require-yield
    async *executeCommand() {
      await Promise.resolve();
      throw new RpcError(Code.ABORTED, "not now");
    },
  });
  const call = s.agent.executeCommand();
  await fails(all(call), Code.ABORTED, "not now");
  for (let i = 0; i < 100; i++) await call.send(stdin("x".repeat(1000)));
});

Deno.test("a call ends at its deadline on both sides", async () => {
  const gone = Promise.withResolvers<void>();
  await using s = await serve({
    async heartbeat(_, { signal }) {
      await aborted(signal);
      gone.resolve();
      return {};
    },
  });
  await fails(s.orchestrator.heartbeat({}, { timeoutMs: 50 }), Code.DEADLINE_EXCEEDED);
  await gone.promise;
});

Deno.test("a caller's signal cancels a call of each kind, and its handler is told", async () => {
  const started: (() => void)[] = [];
  let gone = 0;
  const allGone = Promise.withResolvers<void>();
  const hang = async (signal: AbortSignal) => {
    started.shift()!();
    await aborted(signal);
    assert.ok(signal.reason instanceof RpcError);
    if (++gone === 3) allGone.resolve();
  };
  const errors: unknown[] = [];
  await using s = await serve({
    heartbeat: async (_, { signal }) => (await hang(signal), {}),
    async *getServerStream(_, { signal }) {
      yield step("started");
      await hang(signal);
    },
    async *executeCommand(requests, { signal }) {
      yield stdout("started");
      const hanging = hang(signal);
      for await (const _ of requests);
      await hanging;
    },
  }, { onError: (_, e) => errors.push(e) });
  for (
    const call of [
      (signal: AbortSignal) => s.orchestrator.heartbeat({}, { signal }),
      (signal: AbortSignal) => all(s.orchestrator.getServerStream({}, { signal })),
      (signal: AbortSignal) => all(s.agent.executeCommand({ signal })),
    ]
  ) {
    const controller = new AbortController();
    const running = new Promise<void>((resolve) => started.push(resolve));
    const failed = fails(call(controller.signal), Code.CANCELLED);
    await running;
    controller.abort();
    await failed;
  }
  await allGone.promise;
  assert.deepEqual(errors, [], "a caller's leaving is no error of the handler");
});

Deno.test("a call whose signal is aborted beforehand is cancelled", async () => {
  await using s = await serve({
    heartbeat: () => Promise.resolve({}),
    async *getServerStream() {},
    async *executeCommand() {},
  });
  const signal = AbortSignal.abort();
  await fails(s.orchestrator.heartbeat({}, { signal }), Code.CANCELLED);
  await fails(all(s.orchestrator.getServerStream({}, { signal })), Code.CANCELLED);
  await fails(all(s.agent.executeCommand({ signal })), Code.CANCELLED);
});

Deno.test("leaving the responses, and a lost connection, abort the handler's signal", async () => {
  const gone: PromiseWithResolvers<void>[] = [];
  await using s = await serve({
    async *getServerStream(_, { signal }) {
      const mine = gone[gone.length - 1];
      yield step("1");
      await aborted(signal);
      mine.resolve();
    },
  });
  gone.push(Promise.withResolvers());
  for await (const _ of s.orchestrator.getServerStream({})) break;
  await gone[0].promise;

  gone.push(Promise.withResolvers());
  // A connection of its own, through a relay that is cut.
  const cut = new AbortController();
  using relay = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const relayed = (async () => {
    using down = await relay.accept();
    using up = await Deno.connect({ hostname: "127.0.0.1", port: s.server.port });
    const pipes = [down.readable.pipeTo(up.writable), up.readable.pipeTo(down.writable)].map((p) => p.catch(() => {}));
    await aborted(cut.signal);
    for (const socket of [down, up]) socket.close();
    await Promise.all(pipes);
  })().catch(() => {});
  using client = createRpcClient(Orchestrator, `127.0.0.1:${relay.addr.port}`);
  await fails(
    (async () => {
      for await (const _ of client.getServerStream({})) cut.abort();
    })(),
    Code.UNAVAILABLE,
  );
  await gone[1].promise;
  await relayed;
});

Deno.test("authorize refuses calls of each kind before their handlers run", async () => {
  const paths: string[] = [];
  const never = () => assert.fail("a refused call reached its handler");
  await using s = await serve({ heartbeat: never, getServerStream: never, executeCommand: never }, {
    authorize(path, context) {
      paths.push(path);
      throw new RpcError(Code.UNAUTHENTICATED, `no entry with ${context.metadata("authorization")}`);
    },
  });
  await fails(s.orchestrator.heartbeat({}), Code.UNAUTHENTICATED, "no entry with Bearer secret");
  await fails(all(s.orchestrator.getServerStream({})), Code.UNAUTHENTICATED);
  await fails(all(s.agent.executeCommand()), Code.UNAUTHENTICATED, "no entry with undefined");
  assert.deepEqual(paths, [
    "/rbs.v1.Orchestrator/Heartbeat",
    "/rbs.v1.Orchestrator/GetServerStream",
    "/rbs.v1.Agent/ExecuteCommand",
  ]);
});

Deno.test("errors keep their code and message, and only unexpected ones are reported", async () => {
  const reported: [string, unknown][] = [];
  const bug = new Error("a bug\nwith details");
  const messages = ["100% of “ünïcode” 🦕,\nin two lines", "cut inside of a character: \ud83e"];
  await using s = await serve({
    heartbeat: ({ userId }) => Promise.reject(new RpcError(Code.NOT_FOUND, messages[Number(userId)])),
    // deno-lint-ignore require-yield
    async *getServerStream() {
      throw await Promise.resolve(bug);
    },
  }, { onError: (path, e) => reported.push([path, e]) });
  await fails(s.orchestrator.heartbeat({ userId: "0" }), Code.NOT_FOUND, messages[0]);
  await fails(s.orchestrator.heartbeat({ userId: "1" }), Code.NOT_FOUND, messages[1].toWellFormed());
  assert.deepEqual(reported, []);
  await fails(all(s.orchestrator.getServerStream({})), Code.INTERNAL, "a bug");
  assert.deepEqual(reported, [["/rbs.v1.Orchestrator/GetServerStream", bug]]);
});

Deno.test("a too large request is refused, and the connection stays in use", async () => {
  await using s = await serve({ heartbeat: ({ userId }) => Promise.resolve({ intervalSeconds: userId.length }) });
  const fits = MAX_REQUEST_BYTES - 16;
  assert.equal((await s.orchestrator.heartbeat({ userId: "x".repeat(fits) })).intervalSeconds, fits);
  await fails(s.orchestrator.heartbeat({ userId: "x".repeat(MAX_REQUEST_BYTES) }), Code.RESOURCE_EXHAUSTED);
  assert.equal((await s.orchestrator.heartbeat({ userId: "xy" })).intervalSeconds, 2);
});

Deno.test("keep-alive pings pass and hold a quiet call open", async () => {
  await using s = await serve({
    async *getServerStream() {
      yield step("1");
      // Longer than the client's patience with pings that are not answered.
      await new Promise((resolve) => setTimeout(resolve, 700));
      yield step("2");
    },
  });
  using client = createRpcClient(Orchestrator, `127.0.0.1:${s.server.port}`, {
    channel: { "grpc.keepalive_time_ms": 100, "grpc.keepalive_timeout_ms": 300 },
  });
  assert.equal((await all(client.getServerStream({}))).length, 2);
});

Deno.test("garbage on the port closes that connection and disturbs no other", async () => {
  await using s = await serve({ heartbeat: () => Promise.resolve({ intervalSeconds: 1 }) });
  const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
  for (
    const garbage of [
      "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
      "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
      preface + "no frames ".repeat(10),
      // HEADERS with a broken header block.
      preface + "\0\0\0\x04\0\0\0\0\0" + "\0\0\x04\x01\x05\0\0\0\x01\xff\xff\xff\xff",
    ]
  ) {
    const socket = connect(s.server.port, "127.0.0.1").on("error", () => {}).resume();
    socket.write(Buffer.from(garbage, "latin1"));
    await once(socket, "close");
    assert.equal((await s.orchestrator.heartbeat({})).intervalSeconds, 1);
  }
});

Deno.test("a refused connection is UNAVAILABLE", async () => {
  const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const { port } = listener.addr;
  listener.close();
  using client = createRpcClient(Orchestrator, `127.0.0.1:${port}`);
  await fails(client.heartbeat({}), Code.UNAVAILABLE);
  await fails(all(client.getServerStream({})), Code.UNAVAILABLE);
});

Deno.test("a server that closes ends its calls as UNAVAILABLE, frees its port, and may be closed by a handler", async () => {
  await using s = await serve({
    async *getServerStream(_, { signal }) {
      yield step("1");
      await aborted(signal);
    },
    heartbeat: () => {
      s.server.close();
      return Promise.resolve({});
    },
  });
  for await (const _ of s.orchestrator.getServerStream({})) {
    const streaming = fails(all(s.orchestrator.getServerStream({})), Code.UNAVAILABLE);
    await fails(s.orchestrator.heartbeat({}), Code.UNAVAILABLE);
    await streaming;
    break;
  }
  await s.server[Symbol.asyncDispose]();
  Deno.listen({ hostname: "127.0.0.1", port: s.server.port }).close();
});

Deno.test("listening on a port in use rejects with the system's error", async () => {
  await using s = await serve({});
  const second = new RpcServer({ address: `127.0.0.1:${s.server.port}`, authorize() {} });
  await assert.rejects(second.listen(), { code: "EADDRINUSE" });
  second.close();
  await assert.rejects(new RpcServer({ address: "nonsense", authorize() {} }).listen(), TypeError);
});

Deno.test("a server listens on an IPv6 address", async () => {
  await using s = await serve({ heartbeat: () => Promise.resolve({ intervalSeconds: 6 }) }, { address: "[::1]:0" });
  using client = createRpcClient(Orchestrator, `[::1]:${s.server.port}`);
  assert.equal((await client.heartbeat({})).intervalSeconds, 6);
});

/** Runs in a process of its own, since what it looks for would end the tests' process. */
const GOAWAY_PROGRAM = `
  const { createRpcClient } = await import(${JSON.stringify(import.meta.resolve("./client.ts"))});
  const { RpcServer } = await import(${JSON.stringify(import.meta.resolve("./server.ts"))});
  const { Orchestrator } = await import(${
  JSON.stringify(import.meta.resolve("../../contract/gen/rbs/v1/orchestrator_pb.ts"))
});
  const server = new RpcServer({ address: "127.0.0.1:" + (Deno.args[1] ?? 0), authorize() {} }).add(Orchestrator, {
    heartbeat: () => Promise.resolve({}),
    async *getServerStream() {
      for (let i = 0; i < 100; i++) yield { event: { case: "step", value: { description: "x".repeat(5000) } } };
    },
  });
  if (Deno.args[0] === "server") {
    console.log(await server.listen());
    setInterval(gc, 50);
  } else {
    for (let round = 0; round < 2; round++) {
      const client = createRpcClient(Orchestrator, "127.0.0.1:" + Deno.args[1]);
      for (let i = 0; i < 200; i++) await client.heartbeat({});
      for await (const _ of client.getServerStream({}));
      gc();
      client.close();
      await new Promise((resolve) => setTimeout(resolve, 50));
      gc();
    }
    Deno.exit(0);
  }
`;

Deno.test("clients that close after hundreds of calls end neither the server nor themselves", async () => {
  const program = (...args: string[]) =>
    new Deno.Command(Deno.execPath(), {
      args: ["run", "-A", "--no-lock", "--v8-flags=--expose-gc", "--ext=ts", "-", ...args],
      cwd: import.meta.dirname,
      stdin: "piped",
      stdout: "piped",
      stderr: "piped",
    }).spawn();
  const feed = async (child: Deno.ChildProcess) => {
    const writer = child.stdin.getWriter();
    await writer.write(new TextEncoder().encode(GOAWAY_PROGRAM));
    await writer.close();
  };
  await using server = program("server");
  const serverSaid = new Response(server.stderr).text();
  await feed(server);
  const output = server.stdout.pipeThrough(new TextDecoderStream()).getReader();
  const port = (await output.read()).value!.trim();

  await using client = program("client", port);
  await feed(client);
  const { code, stderr } = await client.output();
  assert.equal(code, 0, new TextDecoder().decode(stderr));
  using another = createRpcClient(Orchestrator, `127.0.0.1:${port}`);
  await another.heartbeat({});
  server.kill("SIGTERM");
  const { signal } = await server.status;
  assert.equal(signal, "SIGTERM", await serverSaid);
  await output.cancel();
  await serverSaid;
});
