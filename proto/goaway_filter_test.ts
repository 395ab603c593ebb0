import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { once } from "node:events";
import { createServer as createHttp2Server } from "node:http2";
import type { AddressInfo } from "node:net";
import { Duplex, PassThrough } from "node:stream";
import { connect, createServer } from "node:tls";
import { GoawayFilter, GoawayScanner } from "./goaway_filter.ts";
import { ORCHESTRATOR_NAME, orchestratorCredentials } from "./testing/keys.ts";
import { secureContext } from "./tls/settings.ts";

const PREFACE = Buffer.from("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
const DATA = 0x0, SETTINGS = 0x4, PING = 0x6, GOAWAY = 0x7;

function frame(type: number, payload: string): Buffer {
  const header = Buffer.alloc(9);
  header.writeUIntBE(payload.length, 0, 3);
  header[3] = type;
  header.writeUInt32BE(type === DATA ? 7 : 0, 5);
  return Buffer.concat([header, Buffer.from(payload)]);
}

/** Payloads that look like GOAWAY headers must not be taken for such. */
const LURE = frame(GOAWAY, "x").toString("latin1");
const KEPT = [frame(SETTINGS, ""), frame(DATA, LURE), frame(PING, "12345678"), frame(DATA, ""), frame(DATA, "end")];
const WITH_GOAWAYS = Buffer.concat([
  frame(GOAWAY, ""),
  KEPT[0],
  frame(GOAWAY, "why it goes " + LURE),
  frame(GOAWAY, "again"),
  KEPT[1],
  KEPT[2],
  KEPT[3],
  frame(GOAWAY, "12345678"),
  KEPT[4],
  frame(GOAWAY, "at the end"),
]);

function scanned(scanner: GoawayScanner, chunks: Uint8Array[]): Buffer {
  return Buffer.concat(chunks.flatMap((chunk) => scanner.scan(chunk)));
}

Deno.test("only GOAWAY frames are left out, wherever the stream is cut into three", () => {
  const kept = Buffer.concat([PREFACE, ...KEPT]);
  const sent = Buffer.concat([PREFACE, WITH_GOAWAYS]);
  for (let i = 0; i <= sent.length; i++) {
    for (let j = i; j <= sent.length; j++) {
      const chunks = [sent.subarray(0, i), sent.subarray(i, j), sent.subarray(j)];
      const passed = scanned(new GoawayScanner("client"), chunks);
      if (!passed.equals(kept)) assert.deepEqual(passed, kept, `cut at ${i} and ${j}`);
    }
  }
});

Deno.test("byte by byte, only GOAWAY frames are left out of a server's direction", () => {
  const bytes = Array.from(WITH_GOAWAYS, (byte) => Uint8Array.of(byte));
  assert.deepEqual(scanned(new GoawayScanner("server"), bytes), Buffer.concat(KEPT));
});

Deno.test("payload passes as it comes, uncopied, and before its frame is complete", () => {
  const scanner = new GoawayScanner("server");
  const chunk = frame(DATA, "x".repeat(1000)).subarray(0, 500);
  const [part, ...more] = scanner.scan(chunk);
  assert.equal(part.buffer, chunk.buffer);
  assert.equal(part.byteLength, 500);
  assert.equal(more.length, 0);
});

Deno.test("a GOAWAY of the largest length is skipped without being kept", () => {
  const scanner = new GoawayScanner("server");
  const header = frame(GOAWAY, "");
  header.fill(0xff, 0, 3);
  assert.deepEqual(scanner.scan(header), []);
  const megabyte = new Uint8Array(1 << 20);
  for (let i = 0; i < 15; i++) assert.deepEqual(scanner.scan(megabyte), []);
  assert.deepEqual(scanner.scan(megabyte.subarray(1)), []);
  assert.deepEqual(scanned(scanner, [KEPT[1]]), KEPT[1]);
});

Deno.test("a client that does not begin with HTTP/2's preface is refused at its first wrong byte", () => {
  const scanner = new GoawayScanner("client");
  scanner.scan(PREFACE.subarray(0, 10));
  assert.throws(() => scanner.scan(Buffer.from("1")), TypeError);
  assert.throws(() => new GoawayScanner("client").scan(Buffer.from("GET / HTTP/1.1\r\n")), TypeError);
});

/** A socket, and what its peer writes and reads. */
function socket(highWaterMark = 1024) {
  const fromPeer = new PassThrough({ highWaterMark });
  const toPeer = new PassThrough({ highWaterMark });
  const end = new Duplex({
    highWaterMark,
    read: () => fromPeer.resume(),
    write: (chunk, _, done) => toPeer.write(chunk) ? done() : toPeer.once("drain", done),
    final: (done) => toPeer.end(done),
  });
  fromPeer.on("data", (chunk) => end.push(chunk) || fromPeer.pause()).on("end", () => end.push(null));
  return { fromPeer, toPeer, end };
}

Deno.test("the filter drops GOAWAYs both ways", async () => {
  const { fromPeer, toPeer, end } = socket();
  const filter = new GoawayFilter(end);
  fromPeer.end(Buffer.concat([PREFACE, WITH_GOAWAYS]));
  filter.end(WITH_GOAWAYS);
  assert.deepEqual(Buffer.concat(await filter.toArray()), Buffer.concat([PREFACE, ...KEPT]));
  assert.deepEqual(Buffer.concat(await toPeer.toArray()), Buffer.concat(KEPT));
});

Deno.test("a peer that does not read stops the writer", async () => {
  const { toPeer, end } = socket();
  const filter = new GoawayFilter(end);
  const data = frame(DATA, "x".repeat(1000));
  while (filter.write(data));
  await new Promise(setImmediate);
  // Neither side holds more than its buffers' limits and the write that crossed them.
  assert.ok(filter.writableLength > 0, "the writer waits");
  assert.ok(toPeer.readableLength + toPeer.writableLength < 10 * data.length);

  // And it goes on when it is read.
  const drained = once(filter, "drain");
  toPeer.resume();
  await drained;
  filter.destroy();
});

/** Both ends of a TLS connection: a client's, and the filter on the server's. */
async function tlsPair() {
  const credentials = await orchestratorCredentials();
  const listener = createServer(secureContext(credentials));
  await new Promise<void>((resolve) => listener.listen({ host: "127.0.0.1", port: 0 }, resolve));
  const accepted = once(listener, "secureConnection");
  const { port } = listener.address() as AddressInfo;
  const client = connect({ port, host: "127.0.0.1", ca: credentials.authorities, servername: ORCHESTRATOR_NAME });
  client.on("error", () => {}).resume();
  const [[socket]] = await Promise.all([accepted, once(client, "secureConnect")]);
  const filter = new GoawayFilter(socket);
  return {
    client,
    filter,
    [Symbol.dispose]() {
      filter.destroy();
      client.destroy();
      listener.close();
    },
  };
}

const soon = () => AbortSignal.timeout(5_000);

Deno.test("TLS: a reader that does not read costs the connection, and not the memory", async () => {
  using pair = await tlsPair();
  const { client, filter } = pair;
  const closed = once(filter, "close", { signal: soon() });
  client.write(PREFACE);
  const data = frame(DATA, "x".repeat(16_000));
  let most = 0;
  let sent = 0;
  const flood = () => {
    most = Math.max(most, filter.readableLength);
    do sent += data.length; while (sent < 256 << 20 && client.write(data));
  };
  client.on("drain", flood);
  flood();
  await closed;
  assert.ok(most < 8 << 20, `${most} bytes were held`);
});

Deno.test("TLS: what was sent before the end reaches a slow reader, and then the end", async () => {
  using pair = await tlsPair();
  const { client, filter } = pair;
  const closed = once(filter, "close", { signal: soon() });
  const data = frame(DATA, "x".repeat(16_000));
  client.end(Buffer.concat([PREFACE, ...Array<Buffer>(125).fill(data)]));
  await once(client, "close", { signal: soon() });
  let bytes = 0;
  filter.on("data", (chunk: Uint8Array) => bytes += chunk.length);
  await closed;
  assert.equal(bytes, PREFACE.length + 125 * data.length);
});

Deno.test("TLS: node:http2 is told of a connection that ends in the midst of a flood", async () => {
  using pair = await tlsPair();
  const { client, filter } = pair;
  const server = createHttp2Server();
  const opened = once(server, "session", { signal: soon() });
  server.emit("connection", filter);
  const [session] = await opened;
  const closed = once(session, "close", { signal: soon() });
  // Of a type that nobody knows, so that they are no fault.
  const unknown = frame(0x70, "x".repeat(16_000));
  client.end(Buffer.concat([PREFACE, frame(SETTINGS, ""), ...Array<Buffer>(125).fill(unknown)]));
  await closed;
  assert.ok(filter.destroyed);
});

Deno.test("a peer that speaks something else is cut off without an error event", async () => {
  const { fromPeer, end } = socket();
  const filter = new GoawayFilter(end);
  fromPeer.write("GET / HTTP/1.1\r\n\r\n");
  await Promise.all([once(filter, "close"), once(end, "close")]);
});

Deno.test("when the socket breaks the filter closes without an error event", async () => {
  const { end } = socket();
  const filter = new GoawayFilter(end);
  end.destroy(new Error("ECONNRESET"));
  await once(filter, "close");
});
