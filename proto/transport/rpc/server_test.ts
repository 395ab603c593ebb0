/** What our server of our own services promises to callers that are not our clients; see rpc_test.ts for those. */
import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { create, toBinary } from "@bufbuild/protobuf";
import { Agent } from "../../contract/gen/rbs/v1/agent_pb.ts";
import { HeartbeatRequestSchema, Orchestrator } from "../../contract/gen/rbs/v1/orchestrator_pb.ts";
import { Http2Connection } from "../http2/connection.ts";
import type { Stream } from "../http2/stream.ts";
import { encodeFrame, Flag, FrameType, numberFrame, PREFACE, Setting, settingsFrame } from "../http2/frames.ts";
import { encodeHeaders, type Headers, HpackDecoder } from "../http2/hpack.ts";
import { AccessDenied } from "../../identity/access_denied.ts";
import { callHeaders, readCall } from "../grpc/calls.ts";
import { frame } from "../grpc/message_stream.ts";
import { Code, RpcError, type RpcImplementation } from "./client.ts";
import { RpcServer, type RpcServerOptions } from "./server.ts";
import { RawPeer } from "../../testing/pipe.ts";
import { eventually } from "../../../tests/support/eventually.ts";

const HEARTBEAT = "/rbs.v1.Orchestrator/Heartbeat";
const EXECUTE = "/rbs.v1.Agent/ExecuteCommand";
const REQUEST = frame(toBinary(HeartbeatRequestSchema, create(HeartbeatRequestSchema, { userId: "ann" })));

/** A server, and a connection of our own HTTP/2 to it. */
async function serve(
  handlers: Partial<RpcImplementation<typeof Orchestrator>> & Partial<RpcImplementation<typeof Agent>>,
  options: Partial<RpcServerOptions> = {},
) {
  const errors: unknown[] = [];
  const server = new RpcServer({
    address: "127.0.0.1:0",
    authorize() {},
    onError: (_, e) => errors.push(e),
    ...options,
  })
    .add(Orchestrator, handlers as RpcImplementation<typeof Orchestrator>)
    .add(Agent, handlers as RpcImplementation<typeof Agent>);
  const tcp = await Deno.connect({ hostname: "127.0.0.1", port: await server.listen() });
  const { port } = tcp.remoteAddr as Deno.NetAddr;
  const connection = new Http2Connection(tcp, { role: "client" });
  const request = (path: string, headers: Headers = {}) => connection.request(callHeaders("localhost", path, headers));
  return {
    errors,
    request,
    port,
    /** A whole call. */
    call(path: string, body: Uint8Array, headers?: Headers) {
      const stream = request(path, headers);
      const end = readCall(stream, () => {});
      void stream.write(body);
      stream.end();
      return end;
    },
    async [Symbol.asyncDispose]() {
      connection.close();
      await server[Symbol.asyncDispose]();
    },
  };
}

const answers = { heartbeat: () => Promise.resolve({ intervalSeconds: 1 }) };

Deno.test("a caller is decided about from the headers alone, and no more than a window of its request comes before", async () => {
  const decided = Promise.withResolvers<void>();
  const asked: string[] = [];
  await using s = await serve({ heartbeat: () => assert.fail("it was refused") }, {
    authorize: (path, { metadata }) => {
      asked.push(`${path} ${metadata("x-who")}`);
      return decided.promise;
    },
  });
  const stream = s.request(HEARTBEAT, { "x-who": "eve" });
  const end = readCall(stream, () => {});
  await eventually(() => asked.length === 1);
  let sent = 0;
  const sending = (async () => {
    const chunk = Buffer.alloc(1 << 20);
    for (; sent < 100 && !stream.localClosed; sent++) await Promise.race([stream.write(chunk), stream.closed]);
  })();
  await eventually(() => sent >= 3);
  decided.reject(new RpcError(Code.PERMISSION_DENIED, "Eve may not."));
  assert.equal((await end).code, Code.PERMISSION_DENIED);
  await sending;
  assert(sent < 10, `${sent} MB were taken before`);
  assert.deepEqual(asked, [`${HEARTBEAT} eve`]);
  assert.deepEqual(s.errors, []);
});

for (
  const [kind, code] of [["unauthenticated", Code.UNAUTHENTICATED], ["forbidden", Code.PERMISSION_DENIED]] as const
) {
  Deno.test(`a caller who is ${kind} gets that code, whoever finds it, and it is no fault of the server`, async () => {
    const refuse = () => {
      throw new AccessDenied(kind, "Eve may not.");
    };
    await using asked = await serve(answers, { authorize: refuse });
    await using handled = await serve({ heartbeat: () => Promise.resolve().then(refuse) });
    for (const s of [asked, handled]) {
      const end = await s.call(HEARTBEAT, REQUEST);
      assert.deepEqual([end.code, end.message], [code, "Eve may not."]);
      assert.deepEqual(s.errors, []);
    }
  });
}

Deno.test("a refusal comes in one header block", async () => {
  await using s = await serve({ heartbeat: () => Promise.reject(new RpcError(Code.ABORTED, "not now: 1,5 %")) });
  const stream = s.request(HEARTBEAT);
  const blocks: Headers[] = [];
  const end = readCall(stream, () => {});
  const { onHeaders } = stream;
  stream.onHeaders = (headers) => {
    blocks.push(headers);
    onHeaders(headers);
  };
  void stream.write(REQUEST);
  stream.end();
  const { code, message } = await end;
  assert.deepEqual([code, message], [Code.ABORTED, "not now: 1,5 %"]);
  assert.equal(blocks.length, 1);
  // As gRPC has it: what need not be escaped is not, and clients of grpc-js would not take it back.
  assert.equal(blocks[0]["grpc-message"], "not now: 1,5 %25");
});

Deno.test("requests that are none are refused, and the connection stays in use", async () => {
  await using s = await serve(answers);
  const code = async (body: Uint8Array, headers?: Headers, path = HEARTBEAT) =>
    (await s.call(path, body, headers)).code;
  assert.equal(await code(REQUEST), Code.OK);
  assert.equal(await code(Buffer.alloc(0)), Code.INVALID_ARGUMENT);
  assert.equal(await code(Buffer.concat([REQUEST, REQUEST])), Code.INVALID_ARGUMENT);
  assert.equal(await code(REQUEST.subarray(0, -1)), Code.INVALID_ARGUMENT);
  assert.equal(await code(frame(Buffer.from("no message of that kind"))), Code.INVALID_ARGUMENT);
  // Groups in groups, without an end.
  assert.equal(await code(frame(Buffer.alloc(1 << 20, 0x7b))), Code.INVALID_ARGUMENT);
  assert.equal(await code(Buffer.concat([Buffer.from([1]), REQUEST.subarray(1)])), Code.INVALID_ARGUMENT);
  assert.equal(await code(REQUEST, {}, "/rbs.v1.Orchestrator/Reboot"), Code.UNIMPLEMENTED);
  assert.equal(await code(REQUEST, {}, "/toString"), Code.UNIMPLEMENTED);
  assert.equal(await code(REQUEST, { "grpc-timeout": "soon" }), Code.INVALID_ARGUMENT);
  assert.equal(await code(REQUEST, { "grpc-timeout": "99999999H" }), Code.OK);
  const { code: compressed, trailers } = await s.call(HEARTBEAT, REQUEST, { "grpc-encoding": "gzip" });
  assert.deepEqual([compressed, trailers["grpc-accept-encoding"]], [Code.UNIMPLEMENTED, "identity"]);
  assert.equal(await code(REQUEST), Code.OK);
  assert.deepEqual(s.errors, []);
});

Deno.test("a call whose deadline has passed is over, whatever its handler does", async () => {
  const late = Promise.withResolvers<void>();
  let reason: unknown;
  await using s = await serve({
    async heartbeat(_, { signal }) {
      signal.addEventListener("abort", () => reason = signal.reason);
      await late.promise;
      return {};
    },
  });
  assert.equal((await s.call(HEARTBEAT, REQUEST, { "grpc-timeout": "20m" })).code, Code.DEADLINE_EXCEEDED);
  assert(reason instanceof RpcError);
  assert.equal(reason.code, Code.DEADLINE_EXCEEDED);
  late.resolve();
  // Before the request is whole, too.
  const stream = s.request(HEARTBEAT, { "grpc-timeout": "20m" });
  assert.equal((await readCall(stream, () => {})).code, Code.DEADLINE_EXCEEDED);
});

Deno.test("what one caller has sent and nobody has read is bounded, and given back when its calls are over", async () => {
  const reading = Promise.withResolvers<void>();
  await using s = await serve({
    ...answers,
    // deno-lint-ignore require-yield
    async *executeCommand(requests) {
      await reading.promise;
      for await (const _ of requests);
    },
  }, { callerBytes: 3 << 20 });
  const open: Stream[] = [];
  const ends: Promise<{ code: number }>[] = [];
  const codes: number[] = [];
  for (let i = 0; i < 4; i++) {
    const stream = s.request(EXECUTE);
    const end = readCall(stream, () => {});
    void end.then(({ code }) => codes.push(code));
    void stream.write(frame(Buffer.alloc(1 << 20)));
    open.push(stream);
    ends.push(end);
  }
  await eventually(() => codes.length > 1);
  assert.deepEqual(codes, [Code.RESOURCE_EXHAUSTED, Code.RESOURCE_EXHAUSTED]);
  reading.resolve();
  for (const stream of open) stream.end();
  await Promise.all(ends);
  for (let i = 0; i < 5; i++) assert.equal((await s.call(HEARTBEAT, REQUEST)).code, Code.OK);
});

Deno.test("answers that a caller does not read are bounded, and given back when it reads them", async () => {
  await using s = await serve(answers, { callerBytes: 50 << 10 });
  const peer = new RawPeer(await Deno.connect({ hostname: "127.0.0.1", port: s.port }));
  await peer.send(PREFACE, settingsFrame([[Setting.INITIAL_WINDOW_SIZE, 0]]));
  const head = encodeHeaders(callHeaders("localhost", HEARTBEAT));
  const call = (id: number) =>
    peer.send(
      encodeFrame(FrameType.HEADERS, Flag.END_HEADERS, id, head),
      encodeFrame(FrameType.DATA, Flag.END_STREAM, id, REQUEST),
    );
  const decoder = new HpackDecoder();
  /** The headers that come next, and whether they end their call. */
  const headers = async () => {
    const { stream, flags, payload } = (await peer.nextOf(FrameType.HEADERS))!;
    return { stream, ended: (flags & Flag.END_STREAM) !== 0, status: decoder.decode(payload)["grpc-status"] };
  };
  let id = -1, open = 0;
  for (;; open++) {
    await call(id += 2);
    const { ended, status } = await headers();
    assert(open < 15, "another one is answered");
    if (!ended) continue;
    // Of who is refused the status is there at once.
    assert.equal(status, String(Code.RESOURCE_EXHAUSTED));
    break;
  }
  assert(open > 5);
  await peer.send(numberFrame(FrameType.WINDOW_UPDATE, 1, 1000));
  assert.deepEqual(await headers(), { stream: 1, ended: true, status: String(Code.OK) });
  await call(id += 2);
  assert.deepEqual(await headers(), { stream: id, ended: false, status: undefined });
  peer.transport.close();
});
