import assert from "node:assert/strict";
import { Code } from "../../proto/transport/rpc/client.ts";
import type { Session } from "../store/session.ts";
import { fields } from "../testing/session_fields.ts";
import { A, B, OPTIONS, request } from "../testing/session_world.ts";
import { decide, type Decision, type DecisionRules } from "./decision.ts";
import { startupOptionsHash } from "./startup_options_hash.ts";

const RULES: DecisionRules = { synced: false, startTimeoutMs: 20_000 };
const NOW = 1_000_000;

/** A READY session of {@link request}, unless `change` says otherwise. */
function session(change: Partial<Session> = {}): Session {
  const { userId, repoHash, serverId, sessionId } = request();
  return {
    ...fields({ sessionId, startupOptions: OPTIONS, startupOptionsHash: startupOptionsHash(OPTIONS), synced: false }),
    userId,
    repoHash,
    serverId,
    status: "READY",
    epoch: 1,
    term: 1,
    createdAt: NOW,
    ...change,
  };
}

/** What is decided for a caller that has just come, unless `change` says otherwise. */
function decided(
  found: Session | undefined,
  change: Partial<Parameters<typeof decide>[1]> = {},
  rules: Partial<DecisionRules> = {},
  now = NOW,
): Decision {
  return decide(found, { request: request(), retries: 0, ...change }, { ...RULES, ...rules }, now);
}

function isRefused(decision: Decision, code: Code, message: RegExp): void {
  assert(decision.what === "refuse", decision.what);
  assert.equal(decision.error.code, code);
  assert.match(decision.error.message, message);
}

Deno.test("without an agent one is started, once for each caller", () => {
  const failed = session({ status: "FAILED", failure: "No JDK here.", failureTransient: false });
  assert.deepEqual(decided(undefined), { what: "start" });
  assert.deepEqual(decided(failed), { what: "start", failed });
  isRefused(decided(undefined, { joined: 1 }), Code.UNAVAILABLE, /^The server of "\/ws" was released while/);
  isRefused(decided(failed, { joined: 1 }), Code.FAILED_PRECONDITION, /^No JDK here\.$/);
});

Deno.test("a start that failed for a transient reason is tried twice again, unless it took long", () => {
  const failed = session({ status: "FAILED", failure: "It was lost.", failureTransient: true });
  const after = (retries: number, now = NOW) => decided(failed, { joined: 1, retries }, {}, now);
  assert.deepEqual(after(1), { what: "retry", failed });
  isRefused(after(2), Code.UNAVAILABLE, /^It was lost\.$/);
  assert.equal(after(0, NOW + RULES.startTimeoutMs / 2).what, "retry");
  isRefused(after(0, NOW + RULES.startTimeoutMs / 2 + 1), Code.UNAVAILABLE, /^It was lost\.$/);
});

Deno.test("an agent that ends or starts is waited for, and one that suits is given", () => {
  for (const joined of [undefined, 1]) {
    assert.equal(decided(session({ status: "PENDING" }), { joined }).what, "wait for the start");
    assert.equal(decided(session(), { joined }).what, "serve");
    // Of a replacement: its successor is what the caller waits for.
    assert.equal(decided(session({ status: "STOPPING" }), { joined }).what, "wait for the end");
  }
  const released = session({ status: "STOPPING", failureTransient: true });
  assert.equal(decided(released).what, "wait for the end");
  isRefused(decided(released, { joined: 1 }), Code.UNAVAILABLE, /was released while/);
});

Deno.test("an agent that does not suit is replaced, but only once and not after a wait for it", () => {
  const misfits = [
    [session({ synced: true }), {}, /^has a synced workspace$/],
    [session({ startupOptionsHash: "other" }), {}, /^has other startup options$/],
    [session({ sessionId: B }), { onBounce: "replace" }, /^an earlier life of the client has left behind$/],
  ] as const;
  for (const [found, rules, which] of misfits) {
    for (const status of ["PENDING", "READY"] as const) {
      const decision = decided({ ...found, status }, {}, rules);
      assert(decision.what === "replace");
      assert.match(decision.misfit.which, which);
      isRefused(decided({ ...found, status }, { joined: 1 }, rules), Code.FAILED_PRECONDITION, /" was replaced by/);
      isRefused(
        decided({ ...found, status }, { hasReplaced: true }, rules),
        Code.FAILED_PRECONDITION,
        /" was replaced/,
      );
    }
  }
});

Deno.test("who names no startup options takes any server of the mode, and ends none by a bounce", () => {
  const any = { request: request({ startupOptions: [] }) };
  assert.equal(decided(session({ sessionId: B }), any, { onBounce: "replace" }).what, "serve");
  assert.equal(decided(session({ startupOptionsHash: "other" }), any).what, "serve");
  assert.equal(decided(session({ synced: true }), any).what, "replace");
});

Deno.test("a session without a ServerId is adopted by one laptop only, and while it is READY", () => {
  const adopting = { request: request({ adopts: A }) };
  assert.equal(decided(session(), adopting).what, "serve");
  assert.equal(decided(session({ adoptedBy: A }), adopting).what, "serve");
  for (
    const found of [undefined, session({ adoptedBy: B }), session({ status: "STOPPING" }), session({ serverId: A })]
  ) {
    assert.deepEqual(decided(found, adopting), { what: "look elsewhere" });
  }
});
