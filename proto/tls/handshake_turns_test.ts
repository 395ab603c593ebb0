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

Deno.test("few compute at a time, and those that wait for their peers keep nobody from beginning", async () => {
  const began: number[] = [];
  const turns = new HandshakeTurns({ slots: 40, busy: 4 });
  const handshakes = Array.from({ length: 20 }, (_, i) => ({
    address: `192.0.2.${i}`,
    begin: () => void began.push(performance.now()),
    cut: () => assert.fail("none is cut"),
  }));
  for (const handshake of handshakes) turns.add(handshake);
  while (began.length < 8) await new Promise((resolve) => setTimeout(resolve, 5));
  // However slow the machine is: the fifth waited until the first had had its time.
  assert.ok(began[4] - began[0] >= 95, `${began[4] - began[0]} ms`);
  // One that has come to its end makes room at once.
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
