import assert from "node:assert/strict";
import { type Event, Lifecycle, type State } from "./lifecycle.ts";

const RETIRE: Event = { name: "retire" };
const GOAWAY: Event = { name: "goaway", peerGaveUp: false };
const GAVE_UP: Event = { name: "goaway", peerGaveUp: true };
const VIOLATION: Event = { name: "violation", why: "it broke the rules", lastWords: 0 as unknown as never };
const END: Event = { name: "end" };
const ALL = [RETIRE, GOAWAY, GAVE_UP, VIOLATION, END];

/** A server's or client's state after these events. */
function after(role: "client" | "server", ...events: Event[]): Lifecycle {
  const lifecycle = new Lifecycle(role);
  for (const event of events) lifecycle.move(event);
  return lifecycle;
}

Deno.test("a connection only goes forward", () => {
  const forward: [Event[], State["name"][]][] = [
    [[], ["retired", "going away", "going away", "failing", "over"]],
    [[RETIRE], ["retired", "going away", "going away", "failing", "over"]],
    [[GOAWAY], ["going away", "going away", "going away", "failing", "over"]],
    [[VIOLATION], ["failing", "failing", "failing", "failing", "over"]],
    [[END], ["over", "over", "over", "over", "over"]],
  ];
  for (const role of ["client", "server"] as const) {
    for (const [before, names] of forward) {
      assert.deepEqual(ALL.map((event) => after(role, ...before, event).state.name), names);
    }
  }
});

Deno.test("what a state allows", () => {
  const allows = (...events: Event[]) => {
    const { requests, sends, receives } = after("client", ...events).allows;
    return [requests, sends, receives];
  };
  assert.deepEqual(allows(), [true, true, true]);
  assert.deepEqual(allows(RETIRE), [true, true, true]);
  assert.deepEqual(allows(GOAWAY), [false, true, true]);
  assert.deepEqual(allows(VIOLATION), [false, true, false]);
  assert.deepEqual(allows(END), [false, false, false]);
});

Deno.test("a client ends when idle after GOAWAY, a server only if it is retired, in either order", () => {
  const ends = (role: "client" | "server", ...events: Event[]) => after(role, ...events).endsWhenIdle;
  assert.deepEqual([ends("client"), ends("client", RETIRE), ends("client", GOAWAY)], [false, true, true]);
  assert.deepEqual([ends("server"), ends("server", RETIRE), ends("server", GOAWAY)], [false, true, false]);
  assert.deepEqual([ends("server", GOAWAY, RETIRE), ends("server", RETIRE, GOAWAY)], [true, true]);
  assert.equal(ends("server", RETIRE, GOAWAY, GOAWAY), true);
  assert.deepEqual([ends("client", RETIRE, VIOLATION), ends("client", RETIRE, END)], [false, false]);
});

Deno.test("that the peer gave up is not forgotten", () => {
  const { state } = after("server", GAVE_UP, RETIRE, GOAWAY);
  assert.deepEqual(state, { name: "going away", endsWhenIdle: true, peerGaveUp: true });
});

Deno.test("a move tells the state before, and whether there was one", () => {
  const lifecycle = new Lifecycle("client");
  assert.equal(lifecycle.move(RETIRE)?.name, "open");
  assert.equal(lifecycle.move(RETIRE), undefined);
  assert.equal(lifecycle.move(VIOLATION)?.name, "retired");
  assert.equal(lifecycle.move(VIOLATION), undefined);
  assert.equal(lifecycle.move(END)?.name, "failing");
  assert.equal(lifecycle.move(END), undefined);
});
