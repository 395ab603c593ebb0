import assert from "node:assert/strict";
import { randomFillSync } from "node:crypto";
import type { Stream } from "../http2/stream.ts";
import type { Headers } from "../http2/hpack.ts";
import { BatchEncoder, decodeBatch } from "../../tree/batch.ts";
import { digestOf } from "../../tree/read.ts";
import type { ServerCall } from "./calls.ts";
import { Connection } from "./channel.ts";
import { requestMessages } from "./messages.ts";
import { listenForCalls } from "./server.ts";

const MESSAGES = 60, BYTES = 300_000;

/** A server and a connection to it. */
function connected(serve: (stream: Stream, headers: Headers, call: ServerCall) => Promise<void>) {
  const server = listenForCalls("127.0.0.1", serve, (_, e) => assert.fail(String(e)));
  const connection = new Connection("127.0.0.1", server.port);
  return {
    connection,
    async [Symbol.asyncDispose]() {
      connection.close();
      server.close();
      await new Promise((resolve) => setTimeout(resolve, 0));
    },
  };
}

/** Batches of one random file each, by one encoder that gets their memory back from whoever calls `released`. */
function* batches(buffers: Set<ArrayBufferLike>) {
  const encoder = new BatchEncoder({ bytes: BYTES });
  for (let i = 0; i < MESSAGES; i++) {
    const content = randomFillSync(new Uint8Array(BYTES));
    const entry = { path: `file${i}`, kind: "file" as const, mode: 0o644, size: BYTES, mtimeMs: 0 };
    const batch = encoder.add({ entry, content, digest: digestOf(content) })!;
    buffers.add(batch.buffer);
    yield { batch, released: () => encoder.reuse(batch) };
  }
}

/** Checks that a batch is the one that was sent: it brings its own digest. */
function check(message: Uint8Array, index: number) {
  const [{ entry, content, digest }] = decodeBatch(message);
  assert.equal(entry!.path, `file${index}`);
  assert.deepEqual(Uint8Array.from(digestOf(content!)), Uint8Array.from(digest!));
}

Deno.test("a call's first message goes with its headers in one write, and those that follow come after it", async () => {
  const writes: Uint8Array[] = [];
  const { connect } = Deno;
  Deno.connect = (async (options: Deno.ConnectOptions) => {
    const tcp = await connect(options);
    const write = tcp.write.bind(tcp);
    tcp.write = (bytes) => {
      writes.push(bytes.slice());
      return write(bytes);
    };
    return tcp;
  }) as typeof Deno.connect;
  await using peers = connected(async (stream, _, call) => {
    const texts: string[] = [];
    for await (const message of requestMessages(stream, 1 << 20)) texts.push(message.toString());
    void call.write(new TextEncoder().encode(texts.join()));
    call.end();
  });
  try {
    await peers.connection.unary("/s/Connect", new Uint8Array());
    writes.length = 0;
    const call = await peers.connection.call("/s/Say", {}, { first: new TextEncoder().encode("first") });
    await new Promise((resolve) => setTimeout(resolve, 0));
    assert.equal(writes.filter((bytes) => bytes[3] !== 4).length, 1, "but for an answer to SETTINGS");
    void call.send(new TextEncoder().encode("second"));
    call.end();
    const answers: string[] = [];
    for await (const answer of call.responses()) answers.push(answer.toString());
    assert.deepEqual(answers, ["first,second"]);
  } finally {
    Deno.connect = connect;
  }
});

Deno.test("memory of sent messages is used again, and each arrives as it was when it was sent", async () => {
  let received = 0;
  await using peers = connected(async (stream, _, call) => {
    // Lent as well: what is not looked at before the next message is asked for is lost.
    for await (const message of requestMessages(stream, 1 << 20, { lends: true })) {
      check(message, received++);
      // Now and then a reader is slow: the windows fill, and messages wait in parts.
      if (received % 10 === 0) await new Promise((resolve) => setTimeout(resolve, 5));
    }
    call.end();
  });
  const call = await peers.connection.call("/s/Up");
  const buffers = new Set<ArrayBufferLike>();
  for (const { batch, released } of batches(buffers)) await call.send(batch, released);
  call.end();
  for await (const _ of call.responses());
  assert.equal(received, MESSAGES);
  assert(buffers.size < MESSAGES, `${buffers.size} pieces of memory for ${MESSAGES} messages`);
});

Deno.test("the same for a call's responses, which are lent to their reader", async () => {
  const buffers = new Set<ArrayBufferLike>();
  await using peers = connected(async (_stream, _headers, call) => {
    for (const { batch, released } of batches(buffers)) await call.write(batch, released);
    call.end();
  });
  const call = await peers.connection.call("/s/Down", {}, { lends: true });
  let received = 0;
  for await (const message of call.responses()) check(message, received++);
  assert.equal(received, MESSAGES);
  assert(buffers.size < MESSAGES, `${buffers.size} pieces of memory for ${MESSAGES} messages`);
});

Deno.test("a response that is kept is there until each part of it was given back", async () => {
  await using peers = connected(async (_stream, _headers, call) => {
    for (const { batch } of batches(new Set())) await call.write(batch);
    call.end();
  });
  const call = await peers.connection.call("/s/Down", {}, { lends: true });
  const kept: { message: Uint8Array; index: number; release: (() => void)[] }[] = [];
  const memory = new Set<ArrayBufferLike>();
  let received = 0;
  for await (const message of call.responses()) {
    memory.add(message.buffer);
    kept.push({ message, index: received++, release: [call.keep(message), call.keep(message)] });
    const [oldest] = kept;
    check(oldest.message, oldest.index);
    // One part of it, twice: that does not count for the other.
    oldest.release[0]();
    oldest.release[0]();
    if (kept.length === 4) kept.shift()!.release[1]();
  }
  for (const { message, index } of kept) check(message, index);
  assert.equal(received, MESSAGES);
  assert(memory.size < MESSAGES, `${memory.size} pieces of memory for ${MESSAGES} messages`);
});
