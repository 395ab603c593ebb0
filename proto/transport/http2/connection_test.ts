import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { createHash } from "node:crypto";
import { AdmissionControl } from "../admission.ts";
import { frame, MessageStream } from "../grpc/message_stream.ts";
import { PeerProcess } from "../../testing/peers.ts";
import { PipeEnd, RawPeer } from "../../testing/pipe.ts";
import { eventually } from "../../../tests/support/eventually.ts";
import { Http2Connection, type Http2Options } from "./connection.ts";
import { StreamError } from "./errors.ts";
import type { Stream } from "./stream.ts";
import type { Transport } from "../transport.ts";
import {
  encodeFrame,
  ErrorCode,
  Flag,
  frameHeader,
  FrameType,
  numberFrame,
  PREFACE,
  Setting,
  settingsFrame,
} from "./frames.ts";
import { encodeHeaders, type Headers, HpackDecoder } from "./hpack.ts";
import { KNOWN, STRANGER } from "./limits.ts";

const REQUEST = encodeHeaders({ ":method": "POST", ":path": "/t/Echo", ":scheme": "http" });
const headersFrame = (id: number, flags = 0, block: Uint8Array = REQUEST) =>
  encodeFrame(FrameType.HEADERS, Flag.END_HEADERS | flags, id, block);
const dataFrame = (id: number, text: string | Uint8Array, flags = 0) =>
  encodeFrame(FrameType.DATA, flags, id, Buffer.from(text as string));
const windowUpdate = (id: number, by: number) => numberFrame(FrameType.WINDOW_UPDATE, id, by);
const settings = (...pairs: [number, number][]) => settingsFrame(pairs);
const u32 = (value: number) => numberFrame(0, 0, value).subarray(9);

/** Answers with what it was sent, and with trailers. */
function echo(stream: Stream, headers: Headers): void {
  if (headers[":path"] === "/t/Fail") {
    stream.sendHeaders({ ":status": "200", "grpc-status": "9", "grpc-message": "no", "x-detail": "1" }, true);
    return;
  }
  if (headers[":path"] === "/t/Download") return void download(stream);
  stream.sendHeaders({ ":status": "200", "content-type": "application/grpc" });
  stream.onData = (chunk) => stream.write(Buffer.from(chunk));
  stream.onEnd = () => stream.end({ "grpc-status": "0" });
}

async function download(stream: Stream): Promise<void> {
  stream.sendHeaders({ ":status": "200", "content-type": "application/grpc" });
  for (let i = 0; i < 100; i++) await stream.write(frame(Buffer.alloc(1 << 20, i)));
  stream.end({ "grpc-status": "0" });
}

/** What 100 MB of {@link download} hash to. */
function downloadHash(): string {
  const hash = createHash("sha256");
  for (let i = 0; i < 100; i++) hash.update(Buffer.alloc(1 << 20, i));
  return hash.digest("hex");
}

/** Our server with a raw client. */
function server(onStream: Http2Options["onStream"] = echo, capacity?: number, more: Partial<Http2Options> = {}) {
  const [ours, theirs] = PipeEnd.pair(capacity);
  const connection = new Http2Connection(ours, { role: "server", onStream, ...more });
  return {
    ours,
    theirs,
    connection,
    peer: new RawPeer(theirs),
    /** Says what a client says first. */
    greet: (...pairs: [number, number][]) => new RawPeer(theirs).send(PREFACE, settings(...pairs)),
    [Symbol.dispose]: () => connection.close(),
  };
}

/** Our client with a raw server, which has taken the preface. */
async function client(capacity?: number, ...pairs: [number, number][]) {
  const [ours, theirs] = PipeEnd.pair(capacity);
  const connection = new Http2Connection(ours, { role: "client" });
  const peer = new RawPeer(theirs);
  assert.deepEqual(await peer.take(PREFACE.length), PREFACE);
  await peer.settings(...pairs);
  return { ours, theirs, connection, peer, [Symbol.dispose]: () => connection.close() };
}

const POST = { ":method": "POST", ":path": "/x", ":scheme": "http", ":authority": "a" };

/** All that a call gets. */
async function collect(stream: Stream) {
  const headers: Headers[] = [], chunks: Buffer[] = [];
  let ended = false;
  stream.onHeaders = (h) => void headers.push({ ...h });
  stream.onData = (chunk) => void chunks.push(Buffer.from(chunk));
  stream.onEnd = () => void (ended = true);
  const error = await stream.closed;
  return { headers, body: Buffer.concat(chunks), ended, error };
}

Deno.test("an echo goes through, cut at every byte's border", async () => {
  const request = Buffer.concat([
    PREFACE,
    settings(),
    headersFrame(1),
    dataFrame(1, "hello "),
    dataFrame(1, "world", Flag.END_STREAM),
  ]);
  for (let cut = 0; cut <= request.length; cut++) {
    using s = server();
    await s.peer.send(request.subarray(0, cut));
    if (cut > PREFACE.length && cut % 7 === 0) await new Promise((r) => setTimeout(r, 0));
    await s.peer.send(request.subarray(cut));
    assert.equal((await s.peer.nextOf(FrameType.HEADERS))!.stream, 1);
    let body = "";
    while (body.length < 11) body += (await s.peer.nextOf(FrameType.DATA))!.payload;
    assert.equal(body, "hello world");
    const trailers = (await s.peer.nextOf(FrameType.HEADERS))!;
    assert.equal(trailers.flags, Flag.END_HEADERS | Flag.END_STREAM);
  }
});

Deno.test("a connection that comes byte by byte is as good as another", async () => {
  using s = server();
  s.ours.grain = 1;
  await s.peer.send(PREFACE, settings(), headersFrame(1), dataFrame(1, "abc", Flag.END_STREAM));
  let body = "";
  while (body.length < 3) body += (await s.peer.nextOf(FrameType.DATA))!.payload;
  assert.equal(body, "abc");
});

Deno.test("padding, priorities and frames of unknown types are passed over", async () => {
  using s = server();
  await s.greet();
  const padded = (payload: Uint8Array, padding: number) =>
    Buffer.concat([Uint8Array.of(padding), payload, Buffer.alloc(padding)]);
  await s.peer.frame(99, 255, 0, Buffer.from("unknown"));
  await s.peer.frame(FrameType.PRIORITY, 0, 5, Buffer.alloc(5));
  await s.peer.frame(
    FrameType.HEADERS,
    Flag.END_HEADERS | Flag.PADDED | Flag.PRIORITY,
    1,
    padded(Buffer.concat([Buffer.alloc(5), REQUEST]), 7),
  );
  await s.peer.frame(FrameType.DATA, Flag.PADDED, 1, padded(Buffer.from("body"), 255));
  await s.peer.frame(0xfa, 0, 1, Buffer.alloc(100));
  await s.peer.frame(FrameType.DATA, Flag.PADDED | Flag.END_STREAM, 1, padded(Buffer.alloc(0), 0));
  assert.equal(String((await s.peer.nextOf(FrameType.DATA))!.payload), "body");
});

Deno.test("PING is answered with its own bytes, settings are acknowledged", async () => {
  using s = server();
  await s.greet([Setting.MAX_CONCURRENT_STREAMS, 3]);
  await s.peer.frame(FrameType.PING, 0, 0, Buffer.from("12345678"));
  await s.peer.frame(FrameType.PING, Flag.ACK, 0, Buffer.from("not mine"));
  await s.peer.nextOf(FrameType.SETTINGS);
  assert.equal((await s.peer.nextOf(FrameType.SETTINGS))!.flags, Flag.ACK);
  const pong = (await s.peer.nextOf(FrameType.PING))!;
  assert.deepEqual([pong.flags, String(pong.payload)], [Flag.ACK, "12345678"]);
});

Deno.test("large headers travel in CONTINUATION frames, both ways", async () => {
  let seen: Headers = {};
  using s = server((stream, headers) => {
    seen = headers;
    stream.sendHeaders({ ":status": "200", "x-large": "y".repeat(50_000) }, true);
  });
  await s.greet();
  const block = encodeHeaders({ ":path": "/x", "x-large": "z".repeat(60_000) });
  await s.peer.frame(FrameType.HEADERS, Flag.END_STREAM, 1, block.subarray(0, 10));
  for (let at = 10; at < block.length; at += 10_000) {
    const last = at + 10_000 >= block.length;
    await s.peer.frame(FrameType.CONTINUATION, last ? Flag.END_HEADERS : 0, 1, block.subarray(at, at + 10_000));
  }
  const parts: Buffer[] = [];
  let frame = (await s.peer.nextOf(FrameType.HEADERS))!;
  assert.equal(frame.flags, Flag.END_STREAM);
  for (;; frame = (await s.peer.next())!) {
    assert.ok(frame.payload.length <= 16_384);
    parts.push(frame.payload);
    if (frame.flags & Flag.END_HEADERS) break;
  }
  assert.equal(new HpackDecoder().decode(Buffer.concat(parts))["x-large"], "y".repeat(50_000));
  assert.equal(seen["x-large"], "z".repeat(60_000));
});

Deno.test("a response of trailers only, and one without trailers, are whole", async () => {
  using c = await client();
  const trailersOnly = collect(c.connection.request(POST));
  const plain = collect(c.connection.request(POST));
  await c.peer.send(
    headersFrame(1, Flag.END_STREAM, encodeHeaders({ ":status": "200", "grpc-status": "5" })),
    headersFrame(3, 0, encodeHeaders({ ":status": "200" })),
    dataFrame(3, "body", Flag.END_STREAM),
  );
  // The requests were not ended; what is left of them is of no interest now.
  assert.deepEqual(await trailersOnly, {
    headers: [{ ":status": "200", "grpc-status": "5" }],
    body: Buffer.alloc(0),
    ended: true,
    error: undefined,
  });
  assert.equal(String((await plain).body), "body");
  const reset = (await c.peer.nextOf(FrameType.RST_STREAM))!;
  assert.deepEqual([reset.stream, reset.payload.readUInt32BE()], [1, ErrorCode.NO_ERROR]);
  assert.equal(c.connection.openStreams, 0);
});

Deno.test("a server that answers early lets go of the rest of the request", async () => {
  const over: (StreamError | undefined)[] = [];
  using s = server((stream) => {
    stream.sendHeaders({ ":status": "200", "grpc-status": "12" }, true);
    void stream.closed.then((e) => over.push(e));
  });
  await s.greet();
  await s.peer.send(headersFrame(1), dataFrame(1, "the request goes on"));
  assert.equal((await s.peer.nextOf(FrameType.RST_STREAM))!.payload.readUInt32BE(), ErrorCode.NO_ERROR);
  await eventually(() => over.length);
  assert.deepEqual([over, s.connection.openStreams], [[undefined], 0]);
});

Deno.test("a response can go on after the request has ended, and the request after the response has begun", async () => {
  let stream!: Stream;
  const requests: string[] = [];
  using s = server((it) => {
    stream = it;
    it.onData = (chunk) => void requests.push(String(Buffer.from(chunk)));
    it.onEnd = () => requests.push("end");
    it.sendHeaders({ ":status": "200" });
  });
  await s.greet();
  await s.peer.send(headersFrame(1));
  await s.peer.nextOf(FrameType.HEADERS);
  await s.peer.send(dataFrame(1, "late", Flag.END_STREAM), dataFrame(1, "too late"), headersFrame(1));
  await eventually(() => requests.length === 2);
  void stream.write(Buffer.from("answer"));
  stream.end();
  assert.equal(String((await s.peer.nextOf(FrameType.DATA))!.payload), "answer");
  assert.equal((await s.peer.nextOf(FrameType.DATA))!.flags, Flag.END_STREAM);
  assert.deepEqual(requests, ["late", "end"]);
});

Deno.test("a stream counts as closed only when its last bytes were written", async () => {
  let stream!: Stream;
  using s = server((it) => void (stream = it), 100);
  await s.greet();
  await s.peer.send(headersFrame(1, Flag.END_STREAM));
  await eventually(() => stream);
  stream.sendHeaders({ ":status": "200" });
  void stream.write(Buffer.alloc(5_000));
  stream.end({ "grpc-status": "0" });
  let closed = false;
  void stream.closed.then(() => closed = true);
  while (s.ours.written < 5_000) {
    assert.equal(closed, false, `after ${s.ours.written} bytes`);
    await s.peer.next();
  }
  assert.equal((await s.peer.nextOf(FrameType.HEADERS))!.flags, Flag.END_HEADERS | Flag.END_STREAM);
  assert.equal(await stream.closed, undefined);
});

Deno.test("a stream whose last bytes cannot be written is cut off, and says so", async () => {
  let stream!: Stream;
  using s = server((it) => void (stream = it), 100);
  await s.greet();
  await s.peer.send(headersFrame(1, Flag.END_STREAM));
  await eventually(() => stream);
  stream.sendHeaders({ ":status": "200" });
  void stream.write(Buffer.alloc(5_000));
  stream.end();
  s.theirs.close();
  assert.ok(await stream.closed instanceof StreamError);
  assert.equal(stream.gone.aborted, true);
});

Deno.test("a writer waits for the peer's windows: as they are, as they grow, as they shrink below nothing", async () => {
  let stream!: Stream;
  using s = server((it) => void (stream = it));
  await s.greet([Setting.INITIAL_WINDOW_SIZE, 10]);
  await s.peer.send(headersFrame(1, Flag.END_STREAM));
  await eventually(() => stream);
  stream.sendHeaders({ ":status": "200" });
  let written = false;
  void stream.write(Buffer.from("0123456789abcdefghij"))!.then(() => written = true);
  assert.equal(String((await s.peer.nextOf(FrameType.DATA))!.payload), "0123456789");
  await s.peer.settings([Setting.INITIAL_WINDOW_SIZE, 13]);
  assert.equal(String((await s.peer.nextOf(FrameType.DATA))!.payload), "abc");
  await s.peer.settings([Setting.INITIAL_WINDOW_SIZE, 3]); // now it is -10
  await s.peer.send(windowUpdate(1, 10), windowUpdate(1, 2));
  assert.equal(String((await s.peer.nextOf(FrameType.DATA))!.payload), "de");
  assert.equal(written, false);
  await s.peer.send(windowUpdate(1, 100));
  assert.equal(String((await s.peer.nextOf(FrameType.DATA))!.payload), "fghij");
  await eventually(() => written);
});

Deno.test("writers wait for the connection's window, and all go on when it grows", async () => {
  const streams: Stream[] = [];
  using s = server((it) => void streams.push(it), 1 << 20);
  await s.greet([Setting.INITIAL_WINDOW_SIZE, 1 << 20]);
  await s.peer.send(headersFrame(1, Flag.END_STREAM), headersFrame(3, Flag.END_STREAM));
  await eventually(() => streams.length === 2);
  const ends = streams.map(async (stream) => {
    stream.sendHeaders({ ":status": "200" });
    await stream.write(Buffer.alloc(60_000));
    stream.end();
    return await stream.closed;
  });
  let received = 0;
  const read = async (bytes: number) => {
    while (received < bytes) received += (await s.peer.nextOf(FrameType.DATA))!.payload.length;
  };
  await read(65_535);
  assert.equal(received, 65_535);
  await s.peer.send(windowUpdate(0, 1 << 20));
  await read(120_000);
  assert.deepEqual(await Promise.all(ends), [undefined, undefined]);
});

Deno.test("a reader that is slow stops its sender at about the window, and other streams go on", async () => {
  const taken = Promise.withResolvers<void>();
  let held = 0;
  using s = server((stream, headers) => {
    if (headers[":path"] === "/fast") return echo(stream, headers);
    stream.onData = (chunk) => {
      held += chunk.length;
      return taken.promise;
    };
  });
  await s.greet();
  const fast = encodeHeaders({ ":path": "/fast" });
  await s.peer.send(headersFrame(1), headersFrame(3, 0, fast));
  for (let i = 0; i < 64; i++) await s.peer.send(dataFrame(1, Buffer.alloc(1 << 16)));
  await s.peer.send(dataFrame(3, "quick", Flag.END_STREAM));
  for (;;) {
    const frame = (await s.peer.next())!;
    assert.ok(frame.type !== FrameType.WINDOW_UPDATE || frame.stream === 0, "the slow stream gets no credit");
    if (frame.type === FrameType.DATA) break;
  }
  assert.equal(held, 4 << 20);
  taken.resolve();
  let back = 0;
  while (back < 4 << 20) {
    const update = (await s.peer.nextOf(FrameType.WINDOW_UPDATE))!;
    if (update.stream === 1) back += update.payload.readUInt32BE();
  }
  // A sender that does not care is cut off before it fills the memory.
  using rude = server((stream) => {
    stream.onData = () => new Promise(() => {});
  });
  await rude.greet();
  await rude.peer.send(headersFrame(1));
  for (let i = 0; i < 129; i++) await rude.peer.send(dataFrame(1, Buffer.alloc(1 << 16)));
  assert.equal((await rude.peer.nextOf(FrameType.RST_STREAM))!.payload.readUInt32BE(), ErrorCode.FLOW_CONTROL_ERROR);
});

Deno.test("data of streams that are over is still given back to the connection's window", async () => {
  using s = server((stream) => stream.reset());
  await s.greet();
  await s.peer.send(headersFrame(1));
  for (let i = 0; i < 80; i++) await s.peer.send(dataFrame(1, Buffer.alloc(1 << 16)));
  assert.equal((await s.peer.nextOf(FrameType.RST_STREAM))!.stream, 1);
  const update = (await s.peer.nextOf(FrameType.WINDOW_UPDATE))!;
  assert.deepEqual([update.stream, update.payload.readUInt32BE()], [0, 4 << 20]);
});

Deno.test("what an owner's callback throws ends its stream and nothing else", async () => {
  using s = server((stream, headers) => {
    const path = headers[":path"];
    if (path === "/stream") throw new Error("stream");
    if (path === "/data") {
      stream.onData = () => {
        throw new Error("data");
      };
    } else if (path === "/later") stream.onData = () => Promise.reject(new Error("later"));
    else if (path === "/end") {
      stream.onEnd = () => {
        throw new Error("end");
      };
    } else echo(stream, headers);
  });
  await s.greet();
  for (const [i, path] of ["/stream", "/data", "/later", "/end"].entries()) {
    const id = 2 * i + 1;
    await s.peer.send(headersFrame(id, 0, encodeHeaders({ ":path": path })), dataFrame(id, "x", Flag.END_STREAM));
    const reset = (await s.peer.nextOf(FrameType.RST_STREAM))!;
    assert.deepEqual([path, reset.stream, reset.payload.readUInt32BE()], [path, id, ErrorCode.INTERNAL_ERROR]);
  }
  await s.peer.send(headersFrame(9), dataFrame(9, "fine", Flag.END_STREAM));
  assert.equal(String((await s.peer.nextOf(FrameType.DATA))!.payload), "fine");
});

Deno.test("a reset ends a stream with its code, and a refused one says that nothing was done", async () => {
  using c = await client();
  const [cancelled, refused, ours] = [POST, POST, POST].map((h) => c.connection.request(h));
  await c.peer.send(
    numberFrame(FrameType.RST_STREAM, 1, ErrorCode.CANCEL),
    numberFrame(FrameType.RST_STREAM, 3, ErrorCode.REFUSED_STREAM),
    numberFrame(FrameType.RST_STREAM, 99, ErrorCode.CANCEL),
  );
  const [a, b] = [await cancelled.closed, await refused.closed];
  assert.deepEqual([a!.code, a!.refused, b!.refused], [ErrorCode.CANCEL, false, true]);
  assert.equal(cancelled.gone.aborted, true);
  assert.equal(cancelled.write(Buffer.from("x")), undefined);
  cancelled.end();
  ours.reset();
  ours.reset();
  assert.equal((await ours.closed)!.code, ErrorCode.CANCEL);
  assert.equal((await c.peer.nextOf(FrameType.RST_STREAM))!.stream, 5);
});

Deno.test("GOAWAY lets earlier streams finish, refuses later ones, and ends an idle connection", async () => {
  using c = await client();
  const early = collect(c.connection.request(POST)), late = c.connection.request(POST);
  await c.peer.frame(FrameType.GOAWAY, 0, 0, Buffer.concat([u32(2 ** 31 - 1), u32(0)]));
  await c.peer.frame(FrameType.GOAWAY, 0, 0, Buffer.concat([u32(1), u32(0), Buffer.from("bye")]));
  assert.equal((await late.closed)!.refused, true);
  assert.equal(c.connection.usable, false);
  assert.equal((await c.connection.request(POST).closed)!.refused, true);
  await c.peer.send(headersFrame(1, Flag.END_STREAM, encodeHeaders({ ":status": "200" })));
  assert.equal((await early).error, undefined);
  await c.connection.closed;
  using idle = await client();
  await idle.peer.frame(FrameType.GOAWAY, 0, 0, Buffer.alloc(8));
  await idle.connection.closed;
  // A client's own GOAWAY changes nothing for what it has asked for.
  using s = server();
  await s.greet();
  await s.peer.send(headersFrame(1));
  await s.peer.frame(FrameType.GOAWAY, 0, 0, Buffer.alloc(8));
  await s.peer.send(dataFrame(1, "still", Flag.END_STREAM));
  assert.equal(String((await s.peer.nextOf(FrameType.DATA))!.payload), "still");
});

Deno.test("a retired connection ends with its last stream, whose response gets out", async () => {
  using c = await client();
  const last = collect(c.connection.request(POST));
  c.connection.retire();
  await c.peer.send(headersFrame(1, Flag.END_STREAM, encodeHeaders({ ":status": "200" })));
  assert.equal((await last).error, undefined);
  await c.connection.closed;
  using s = server();
  await s.greet();
  await s.peer.send(headersFrame(1));
  await s.peer.nextOf(FrameType.HEADERS);
  s.connection.retire();
  await s.peer.send(dataFrame(1, "last", Flag.END_STREAM));
  assert.equal(String((await s.peer.nextOf(FrameType.DATA))!.payload), "last");
  assert.equal((await s.peer.nextOf(FrameType.HEADERS))!.flags, Flag.END_HEADERS | Flag.END_STREAM);
  await s.connection.closed;
});

Deno.test("a retired connection whose peer breaks the rules tells it why", async () => {
  using c = await client();
  const stream = c.connection.request(POST);
  await c.peer.nextOf(FrameType.HEADERS);
  c.connection.retire();
  await c.peer.frame(FrameType.PUSH_PROMISE, 0, 1, Buffer.alloc(4));
  const goaway = (await c.peer.nextOf(FrameType.GOAWAY))!;
  assert.equal(goaway.payload.readUInt32BE(4), ErrorCode.PROTOCOL_ERROR);
  assert.equal((await stream.closed)!.message, "push is not enabled");
  await c.connection.closed;
});

Deno.test("a client that asks for a small header table is told that none is used", async () => {
  using s = server();
  await s.greet([Setting.HEADER_TABLE_SIZE, 0]);
  await s.peer.send(headersFrame(1, Flag.END_STREAM));
  assert.equal((await s.peer.nextOf(FrameType.HEADERS))!.payload[0], 0x20);
  assert.notEqual((await s.peer.nextOf(FrameType.HEADERS))!.payload[0], 0x20);
});

/** Peers that break the rules, and what GOAWAY tells them; undefined: the connection just ends. */
const HOSTILE: [string, number | undefined, (peer: RawPeer) => Promise<void>][] = [
  ["a garbage preface", undefined, (p) => p.send(Buffer.from("\x00garbage"))],
  ["a request of HTTP/1", undefined, (p) => p.send(Buffer.from("POST / HTTP/1.1\r\nHost: x\r\n\r\n"))],
  ["half a preface", undefined, async (p) => {
    await p.send(PREFACE.subarray(0, 5));
    p.transport.close();
  }],
  ...([
    ["a frame of 16 MB", ErrorCode.FRAME_SIZE_ERROR, frameHeader(0xffffff, 0, 0, 1)],
    ["data on stream 0", ErrorCode.PROTOCOL_ERROR, dataFrame(0, "x")],
    ["headers on stream 0", ErrorCode.PROTOCOL_ERROR, headersFrame(0)],
    ["an even stream id", ErrorCode.PROTOCOL_ERROR, headersFrame(2)],
    ["settings of 5 bytes", ErrorCode.FRAME_SIZE_ERROR, encodeFrame(FrameType.SETTINGS, 0, 0, Buffer.alloc(5))],
    ["settings of a stream", ErrorCode.PROTOCOL_ERROR, encodeFrame(FrameType.SETTINGS, 0, 1, Buffer.alloc(0))],
    [
      "an acknowledgement with content",
      ErrorCode.FRAME_SIZE_ERROR,
      encodeFrame(FrameType.SETTINGS, Flag.ACK, 0, Buffer.alloc(6)),
    ],
    ["an initial window of 2^31", ErrorCode.FLOW_CONTROL_ERROR, settings([Setting.INITIAL_WINDOW_SIZE, 2 ** 31])],
    ["a frame size of 1", ErrorCode.PROTOCOL_ERROR, settings([Setting.MAX_FRAME_SIZE, 1])],
    ["a ping of 3 bytes", ErrorCode.FRAME_SIZE_ERROR, encodeFrame(FrameType.PING, 0, 0, Buffer.alloc(3))],
    ["a reset of 3 bytes", ErrorCode.FRAME_SIZE_ERROR, encodeFrame(FrameType.RST_STREAM, 0, 1, Buffer.alloc(3))],
    ["a GOAWAY of 3 bytes", ErrorCode.FRAME_SIZE_ERROR, encodeFrame(FrameType.GOAWAY, 0, 0, Buffer.alloc(3))],
    [
      "a window update of 3 bytes",
      ErrorCode.FRAME_SIZE_ERROR,
      encodeFrame(FrameType.WINDOW_UPDATE, 0, 0, Buffer.alloc(3)),
    ],
    ["a window update of 0", ErrorCode.PROTOCOL_ERROR, windowUpdate(0, 0)],
    ["a window that overflows", ErrorCode.FLOW_CONTROL_ERROR, windowUpdate(0, 2 ** 31 - 1)],
    [
      "a stream's window that overflows by settings",
      ErrorCode.FLOW_CONTROL_ERROR,
      Buffer.concat([
        headersFrame(1),
        windowUpdate(1, 2 ** 31 - 1 - 65_535),
        settings([Setting.INITIAL_WINDOW_SIZE, 70_000]),
      ]),
    ],
    ["a pushed stream", ErrorCode.PROTOCOL_ERROR, encodeFrame(FrameType.PUSH_PROMISE, 0, 1, Buffer.alloc(4))],
    ["a continuation of nothing", ErrorCode.PROTOCOL_ERROR, encodeFrame(FrameType.CONTINUATION, 0, 1, Buffer.alloc(0))],
    [
      "headers that are interrupted",
      ErrorCode.PROTOCOL_ERROR,
      Buffer.concat([encodeFrame(FrameType.HEADERS, 0, 1, REQUEST), dataFrame(1, "x")]),
    ],
    [
      "padding longer than its frame",
      ErrorCode.PROTOCOL_ERROR,
      encodeFrame(FrameType.HEADERS, Flag.PADDED, 1, Uint8Array.of(9)),
    ],
    ["a priority without its bytes", ErrorCode.FRAME_SIZE_ERROR, headersFrame(1, Flag.PRIORITY, Uint8Array.of(1))],
    ["headers that are no HPACK", ErrorCode.COMPRESSION_ERROR, headersFrame(1, 0, Buffer.alloc(10, 0xff))],
  ] as [string, number, Uint8Array][]).map(([what, code, bytes]): typeof HOSTILE[number] => [
    what,
    code,
    (p) => p.send(PREFACE, settings(), bytes),
  ]),
  ["headers without an end", ErrorCode.ENHANCE_YOUR_CALM, async (p) => {
    await p.send(PREFACE, settings(), encodeFrame(FrameType.HEADERS, 0, 1, REQUEST));
    for (;;) await p.send(encodeFrame(FrameType.CONTINUATION, 0, 1, Buffer.alloc(10_000)));
  }],
  ["empty continuations without an end", ErrorCode.ENHANCE_YOUR_CALM, async (p) => {
    await p.send(PREFACE, settings(), encodeFrame(FrameType.HEADERS, 0, 1, REQUEST));
    for (;;) await p.send(encodeFrame(FrameType.CONTINUATION, 0, 1, new Uint8Array()));
  }],
  ["streams that are reset as soon as they begin", ErrorCode.ENHANCE_YOUR_CALM, async (p) => {
    await p.send(PREFACE, settings());
    for (let id = 1;;) {
      const parts: Uint8Array[] = [];
      for (let i = 0; i < 500; i++, id += 2) {
        parts.push(headersFrame(id, 0, encodeHeaders({ ":path": "/quiet" })), numberFrame(FrameType.RST_STREAM, id, 8));
      }
      await p.send(...parts);
    }
  }],
];

for (const [what, code, attack] of HOSTILE) {
  Deno.test(`${what}: the connection ends${code === undefined ? "" : " and says why"}`, async () => {
    const open: Stream[] = [];
    using s = server((stream, headers) => {
      open.push(stream);
      if (headers[":path"] !== "/quiet") echo(stream, headers);
    });
    const attacked = attack(s.peer).catch(() => {/* cut off in the midst of it */});
    assert.equal(await new RawPeer(s.theirs).goaway(), code);
    await s.connection.closed;
    s.theirs.close();
    await attacked;
    for (const stream of open) await stream.closed;
  });
}

Deno.test("a peer that floods and reads no answer is cut off, with little kept for it", async () => {
  const refused = encodeHeaders({ ":path": "/t/Fail" });
  let id = -1;
  const floods: Record<string, () => Uint8Array> = {
    pings: () => encodeFrame(FrameType.PING, 0, 0, Buffer.alloc(8)),
    settings: () => settings([Setting.MAX_CONCURRENT_STREAMS, 1]),
    requests: () => headersFrame(id += 2, Flag.END_STREAM, refused),
  };
  await Promise.all(
    Object.entries(floods).map(async ([what, flood]) => {
      using s = server(echo, 1 << 12);
      await s.greet();
      await assert.rejects(
        async () => {
          for (let i = 0; i < 100_000; i++) await s.peer.send(flood());
        },
        /broken/,
        what,
      );
      await s.connection.closed;
    }),
  );
});

Deno.test("a peer that has many requests answered and reads no answer is refused more, and little is kept for it", async () => {
  const refused = encodeHeaders({ ":path": "/t/Fail" });
  let begun = 0;
  using s = server((stream, headers) => (begun++, echo(stream, headers)), 1 << 12);
  await s.greet();
  await assert.rejects(async () => {
    for (let id = 1;; id += 2) await s.peer.send(headersFrame(id, Flag.END_STREAM, refused));
  }, /broken/);
  assert.ok(begun <= 4 * KNOWN.streams, `${begun} requests were answered`);
});

Deno.test("a peer that says headers again and again on one stream is not listened to for long", async () => {
  const heard = (stream: Stream) => {
    let blocks = 0;
    stream.onHeaders = () => void blocks++;
    return () => blocks;
  };
  const more = (id: number, i: number) => headersFrame(id, 0, encodeHeaders({ [`x-${i}`]: "v".repeat(1000) }));
  using c = await client();
  const stream = c.connection.request(POST), blocks = heard(stream);
  for (let i = 0; i < 100; i++) await c.peer.send(more(1, i));
  assert.match((await stream.closed)!.message, /too many headers/);
  assert.ok(blocks() < 10, `${blocks()} header blocks`);

  let began: Stream | undefined, count = () => 0;
  using s = server((stream) => {
    began = stream;
    count = heard(stream);
  });
  await s.greet();
  await s.peer.send(headersFrame(1));
  for (let i = 0; i < 100; i++) await s.peer.send(more(1, i));
  assert.match((await began!.closed)!.message, /too many headers/);
  assert.ok(count() < 10, `${count()} header blocks`);
});

/** Frames that carry nothing, of a client; each after a stream 1 was begun. */
const NOTHING: Record<string, Uint8Array> = {
  "empty DATA": frameHeader(0, FrameType.DATA, 0, 1),
  "DATA with padding only": encodeFrame(
    FrameType.DATA,
    Flag.PADDED,
    1,
    Buffer.concat([Uint8Array.of(9), Buffer.alloc(9)]),
  ),
  "DATA of one byte": dataFrame(1, "x"),
  "DATA of a stream that never was": dataFrame(77, Buffer.alloc(100)),
  PRIORITY: encodeFrame(FrameType.PRIORITY, 0, 1, Buffer.alloc(5)),
  "frames of unknown types": encodeFrame(0xfa, 0, 1, Buffer.alloc(0)),
  "window updates of 1": windowUpdate(0, 1),
  "a stream's window updates of 1": windowUpdate(1, 1),
  "acknowledgements of settings": encodeFrame(FrameType.SETTINGS, Flag.ACK, 0, Buffer.alloc(0)),
  "empty settings": settings(),
  pings: encodeFrame(FrameType.PING, 0, 0, Buffer.alloc(8)),
  "answers to pings": encodeFrame(FrameType.PING, Flag.ACK, 0, Buffer.alloc(8)),
  "resets of a stream that never was": numberFrame(FrameType.RST_STREAM, 77, 8),
};

for (const who of ["known", "a stranger"]) {
  Deno.test(`a peer that sends frames which carry nothing, whatever kind, is cut off after some, when it is ${who}`, async () => {
    for (const [what, frame] of Object.entries(NOTHING)) {
      let chunks = 0;
      const admission = who === "known" ? undefined : stranger();
      using s = server((stream) => void (stream.onData = () => void chunks++), 1 << 16, { admission });
      await s.greet();
      await s.peer.send(headersFrame(1));
      // It reads all answers, unlike the one that floods without.
      const goaway = s.peer.goaway();
      const before = s.theirs.written;
      const many = Buffer.concat(Array(100).fill(frame));
      await assert.rejects(
        async () => {
          for (let i = 0; i < 5_000; i++) await s.peer.send(many);
        },
        /broken/,
        what,
      );
      // The last words may be behind so many answers that the peer's flood does not let them out.
      const told = await goaway;
      const answered = what === "pings" || what === "empty settings";
      if (told !== undefined || !answered) assert.equal(told, ErrorCode.ENHANCE_YOUR_CALM, what);
      // What was sent is what was taken, and what the pipe holds.
      const most = ((who === "known" ? KNOWN : STRANGER).idleFrames + 3_000) * frame.length + 2 * (1 << 16);
      assert.ok(s.theirs.written - before < most, `${what}: ${s.theirs.written - before} of ${most} bytes`);
    }
  });
}

Deno.test("a client cuts off a server that sends frames which carry nothing", async () => {
  using c = await client();
  const stream = c.connection.request(POST);
  await c.peer.send(headersFrame(1, 0, encodeHeaders({ ":status": "200" })));
  const empty = Buffer.concat(Array(100).fill(frameHeader(0, FrameType.DATA, 0, 1)));
  await assert.rejects(async () => {
    for (let i = 0; i < 5_000; i++) await c.peer.send(empty);
  }, /broken/);
  assert.match((await stream.closed)!.message, /too many frames that carry nothing/);
});

Deno.test("frames that belong to what is of use are not counted: many requests, much data in small windows, either way", async () => {
  let received = 0;
  using s = server((stream, headers) => {
    if (headers[":path"] === "/up") return void (stream.onData = (chunk) => void (received += chunk.length));
    echo(stream, headers);
  });
  await s.greet();
  const empty = encodeHeaders({ ":path": "/x" });
  let id = -1;
  for (let i = 0; i < 60; i++) {
    const calls = Array.from({ length: 100 }, () => [
      headersFrame(id += 2, 0, empty),
      dataFrame(id, "", Flag.END_STREAM),
      windowUpdate(0, 5),
      encodeFrame(FrameType.PING, 0, 0, Buffer.alloc(8)),
    ]);
    await s.peer.send(...calls.flat());
    for (let pongs = 0; pongs < 100; pongs++) assert.ok(await s.peer.nextOf(FrameType.PING));
  }
  await s.peer.send(headersFrame(id += 2, 0, encodeHeaders({ ":path": "/up" })));
  const up = id;
  for (let i = 0; i < 300; i++) {
    await s.peer.send(
      ...Array.from({ length: 100 }, () => [dataFrame(up, Buffer.alloc(64)), windowUpdate(0, 1)]).flat(),
    );
  }
  await eventually(() => received === 64 * 30_000);
  assert.equal(s.connection.usable, true);
});

/** A connection's admission, of a listener of its own or one that is shared. */
function stranger(control = new AdmissionControl()) {
  const admission = control.enter(() => {})!;
  admission.secured();
  return admission;
}

/** The settings that a server sends next. */
async function settingsOf(peer: RawPeer): Promise<Record<number, number>> {
  const { payload } = (await peer.nextOf(FrameType.SETTINGS))!;
  const found: Record<number, number> = {};
  for (let at = 0; at < payload.length; at += 6) found[payload.readUInt16BE(at)] = payload.readUInt32BE(at + 2);
  return found;
}

Deno.test("a stranger has HTTP/2's least windows, and larger ones as soon as it is admitted, in mid-stream as well", async () => {
  let received = 0;
  let stream!: Stream;
  using s = server(
    (it) => {
      stream = it;
      it.onData = (chunk) => void (received += chunk.length);
    },
    1 << 18,
    { admission: stranger() },
  );
  await s.greet();
  const announced = (limits: typeof KNOWN) => ({
    [Setting.MAX_CONCURRENT_STREAMS]: limits.streams,
    [Setting.INITIAL_WINDOW_SIZE]: limits.streamWindow,
    [Setting.MAX_FRAME_SIZE]: limits.frameBytes,
    [Setting.MAX_HEADER_LIST_SIZE]: limits.headerListBytes,
  });
  assert.deepEqual(await settingsOf(s.peer), announced(STRANGER));
  await s.peer.send(headersFrame(1), ...Array(4).fill(dataFrame(1, Buffer.alloc(16_000))));
  await eventually(() => received === 64_000);
  s.connection.admit();
  await s.peer.nextOf(FrameType.SETTINGS); // the acknowledgement
  assert.deepEqual(await settingsOf(s.peer), announced(KNOWN));
  let window = 65_535 - 64_000 + KNOWN.connectionWindow - STRANGER.connectionWindow;
  void (async () => {
    for (let frame = await s.peer.next(); frame; frame = await s.peer.next()) {
      if (frame.type === FrameType.WINDOW_UPDATE && frame.stream === 1) window += frame.payload.readUInt32BE();
    }
  })();
  for (let i = 0; i < 160; i++) await s.peer.send(dataFrame(1, Buffer.alloc(1 << 18)));
  await eventually(() => received === 64_000 + 160 * (1 << 18));
  await eventually(() => window > 32 << 20);
  assert.equal(stream.gone.aborted, false);
});

Deno.test("a stranger's stream carries one window, a larger frame ends its connection, and what waits is counted", async () => {
  const control = new AdmissionControl();
  const over = Promise.withResolvers<StreamError | undefined>();
  using s = server(
    (stream) => {
      stream.onData = () => {};
      void stream.closed.then(over.resolve);
    },
    1 << 18,
    { admission: stranger(control) },
  );
  await s.greet();
  await s.peer.send(headersFrame(1), ...Array(4).fill(dataFrame(1, Buffer.alloc(16_000))));
  await eventually(() => control.heldBytes > 64_000);
  await s.peer.send(dataFrame(1, Buffer.alloc(2_000)));
  assert.equal(await s.peer.goaway(), ErrorCode.FLOW_CONTROL_ERROR);
  assert.match((await over.promise)!.message, /a window overflows/);
  using large = server(undefined, 1 << 18, { admission: stranger(control) });
  await large.greet();
  await large.peer.send(headersFrame(1), frameHeader(16_385, FrameType.DATA, 0, 1));
  assert.equal(await large.peer.goaway(), ErrorCode.FRAME_SIZE_ERROR);
  await large.connection.closed;
  await s.connection.closed;
  assert.deepEqual([control.heldBytes, control.connections], [0, 0]);
});

Deno.test("strangers that each send little hold no more than the budget together, and all is given back", async () => {
  const control = new AdmissionControl({ strangers: 200, handshakes: 200 });
  let most = 0;
  const all = Array.from({ length: 200 }, () => {
    const [ours, theirs] = PipeEnd.pair();
    const admission = control.enter(() => ours.close())!;
    admission.secured();
    const onStream = (stream: Stream) => void (stream.onData = () => void (most = Math.max(most, control.heldBytes)));
    const connection = new Http2Connection(ours, { role: "server", admission, onStream });
    return { connection, peer: new RawPeer(theirs) };
  });
  await Promise.all(all.map(async ({ peer }) => {
    await peer.send(PREFACE, settings());
    for (let id = 1; id < 32; id += 2) {
      await peer.send(headersFrame(id), ...Array(4).fill(dataFrame(id, Buffer.alloc(16_000))));
    }
  })).catch(() => {/* cut off */});
  await eventually(() => control.connections < 200);
  assert.ok(most > 900_000 && most <= 1 << 20, `${most} bytes`);
  for (const { connection } of all) connection.close();
  await Promise.all(all.map(({ connection }) => connection.closed));
  assert.deepEqual([control.heldBytes, control.connections], [0, 0]);
});

Deno.test("a small header block that stands for a huge list ends the connection, before the list is made", async () => {
  const entry = Buffer.concat([Buffer.from([0x40, 1, 0x61, 0x7f, 0x81, 0x1d]), Buffer.alloc(3_840, "b")]);
  for (const admission of [undefined, stranger()]) {
    let streams = 0;
    using s = server(() => void streams++, 1 << 16, { admission });
    await s.greet();
    const before = Deno.memoryUsage().heapUsed;
    await s.peer.send(headersFrame(1, 0, Buffer.concat([entry, Buffer.alloc(12_000, 0xbe)])));
    assert.equal(await s.peer.goaway(), ErrorCode.COMPRESSION_ERROR);
    assert.equal(streams, 0);
    assert.ok(Deno.memoryUsage().heapUsed - before < 10 << 20);
  }
});

Deno.test("a header list that is too large for a stranger is not for who is known", async () => {
  const lists = {
    bytes: encodeHeaders({ ":path": "/x", "x-large": "v".repeat(16_500) }),
    headers: encodeHeaders(Object.fromEntries(Array.from({ length: 65 }, (_, i) => [`x-${i}`, ""]))),
  };
  for (const [what, list] of Object.entries(lists)) {
    for (const admission of [undefined, stranger()]) {
      using s = server((stream) => stream.sendHeaders({ ":status": "200" }, true), 1 << 16, { admission });
      await s.greet();
      await s.peer.send(encodeFrame(FrameType.HEADERS, 0, 1, list.subarray(0, 100)));
      await s.peer.send(
        encodeFrame(FrameType.CONTINUATION, Flag.END_HEADERS, 1, list.subarray(100, 16_400)).subarray(0),
      );
      if (!admission) continue;
      const code = await s.peer.goaway();
      assert.ok(code === ErrorCode.ENHANCE_YOUR_CALM || code === ErrorCode.COMPRESSION_ERROR, `${what}: ${code}`);
    }
  }
});

Deno.test("a stranger may ask for little at a time and in all, and who is admitted as often as it likes", async () => {
  const admission = stranger();
  using s = server(
    (stream, headers) => {
      if (headers[":path"] !== "/quiet") stream.sendHeaders({ ":status": "200" }, true);
    },
    1 << 16,
    { admission },
  );
  await s.greet();
  const quiet = encodeHeaders({ ":path": "/quiet" });
  let id = -1;
  for (let i = 0; i < STRANGER.streams; i++) await s.peer.send(headersFrame(id += 2, 0, quiet));
  await s.peer.send(headersFrame(id += 2));
  const reset = (await s.peer.nextOf(FrameType.RST_STREAM))!;
  assert.deepEqual([reset.stream, reset.payload.readUInt32BE()], [id, ErrorCode.REFUSED_STREAM]);
  for (let i = 1; i < STRANGER.streams; i += 2) await s.peer.send(numberFrame(FrameType.RST_STREAM, i, 8));
  while (id < 2 * STRANGER.requests - 1) await s.peer.send(headersFrame(id += 2, Flag.END_STREAM));
  for (let answers = 0; answers < STRANGER.requests - STRANGER.streams - 1; answers++) {
    assert.ok(await s.peer.nextOf(FrameType.HEADERS));
  }
  await s.peer.send(headersFrame(id += 2, Flag.END_STREAM));
  assert.equal(await s.peer.goaway(), ErrorCode.ENHANCE_YOUR_CALM);

  using known = server((stream) => stream.sendHeaders({ ":status": "200" }, true), 1 << 16, { admission: stranger() });
  await known.greet();
  known.connection.admit();
  for (let i = 0; i < 1000; i++) {
    await known.peer.send(headersFrame(2 * i + 1, Flag.END_STREAM));
    assert.ok(await known.peer.nextOf(FrameType.HEADERS));
  }
});

Deno.test("a stream with headers only is cut off in time, one that has sent something is not, and others go on", async () => {
  const over = new Map<number, StreamError | undefined>();
  using s = server(
    (stream, headers) => {
      void stream.closed.then((e) => over.set(stream.id, e));
      if (headers[":path"] !== "/quiet") echo(stream, headers);
    },
    1 << 16,
    { quietMs: 40 },
  );
  await s.greet();
  const quiet = encodeHeaders({ ":path": "/quiet" });
  // The connection's own clock does not keep a program from its end.
  const alive = setInterval(() => {}, 1_000);
  using _ = { [Symbol.dispose]: () => clearInterval(alive) };
  await s.peer.send(headersFrame(1, 0, quiet), dataFrame(1, "x"), headersFrame(3, Flag.END_STREAM, quiet));
  for (let id = 5; id < 45; id += 2) await s.peer.send(headersFrame(id, 0, quiet));
  for (let id = 5; id < 45; id += 2) {
    const reset = (await s.peer.nextOf(FrameType.RST_STREAM))!;
    assert.deepEqual([reset.stream, reset.payload.readUInt32BE()], [id, ErrorCode.CANCEL]);
  }
  assert.equal(over.has(1) || over.has(3), false);
  assert.match(over.get(5)!.message, /nothing came after its headers/);
  await s.peer.send(headersFrame(45), dataFrame(45, "later", Flag.END_STREAM));
  assert.equal(String((await s.peer.nextOf(FrameType.DATA))!.payload), "later");
});

Deno.test("a connection that says nothing, or little, has no large buffers", async () => {
  const open: Http2Connection[] = [];
  const peers: RawPeer[] = [];
  const before = Deno.memoryUsage().external;
  for (let i = 0; i < 500; i++) {
    const [ours, theirs] = PipeEnd.pair();
    open.push(new Http2Connection(ours, { role: "server", onStream: echo }));
    peers.push(new RawPeer(theirs));
  }
  for (const peer of peers) {
    await peer.send(PREFACE, settings(), headersFrame(1), dataFrame(1, "x", Flag.END_STREAM));
    assert.equal(String((await peer.nextOf(FrameType.DATA))!.payload), "x");
  }
  const each = (Deno.memoryUsage().external - before) / 500;
  for (const connection of open) connection.close();
  assert.ok(each < 100_000, `${each} bytes for each`);
});

Deno.test("a server refuses more streams than it said, and goes on", async () => {
  using s = server((stream, headers) => headers[":path"] === "/quiet" ? undefined : echo(stream, headers));
  await s.greet();
  const quiet = encodeHeaders({ ":path": "/quiet" });
  for (let i = 0; i < 256; i++) await s.peer.send(headersFrame(2 * i + 1, 0, quiet));
  await s.peer.send(headersFrame(513));
  const reset = (await s.peer.nextOf(FrameType.RST_STREAM))!;
  assert.deepEqual([reset.stream, reset.payload.readUInt32BE()], [513, ErrorCode.REFUSED_STREAM]);
  await s.peer.send(numberFrame(FrameType.RST_STREAM, 1, 8), headersFrame(515), dataFrame(515, "x", Flag.END_STREAM));
  assert.equal((await s.peer.nextOf(FrameType.DATA))!.stream, 515);
});

Deno.test("a transport that breaks at its nth read or write ends every stream with an error, and rejects nothing", async () => {
  for (const operation of ["read", "write"] as const) {
    for (let nth = 1; nth <= 6; nth++) {
      const [ours, theirs] = PipeEnd.pair(64);
      let count = 0;
      ours.fault = (what) => what === operation && ++count >= nth ? new Error("the cable was cut") : undefined;
      const connection = new Http2Connection(ours, { role: "client" });
      const stream = connection.request(POST);
      void stream.write(Buffer.alloc(1000));
      stream.end();
      const far = new Http2Connection(theirs, { role: "server", onStream: echo });
      ours.poke();
      const { error, ended } = await collect(stream);
      assert.ok(ended || error?.message === "the cable was cut", `${operation} ${nth}: ${error?.message}`);
      ours.fault = () => new Error("the cable was cut");
      connection.close();
      await connection.closed;
      await far.closed;
    }
  }
});

Deno.test("a connection that the peer ended, one that broke and one that was closed here tell so", async () => {
  const breaks: [string, (ours: PipeEnd, theirs: PipeEnd, connection: Http2Connection) => void][] = [
    ["closed", (_, theirs) => theirs.close()],
    ["closed", (_ours, _theirs, connection) => connection.close()],
    ...(["read", "write"] as const).map((operation): typeof breaks[number] => ["reset", (ours) => {
      ours.fault = (what) => what === operation ? new Deno.errors.ConnectionReset("reset by peer") : undefined;
      ours.poke();
    }]),
  ];
  for (const [lost, end] of breaks) {
    const [ours, theirs] = PipeEnd.pair();
    const connection = new Http2Connection(ours, { role: "client" });
    const stream = connection.request(POST);
    await eventually(() => ours.written > PREFACE.length);
    end(ours, theirs, connection);
    void stream.write(Buffer.alloc(10));
    assert.equal((await stream.closed)!.lost, lost);
    await connection.closed;
  }
});

Deno.test("a peer that gave up a silent link says so: its end, which comes when the link carries again, is no orderly one", async () => {
  const [near, far] = PipeEnd.pair();
  // A link: what has left one end waits on the way while it is silent.
  let carries = Promise.resolve();
  const link = (end: PipeEnd): Transport => ({
    async read(into) {
      await carries;
      const read = new Uint8Array(into.length);
      const n = await end.read(read);
      await carries;
      into.set(read.subarray(0, n ?? 0));
      return n;
    },
    // What a peer that has gone does not take is told later than what it said before.
    write: (bytes) => end.write(bytes).catch(() => bytes.length),
    close: () => end.close(),
  });
  const received = Promise.withResolvers<Stream>();
  const server = new Http2Connection(link(far), { role: "server", onStream: received.resolve });
  const client = new Http2Connection(link(near), { role: "client", keepAlive: true });
  const ours = client.request(POST), theirs = await received.promise;
  const heals = Promise.withResolvers<void>();
  carries = heals.promise;
  client.probe();
  // Its own timers hold nobody up.
  await eventually(() => near.closed);
  assert.equal((await ours.closed)!.lost, "silent");
  heals.resolve();
  assert.equal((await theirs.closed)!.lost, "silent");
  await server.closed;
});

Deno.test("closing in the midst of everything wakes every writer", async () => {
  using c = await client(64);
  const streams = [1, 2, 3].map(() => c.connection.request(POST));
  const writes = streams.map((stream) => stream.write(Buffer.alloc(1 << 22)));
  c.connection.close("enough");
  await Promise.all(writes);
  for (const stream of streams) assert.equal((await stream.closed)!.message, "enough");
});

Deno.test("100 MB pass between our own ends in order, through a narrow pipe, and little is held on the way", async () => {
  const [near, far] = PipeEnd.pair();
  const receiver = new Http2Connection(near, { role: "client" });
  let ahead = 0, most = 0;
  const sender = new Http2Connection(far, {
    role: "server",
    onStream: async (stream) => {
      stream.sendHeaders({ ":status": "200" });
      for (let i = 0; i < 100; i++) {
        ahead += 1 << 20;
        await stream.write(frame(Buffer.alloc(1 << 20, i)));
      }
      stream.end({ "grpc-status": "0" });
    },
  });
  const hash = createHash("sha256");
  const messages = new MessageStream((message) => void hash.update(message));
  const stream = receiver.request(POST);
  stream.end();
  stream.onData = (chunk) => {
    ahead -= chunk.length;
    most = Math.max(most, ahead);
    messages.push(chunk);
  };
  assert.equal(await stream.closed, undefined);
  assert.equal(hash.digest("hex"), downloadHash());
  assert.ok(most < 8 << 20, `${most} bytes were on their way`);
  receiver.close();
  await sender.closed;
});

/** Our server behind a real socket. */
function listen(onStream: Http2Options["onStream"]) {
  const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const connections: Http2Connection[] = [];
  const accepting = (async () => {
    for await (const tcp of listener) connections.push(new Http2Connection(tcp, { role: "server", onStream }));
  })();
  return {
    port: String((listener.addr as Deno.NetAddr).port),
    async [Symbol.asyncDispose]() {
      listener.close();
      await accepting;
      for (const connection of connections) connection.close();
    },
  };
}

Deno.test("grpc-js calls our server: large messages and headers, errors, 100 calls at once, 100 MB", async () => {
  await using s = listen(echo);
  await using peer = new PeerProcess("grpc-client", s.port);
  assert.deepEqual(await peer.line(), {
    echo: true,
    failure: { code: 9, details: "no", trailers: "1" },
    many: true,
    download: { bytes: 100 << 20, hash: downloadHash() },
  });
});

Deno.test("node:http2 requests of our server with padding, small windows and no header table", async () => {
  await using s = listen(echo);
  await using peer = new PeerProcess("node-client", s.port);
  assert.deepEqual(await peer.line(), { results: [true, true, true, true, true], ping: "12345678" });
});

async function connectTo(peer: PeerProcess) {
  const tcp = await Deno.connect({ hostname: "127.0.0.1", port: await peer.line() });
  const connection = new Http2Connection(tcp, { role: "client" });
  const call = (path: string, body?: Uint8Array) => {
    const stream = connection.request({
      ...POST,
      ":path": path,
      te: "trailers",
      "content-type": "application/grpc",
    });
    if (body) void stream.write(frame(body));
    stream.end();
    return collect(stream);
  };
  return { connection, call, [Symbol.dispose]: () => connection.close() };
}

Deno.test("our client calls grpc-js: large messages, errors, 100 calls at once, 100 MB", async () => {
  await using peer = new PeerProcess("grpc-server");
  using c = await connectTo(peer);
  const large = Buffer.alloc(3_000_000, "large ");
  const echoed = await c.call("/t/Echo", large);
  assert.equal(echoed.headers.at(-1)!["grpc-status"], "0");
  assert.ok(echoed.body.subarray(5).equals(large));
  const failed = await c.call("/t/Fail", Buffer.from("x"));
  assert.equal(failed.headers.at(-1)!["grpc-status"], "9");
  assert.equal(decodeURIComponent(failed.headers.at(-1)!["grpc-message"]), "It is ü\n100%.");
  const many = await Promise.all(Array.from({ length: 100 }, (_, i) => c.call("/t/Echo", Buffer.from(`${i}`))));
  many.forEach((m, i) => assert.equal(String(m.body.subarray(5)), `${i}`));
  const stream = c.connection.request({
    ...POST,
    ":path": "/t/Download",
    te: "trailers",
    "content-type": "application/grpc",
  });
  void stream.write(frame(Buffer.alloc(0)));
  stream.end();
  const hash = createHash("sha256");
  const messages = new MessageStream((message) => void hash.update(message));
  stream.onData = (chunk) => void messages.push(chunk);
  assert.equal(await stream.closed, undefined);
  assert.equal(hash.digest("hex"), downloadHash());
});

Deno.test("our client sends 100 MB to node:http2, and takes early answers and trailers alone", async () => {
  await using peer = new PeerProcess("node-server");
  using c = await connectTo(peer);
  const stream = c.connection.request({ ...POST, ":path": "/t/Upload" });
  const all = collect(stream);
  const hash = createHash("sha256");
  for (let i = 0; i < 100; i++) {
    const part = Buffer.alloc(1 << 20, i);
    hash.update(part);
    await stream.write(part);
  }
  stream.end();
  const { headers, error } = await all;
  assert.equal(error, undefined);
  assert.equal(headers[0]["x-large"], "v".repeat(30_000));
  assert.equal(headers.at(-1)!["x-bytes"], String(100 << 20));
  assert.equal(headers.at(-1)!["x-hash"], hash.digest("hex"));
  const alone = await c.call("/t/TrailersOnly", Buffer.from("x"));
  assert.deepEqual([alone.headers[0]["grpc-status"], alone.ended], ["7", true]);
  const early = await c.call("/t/Early", Buffer.alloc(10 << 20));
  assert.equal(early.headers.at(-1)!["grpc-status"], "8");
  assert.equal(c.connection.openStreams, 0);
});
