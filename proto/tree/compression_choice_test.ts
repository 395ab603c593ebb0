import assert from "node:assert/strict";
import { CompressionChoice } from "./compression_choice.ts";

/** What is chosen after windows of 100 ms each, in which so many bytes went, and the link took so long to take them. */
function choices(windows: { bytes: number; writingMs: number }[]): boolean[] {
  let now = 1000;
  const link = { writingMs: 500, slow: false };
  const choice = new CompressionChoice(link, () => now);
  assert.equal(choice.worth, false, "at first a link is taken for a fast one");
  return windows.map(({ bytes, writingMs }) => {
    now += 100;
    link.writingMs += writingMs;
    choice.sent(bytes);
    return choice.worth;
  });
}

Deno.test("what goes over a slow link is compressed, as long as it is slow", () => {
  const slow = { bytes: 1_000_000, writingMs: 95 }, fast = { bytes: 20_000_000, writingMs: 30 };
  assert.deepEqual(choices([slow, slow, fast, slow]), [true, true, false, true]);
});

Deno.test("for a receiver that is slow nothing is compressed: it would have to unpack as well", () => {
  assert.deepEqual(choices([{ bytes: 4_000_000, writingMs: 5 }]), [false]);
});

Deno.test("a link that carries more than compression makes needs none, however busy it is", () => {
  assert.deepEqual(choices([{ bytes: 7_000_000, writingMs: 99 }]), [false]);
});

Deno.test("a link that was slow is so for the next call as well, until it shows that it is not", () => {
  let now = 0;
  const link = { writingMs: 0, slow: true };
  const choice = new CompressionChoice(link, () => now);
  assert.equal(choice.worth, true);
  now += 100;
  choice.sent(20_000_000);
  assert.deepEqual([choice.worth, link.slow], [false, false]);
});
