import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { frame } from "../../proto/transport/grpc/message_stream.ts";
import { encodeFields, WireError } from "../../proto/base/protobuf_fields.ts";
import { CookieCheck } from "./cookie_check.ts";

/** What is said after each part. */
function answers(...parts: Uint8Array[]): (boolean | undefined)[] {
  const check = new CookieCheck("secret");
  return parts.map((part) => check.push(part));
}

Deno.test("the cookie is known as soon as its last byte is there, wherever the request is cut", () => {
  const request = frame(encodeFields([[1, "secret"], [2, "build"], [2, "x".repeat(10_000)]]));
  const last = 5 + 2 + "secret".length;
  for (let cut = 0; cut < 100; cut++) {
    const [first, second] = answers(request.subarray(0, cut), request.subarray(cut));
    assert.deepEqual([first, second], [cut < last ? undefined : true, true], `cut at ${cut}`);
  }
  const bytes = answers(...Array.from(request.subarray(0, last), (byte) => Uint8Array.of(byte)));
  assert.deepEqual(bytes, [...Array(last - 1).fill(undefined), true]);
});

Deno.test("a wrong cookie, an empty one and none are known as early", () => {
  assert.deepEqual(answers(frame(encodeFields([[1, "Secret"], [2, "x"]])).subarray(0, 13)), [false]);
  assert.deepEqual(answers(frame(encodeFields([[2, "secret"]]))), [false]);
  assert.deepEqual(answers(frame(new Uint8Array())), [false]);
  assert.deepEqual(answers(frame(encodeFields([[1, 7]]))), [false]);
  // The first one counts.
  assert.deepEqual(answers(frame(encodeFields([[1, "wrong"], [1, "secret"]]))), [false]);
});

Deno.test("fields that a newer client sends before the cookie are passed over, up to 4 kB", () => {
  const before = (bytes: number) => frame(encodeFields([[2, Buffer.alloc(bytes)], [1, "secret"]]));
  assert.deepEqual(answers(before(4000)), [true]);
  assert.deepEqual(answers(before(4090)), [false]);
  // Without the end of a field that never comes.
  const huge = before(1 << 20);
  assert.deepEqual(answers(huge.subarray(0, 4095), huge.subarray(4095, 4096)), [undefined, false]);
});

Deno.test("what is no message is told as that, once it is whole", () => {
  assert.throws(() => answers(frame(Uint8Array.of(0x0a, 0xff))), WireError);
  assert.throws(() => answers(frame(Uint8Array.of(0x0f))), WireError);
  assert.deepEqual(answers(Uint8Array.of(0, 0, 0, 0, 9, 0x0f)), [undefined]);
});
