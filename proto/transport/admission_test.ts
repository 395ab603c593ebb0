import assert from "node:assert/strict";
import { type Admission, AdmissionControl, type AdmissionLimits } from "./admission.ts";
import { eventually } from "../../tests/support/eventually.ts";

/** A control, and what became of those who came. */
function control(limits: Partial<AdmissionLimits> = {}, now?: () => number) {
  const refusals: string[] = [];
  const gone: string[] = [];
  const admission = new AdmissionControl(limits, (why) => refusals.push(why), now);
  return {
    admission,
    refusals,
    gone,
    enter: (name: string, origin?: string) => admission.enter(() => gone.push(name), origin),
    /** As {@link enter}, with its handshake over. */
    stranger(name: string): Admission {
      const it = admission.enter(() => gone.push(name))!;
      it.secured();
      return it;
    },
  };
}

Deno.test("of too many in mid-handshake, and of too many strangers, the oldest goes; who is admitted stays", () => {
  const c = control({ handshakes: 2, strangers: 2 });
  const known = c.enter("known")!;
  assert.equal(known.admit(), true);
  for (const name of ["a", "b", "c"]) c.enter(name);
  assert.deepEqual(c.gone, ["a"]);
  const strangers = ["d", "e", "f"].map((name) => c.stranger(name));
  // They were in mid-handshake for a moment: then b and c had to go.
  assert.deepEqual(c.gone, ["a", "b", "d"]);
  assert.equal(strangers[1].admit(), true);
  c.stranger("g");
  assert.deepEqual(c.gone, ["a", "b", "d"]);
  assert.equal(strangers[0].admit(), false, "who had to go cannot be admitted any more");
  assert.equal(strangers[0].secured(), false);
  const { connections, handshakes, strangers: left } = c.admission;
  assert.deepEqual([connections, handshakes, left], [5, 1, 2]);
});

Deno.test("a connection that ends leaves nothing behind, however often it says so", () => {
  const c = control();
  const all = [c.enter("a")!, c.stranger("b"), c.stranger("c")];
  all[1].hold(100);
  all[2].admit("ann");
  for (const it of [...all, ...all]) it.end();
  const { connections, handshakes, strangers, heldBytes } = c.admission;
  assert.deepEqual([connections, handshakes, strangers, heldBytes], [0, 0, 0, 0]);
  assert.deepEqual(c.gone, []);
});

Deno.test("with all connections taken a stranger goes for one that comes; with none of them, the one that comes", () => {
  const c = control({ connections: 3 });
  const first = c.enter("a")!;
  first.admit();
  c.stranger("b");
  c.enter("c");
  assert.ok(c.enter("d"));
  assert.ok(c.enter("e"));
  assert.deepEqual(c.gone, ["c", "d"]);
  const full = control({ connections: 2 });
  for (const name of ["a", "b"]) full.enter(name)!.admit();
  assert.equal(full.enter("c"), undefined);
  assert.deepEqual(full.gone, []);
  assert.match(full.refusals[0], /there are 2 connections already/);
});

Deno.test("an identity has only so many connections, and others are not concerned", () => {
  const c = control({ connectionsPerIdentity: 2 });
  const ann = [1, 2, 3].map((i) => c.stranger(`ann ${i}`));
  assert.deepEqual(ann.map((it) => it.admit("ann")), [true, true, false]);
  assert.equal(c.stranger("bob").admit("bob"), true);
  ann[0].end();
  assert.equal(ann[2].admit("ann"), true);
});

Deno.test("strangers together hold no more than the budget: who holds much for long goes, and who is admitted is free", async () => {
  const c = control({ strangerBytes: 1000 });
  const large = c.stranger("large"), small = c.stranger("small");
  assert.ok(large.hold(900) && small.hold(50));
  await eventually(() => performance.now() - large.since > 20);
  // The newest holds the most, but only just.
  const fresh = c.stranger("fresh");
  assert.equal(fresh.hold(920), true);
  assert.deepEqual([c.gone, c.admission.heldBytes], [["large"], 970]);
  assert.equal(large.hold(1), false);
  // Nobody else is to blame: it has to go itself.
  assert.equal(fresh.hold(100_000), false);
  fresh.end();
  assert.equal(c.admission.heldBytes, 50);
  assert.equal(small.hold(900), true);
  small.admit();
  assert.equal(c.admission.heldBytes, 0);
  assert.equal(small.hold(1 << 30), true);
  small.release(1 << 30);
  assert.equal(c.admission.heldBytes, 0);
});

Deno.test("a thousand strangers that hold a little each do not keep one out that holds somewhat more", () => {
  let now = 0;
  const c = control({ strangers: 1000, handshakes: 1000, strangerBytes: 1 << 20 }, () => now);
  const crowd = Array.from({ length: 1000 }, (_, i) => c.stranger(String(i)));
  for (const it of crowd) assert.ok(it.hold(1048));
  now = 50;
  const honest = c.stranger("honest");
  for (let i = 0; i < 8; i++, now++) assert.ok(honest.hold(1000));
  assert.ok(!c.gone.includes("honest"), c.gone.join());
});

Deno.test("many at one address push out each other, and nobody at another", () => {
  const c = control({ handshakes: 8, strangers: 8 });
  const honest = c.enter("honest", "elsewhere");
  for (let i = 0; i < 100; i++) c.enter(`h${i}`);
  assert.ok(!c.gone.includes("honest"));
  assert.equal(c.gone.length, 93);
  assert.ok(honest);
});

Deno.test("time runs out for handshakes and for strangers, one after the other, and not for who is admitted", async () => {
  const c = control({ handshakeMs: 30, strangerMs: 60 });
  c.enter("handshake");
  c.stranger("stranger");
  const known = c.stranger("known");
  known.admit();
  await eventually(() => c.gone.length === 2);
  assert.deepEqual(c.gone, ["handshake", "stranger"]);
  assert.match(c.refusals[0], /^A caller was refused: its handshake took too long\.$/);
  c.enter("later");
  await eventually(() => c.gone.length === 3);
  assert.equal(known.admitted, true);
});

Deno.test("however many are refused, the log says little, and counts them", () => {
  const c = control({ handshakes: 1 });
  for (let i = 0; i < 100_000; i++) c.enter("x");
  assert.ok(c.gone.length === 99_999 && c.refusals.length < 20, `${c.refusals.length} lines`);
  assert.match(c.refusals[0], /^A caller was refused: others came while it had proved nothing\.$/);
});
