import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import type { Stream } from "../http2/stream.ts";
import type { Headers } from "../http2/hpack.ts";
import { eventually } from "../../../tests/support/eventually.ts";
import { readCall, type ServerCall, Status, StatusError, unaryRequest } from "./calls.ts";
import { Connection } from "./channel.ts";
import { frame } from "./message_stream.ts";
import { listenForCalls } from "./server.ts";

type Serve = (stream: Stream, headers: Headers, call: ServerCall) => Promise<void>;

/** A server and a connection to it. */
function connected(serve: Serve, host = "127.0.0.1") {
  const errors: unknown[] = [];
  const server = listenForCalls(host, serve, (_, e) => errors.push(e));
  const connection = new Connection(host, server.port);
  return {
    server,
    connection,
    errors,
    async [Symbol.asyncDispose]() {
      connection.close();
      server.close();
      await new Promise((r) => setTimeout(r, 0));
    },
  };
}

const echo: Serve = async (stream, _, call) => {
  call.write(await unaryRequest(stream, 1000));
  call.end();
};

Deno.test("a unary call brings its request and takes back the response", async () => {
  await using c = connected(async (stream, headers, call) => {
    assert.equal(headers["x-mine"], "1");
    await echo(stream, headers, call);
  });
  for (const text of ["hello", ""]) {
    const { code, data } = await c.connection.unary("/s/Echo", Buffer.from(text), { headers: { "x-mine": "1" } });
    assert.deepEqual([code, String(data)], [0, text]);
  }
});

Deno.test("errors keep their code, sentence and details, whatever letters they have", async () => {
  const sentence = "Es geht nicht: 100 % \ud83d\ude00 'quoted'\nsecond line; half of one: \ud83d";
  await using c = connected(() => Promise.reject(new StatusError(9, sentence, { "x-more": "detail" })));
  const { code, message, trailers } = await c.connection.unary("/s/x", Buffer.from(""));
  assert.deepEqual([code, message, trailers["x-more"]], [9, sentence.toWellFormed(), "detail"]);
  assert.deepEqual(c.errors, []);
});

Deno.test("what a handler throws by mistake is INTERNAL, and is reported", async () => {
  await using c = connected(() => Promise.reject(new TypeError("oops\nstack")));
  const { code, message } = await c.connection.unary("/s/x", Buffer.from(""));
  assert.deepEqual([code, message, c.errors.length], [Status.INTERNAL, "oops", 1]);
});

Deno.test("requests that are too large, cut short, doubled or missing are refused, and the next is served", async () => {
  await using c = connected(echo);
  const call = async (body: Uint8Array) => {
    const stream = await c.connection.start("/s/Echo", Buffer.alloc(0));
    stream.reset();
    // By hand, since the connection only sends what is right.
    const raw = stream.connection.request({ ":method": "POST", ":path": "/s/Echo", ":scheme": "http" });
    void raw.write(body);
    raw.end();
    return (await readCall(raw, () => {})).code;
  };
  const message = frame(Buffer.from("x"));
  assert.equal(await call(frame(Buffer.alloc(1001))), Status.RESOURCE_EXHAUSTED);
  assert.equal(await call(frame(Buffer.alloc(1000))), Status.OK);
  assert.equal(await call(message.subarray(0, 5)), Status.INVALID_ARGUMENT);
  assert.equal(await call(Buffer.concat([message, message])), Status.INVALID_ARGUMENT);
  assert.equal(await call(new Uint8Array()), Status.INVALID_ARGUMENT);
  assert.equal(await call(Buffer.from("no message at all")), Status.INVALID_ARGUMENT);
  assert.equal((await c.connection.unary("/s/Echo", Buffer.from("x"))).code, Status.OK);
});

Deno.test("a call without a status is UNAVAILABLE, one with a strange status is UNKNOWN", async () => {
  await using c = connected((stream, headers) => {
    if (headers[":path"] === "/none") stream.sendHeaders({ ":status": "503" }, true);
    if (headers[":path"] === "/strange") {
      stream.sendHeaders({ ":status": "200", "grpc-status": "x1", "grpc-message": "%zz" }, true);
    }
    if (headers[":path"] === "/reset") stream.reset();
    return Promise.resolve();
  });
  const none = await c.connection.unary("/none", Buffer.from(""));
  assert.deepEqual([none.code, none.message, none.trailers["grpc-status"]], [14, "HTTP status 503", undefined]);
  const strange = await c.connection.unary("/strange", Buffer.from(""));
  assert.deepEqual([strange.code, strange.message], [Status.UNKNOWN, "%zz"]);
  const reset = await c.connection.unary("/reset", Buffer.from(""));
  assert.deepEqual([reset.code, reset.trailers["grpc-status"]], [14, undefined]);
});

Deno.test("a call that takes longer than its time is cut off, and its handler is told", async () => {
  const gone = Promise.withResolvers<void>();
  await using c = connected((_, __, call) => {
    call.gone.addEventListener("abort", () => gone.resolve());
    return Promise.resolve();
  });
  assert.equal((await c.connection.unary("/s/x", Buffer.from(""), { timeoutMs: 5 })).code, Status.UNAVAILABLE);
  await gone.promise;
});

Deno.test("what the reader of a call throws cuts the call off and comes back to its caller", async () => {
  await using c = connected(async (_, __, call) => {
    while (!call.gone.aborted) {
      await call.write(Buffer.alloc(1000));
      await new Promise((r) => setTimeout(r, 0));
    }
  });
  for (
    const take of [() => {
      throw new RangeError("no");
    }, () => Promise.reject(new RangeError("no"))]
  ) {
    await assert.rejects(readCall(await c.connection.start("/s/x", Buffer.from("")), take), { message: "no" });
  }
});

Deno.test("a unary response without an end is not gathered", async () => {
  await using c = connected(async (_, __, call) => {
    while (!call.gone.aborted) await call.write(Buffer.alloc(100_000));
  });
  assert.equal((await c.connection.unary("/s/x", Buffer.from(""))).code, Status.RESOURCE_EXHAUSTED);
});

Deno.test("a call counts as closed when its last byte was written or the caller is gone", async () => {
  const closed: string[] = [];
  await using c = connected(async (stream, headers, call) => {
    await unaryRequest(stream, 10);
    call.write(Buffer.from("x"));
    call.end();
    call.end(new StatusError(1, "only the first end counts"));
    assert.equal(call.write(Buffer.from("late")), undefined);
    await call.closed();
    closed.push(headers[":path"]);
  });
  assert.equal((await c.connection.unary("/a", Buffer.from(""))).code, 0);
  await eventually(() => closed.length === 1);
});

Deno.test("a connection is made when it is needed, again when it broke, and by one of several callers", async () => {
  let accepted = 0;
  const first = connected(echo);
  const { port } = first.server;
  assert.equal((await first.connection.unary("/a", Buffer.from("1"))).code, 0);
  first.server.close();
  await eventually(async () => (await first.connection.unary("/a", Buffer.from("1"))).code === Status.UNAVAILABLE);
  const refused = await first.connection.unary("/a", Buffer.from("1"));
  assert.deepEqual([refused.code, refused.trailers["grpc-status"]], [Status.UNAVAILABLE, undefined]);
  await assert.rejects(first.connection.start("/a", Buffer.from("1")), StatusError);
  // Another server takes the port.
  const listener = Deno.listen({ hostname: "127.0.0.1", port });
  const accepting = (async () => {
    for await (const tcp of listener) {
      accepted++;
      tcp.close();
    }
  })();
  await Promise.all([1, 2, 3].map(() => first.connection.unary("/a", Buffer.from("1"))));
  await eventually(() => accepted >= 1);
  assert.ok(accepted <= 3);
  listener.close();
  await accepting;
  first.connection.close();
});

Deno.test("a retired connection finishes what runs, takes its Cancel, and then nothing more", async () => {
  const go = Promise.withResolvers<void>();
  await using c = connected(async (stream, headers, call) => {
    await unaryRequest(stream, 10);
    if (headers[":path"] === "/run") await go.promise;
    call.write(Buffer.from("x"));
    call.end();
  });
  const running = c.connection.unary("/run", Buffer.from(""));
  assert.equal((await c.connection.unary("/other", Buffer.from(""))).code, 0);
  c.connection.retire();
  assert.equal((await c.connection.unary("/cancel", Buffer.from(""))).code, 0);
  go.resolve();
  assert.equal((await running).code, 0);
  assert.equal((await c.connection.unary("/late", Buffer.from(""))).code, Status.UNAVAILABLE);
});

Deno.test("a closed connection and a closed server take nothing more", async () => {
  await using c = connected(echo);
  c.connection.close();
  assert.equal((await c.connection.unary("/late", Buffer.from(""))).code, Status.UNAVAILABLE);
  c.server.close();
  c.server.close();
  await assert.rejects(Deno.connect({ hostname: "127.0.0.1", port: c.server.port }));
});

Deno.test("garbage on the port ends that connection, and no other", async () => {
  await using c = connected(echo);
  assert.equal((await c.connection.unary("/a", Buffer.from("1"))).code, 0);
  using rude = await Deno.connect({ hostname: "127.0.0.1", port: c.server.port });
  await rude.write(Buffer.from("GET / HTTP/1.1\r\n\r\n"));
  const into = new Uint8Array(1000);
  await eventually(async () => (await rude.read(into).catch(() => null)) === null);
  assert.equal((await c.connection.unary("/a", Buffer.from("1"))).code, 0);
});
