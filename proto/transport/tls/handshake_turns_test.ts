import assert from "node:assert/strict";
import { type Handshake, HandshakeTurns } from "./handshake_turns.ts";

/** Turns for four at a time, and what becomes of each by its name. */
function setUp(patienceMs = 10_000) {
  const turns = new HandshakeTurns({ slots: 4, patienceMs });
  const events: string[] = [];
  const made = new Map<string, Handshake>();
  const t = {
    events,
    add(name: string) {
      const handshake = {
        address: name[0],
        begin: () => void events.push(`${name} begins`),
        cut: () => void events.push(`${name} is cut`),
      };
      made.set(name, handshake);
      turns.add(handshake);
    },
    end: (name: string) => turns.remove(made.get(name)!),
    settled: () => new Promise((resolve) => setTimeout(resolve, 20)),
  };
  return t;
}

Deno.test("of one address the newest goes first, and no more than there are places", async () => {
  const t = setUp();
  for (let i = 1; i <= 6; i++) t.add(`a${i}`);
  await t.settled();
  assert.deepEqual(t.events, ["a6 begins", "a5 begins", "a4 begins", "a3 begins"]);
  t.end("a5");
  await t.settled();
  assert.deepEqual(t.events.slice(4), ["a2 begins"]);
});

Deno.test("addresses take turns, and who has less takes a place of who has most", async () => {
  const t = setUp();
  for (let i = 1; i <= 9; i++) t.add(`a${i}`);
  await t.settled();
  t.add("b1");
  await t.settled();
  assert.deepEqual(t.events.slice(4), ["a9 is cut", "b1 begins"]);
  t.add("b2");
  t.add("c1");
  await t.settled();
  // Two of each are no more than their share.
  assert.deepEqual(t.events.slice(6).sort(), ["a7 is cut", "a8 is cut", "b2 begins", "c1 begins"]);
});

Deno.test("one address has few of the places, whoever else there is, and others begin beside it", async () => {
  const turns = new HandshakeTurns({ slots: 8, ofOne: 2, patienceMs: 10_000 });
  const begun: string[] = [];
  const handshakes = ["a", "a", "a", "a", "b", "b", "b", "c"].map((address, i) => ({
    address,
    begin: () => void begun.push(`${address}${i}`),
    cut: () => assert.fail("none is cut"),
  }));
  for (const handshake of handshakes) turns.add(handshake);
  await new Promise((resolve) => setTimeout(resolve, 20));
  assert.deepEqual(begun.sort(), ["a2", "a3", "b5", "b6", "c7"]);
  turns.remove(handshakes[3]);
  await new Promise((resolve) => setTimeout(resolve, 20));
  assert.deepEqual(begun.slice(5), ["a1"]);
  for (const handshake of handshakes) turns.remove(handshake);
});

Deno.test("where all are of one address, those give way that take long", async () => {
  const t = setUp(30);
  for (let i = 1; i <= 5; i++) t.add(`a${i}`);
  await t.settled();
  assert.ok(!t.events.includes("a1 begins"));
  await new Promise((resolve) => setTimeout(resolve, 60));
  assert.deepEqual(t.events.slice(4), ["a5 is cut", "a1 begins"]);
});

Deno.test("one that is gone before its turn does not begin", async () => {
  const t = setUp();
  t.add("a1");
  t.end("a1");
  await t.settled();
  assert.deepEqual(t.events, []);
});
