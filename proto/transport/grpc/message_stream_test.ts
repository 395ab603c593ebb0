import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { random } from "../../testing/pipe.ts";
import { frame, MessageStream } from "./message_stream.ts";
import { WireError } from "../../base/protobuf_fields.ts";

Deno.test("messages come out changed and in order, wherever the stream is cut", () => {
  const messages = ["", "a", "bc", "x".repeat(300)];
  const bytes = Buffer.concat(messages.map((m) => frame(Buffer.from(m))));
  const expected = Buffer.concat(messages.map((m) => frame(Buffer.from(`<${m}>`))));
  for (let first = 0; first <= bytes.length; first++) {
    for (const second of [first, Math.min(first + 1, bytes.length), Math.min(first + 7, bytes.length)]) {
      const stream = new MessageStream((m) => [Buffer.from("<"), m, Buffer.from(">")]);
      const out = [bytes.subarray(0, first), bytes.subarray(first, second), bytes.subarray(second)]
        .map((part) => stream.push(part) ?? Buffer.alloc(0));
      assert.deepEqual(Buffer.concat(out), expected);
      assert.ok(stream.atBoundary);
    }
  }
});

Deno.test("random messages, in random chunks that are used again by their owner, pass unchanged", () => {
  const below = random(5);
  for (let round = 0; round < 100; round++) {
    const bytes = Buffer.concat(
      Array.from({ length: below(8) }, () => frame(Buffer.alloc(below([4, 5000][below(2)]), below(256)))),
    );
    const stream = new MessageStream((m) => [m]);
    const out: Buffer[] = [];
    for (let at = 0; at < bytes.length;) {
      const lent = Buffer.from(bytes.subarray(at, at += 1 + below(700)));
      const passed = stream.push(lent);
      if (passed) out.push(Buffer.from(passed));
      lent.fill(0xee);
    }
    assert.deepEqual(Buffer.concat(out), bytes);
  }
});

Deno.test("a message can be dropped, and an empty one is not the same as none", () => {
  const stream = new MessageStream((m) => m.length === 1 ? undefined : []);
  const out = stream.push(Buffer.concat([frame(Buffer.from("a")), frame(Buffer.from("bc"))]));
  assert.deepEqual(out, frame(Buffer.alloc(0)));
});

Deno.test("the rest of a message is waited for", () => {
  const stream = new MessageStream((m) => [m]);
  assert.equal(stream.push(Uint8Array.of(0, 0, 0)), undefined);
  assert.equal(stream.atBoundary, false);
  assert.equal(stream.push(Uint8Array.of(0, 2, 9)), undefined);
  assert.deepEqual(stream.push(Uint8Array.of(8)), Buffer.from([0, 0, 0, 0, 2, 9, 8]));
  assert.equal(stream.atBoundary, true);
});

Deno.test("a message larger than the limit is refused before it is gathered, one of just the limit is not", () => {
  const prefix = (length: number) => frame(Buffer.alloc(0)).fill(length, 4);
  assert.throws(() => new MessageStream(() => [], 9).push(prefix(10)), { name: "RangeError", message: /10 bytes/ });
  assert.equal(new MessageStream(() => [], 9).push(prefix(9)), undefined);
  assert.throws(() => new MessageStream(() => []).push(Uint8Array.of(0, 255, 255, 255, 255)), RangeError);
});

Deno.test("what is compressed, or no message at all, is refused", () => {
  assert.throws(() => new MessageStream((m) => [m]).push(Uint8Array.of(1, 0, 0, 0, 0)), WireError);
  assert.throws(() => new MessageStream((m) => [m]).push(Buffer.from("HTTP/1.1 400")), WireError);
});
