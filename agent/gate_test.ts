import assert from "node:assert/strict";
import type { Identity } from "../proto/identity/spiffe.ts";
import { Code, RpcError } from "../proto/rpc.ts";
import { Gate } from "./gate.ts";

const code = (code: number) => (e: unknown) => e instanceof RpcError && e.code === code;

Deno.test("the owner passes with the present epoch, and nobody with an older one", () => {
  const gate = new Gate({ accessToken: "a", controlToken: "c", epoch: 2 });
  gate.admit("Bearer a", "2");
  assert.throws(() => gate.admit("Bearer a", "1"), code(Code.FAILED_PRECONDITION));
  gate.raise(5);
  gate.raise(3);
  assert.throws(() => gate.admit("Bearer a", "4"), code(Code.FAILED_PRECONDITION));
  gate.admit("Bearer a", "7");
  assert.equal(gate.epoch, 7);
});

Deno.test("a call without a proper epoch is refused", () => {
  const gate = new Gate({ accessToken: "a", controlToken: "c", epoch: 0 });
  for (const epoch of [undefined, "", "-1", "1e3", "x", "99999999999"]) {
    assert.throws(() => gate.admit("Bearer a", epoch), code(Code.FAILED_PRECONDITION), epoch);
  }
});

Deno.test("each token opens its own door only, and an empty one none", () => {
  const gate = new Gate({ accessToken: "a", controlToken: "", epoch: 1 });
  for (const authorization of [undefined, "", "a", "Bearer", "Bearer c", "Bearer aa", "Basic a"]) {
    assert.throws(() => gate.admit(authorization, "1"), code(Code.UNAUTHENTICATED), authorization);
  }
  assert.throws(() => gate.admitControl("Bearer a"), code(Code.UNAUTHENTICATED));
  assert.throws(() => gate.admitControl("Bearer "), code(Code.UNAUTHENTICATED));
  new Gate({ accessToken: "a", controlToken: "c", epoch: 1 }).admitControl("Bearer c");
});

Deno.test("with certificates, only the owner's own opens the door, and the token is still needed", () => {
  const gate = new Gate({ accessToken: "a", controlToken: "c", epoch: 1, owner: "ann" });
  gate.admit("Bearer a", "1", { kind: "user", userId: "ann" });
  const others: [Identity | undefined, number][] = [
    [undefined, Code.UNAUTHENTICATED],
    [{ kind: "user", userId: "bob" }, Code.PERMISSION_DENIED],
    [{ kind: "user", userId: "Ann" }, Code.PERMISSION_DENIED],
    [{ kind: "agent", sessionId: "a".repeat(32) }, Code.PERMISSION_DENIED],
    [{ kind: "orchestrator" }, Code.PERMISSION_DENIED],
  ];
  for (const [peer, expected] of others) {
    assert.throws(() => gate.admit("Bearer a", "5", peer), code(expected), JSON.stringify(peer));
  }
  assert.equal(gate.epoch, 1);
  assert.throws(() => gate.admit("Bearer b", "1", { kind: "user", userId: "ann" }), code(Code.UNAUTHENTICATED));
  assert.throws(() => gate.admit(undefined, "1", { kind: "user", userId: "ann" }), code(Code.UNAUTHENTICATED));
});
