import assert from "node:assert/strict";
import type { Identity } from "../../proto/identity/spiffe.ts";
import { Code, RpcError } from "../../proto/transport/rpc/client.ts";
import { Gate } from "./gate.ts";

const code = (code: number) => (e: unknown) => e instanceof RpcError && e.code === code;
const ANN: Identity = { kind: "user", userId: "ann" };
const RUN = "/command_server.CommandServer/Run";

function gateOf(options: { accessToken?: string; epoch?: number } = {}) {
  const gate = new Gate({ accessToken: "a", epoch: 1, owner: "ann", ...options });
  return {
    gate,
    admit: (authorization?: string, epoch?: string, identity: Identity | undefined = ANN, path = RUN) =>
      gate.admit(path, { identity }, authorization, epoch),
  };
}

Deno.test("the owner passes with the present epoch, and nobody with an older one", () => {
  const { gate, admit } = gateOf({ epoch: 2 });
  admit("Bearer a", "2");
  assert.throws(() => admit("Bearer a", "1"), code(Code.FAILED_PRECONDITION));
  gate.raise(5);
  gate.raise(3);
  assert.throws(() => admit("Bearer a", "4"), code(Code.FAILED_PRECONDITION));
  admit("Bearer a", "7");
  assert.equal(gate.epoch, 7);
});

Deno.test("a call without a proper epoch is refused", () => {
  const { admit } = gateOf({ epoch: 0 });
  for (const epoch of [undefined, "", "-1", "1e3", "x", "99999999999"]) {
    assert.throws(() => admit("Bearer a", epoch), code(Code.FAILED_PRECONDITION), epoch);
  }
});

Deno.test("a token opens its own door only, and an empty one none", () => {
  for (const authorization of [undefined, "", "a", "Bearer", "Bearer c", "Bearer aa", "Basic a"]) {
    assert.throws(() => gateOf().admit(authorization, "1"), code(Code.UNAUTHENTICATED), authorization);
    assert.throws(() => gateOf({ accessToken: "" }).admit(authorization, "1"), code(Code.UNAUTHENTICATED));
  }
});

Deno.test("only the owner's own certificate opens the door, and the token is still needed", () => {
  const { gate, admit } = gateOf();
  admit("Bearer a", "1");
  const others: [Identity, number][] = [
    [{ kind: "user", userId: "bob" }, Code.PERMISSION_DENIED],
    [{ kind: "user", userId: "Ann" }, Code.PERMISSION_DENIED],
    [{ kind: "agent", agentId: "a".repeat(32) }, Code.PERMISSION_DENIED],
    [{ kind: "orchestrator" }, Code.PERMISSION_DENIED],
  ];
  for (const [peer, expected] of others) {
    assert.throws(() => admit("Bearer a", "5", peer), code(expected), JSON.stringify(peer));
  }
  assert.throws(() => gate.admit(RUN, {}, "Bearer a", "5"), code(Code.UNAUTHENTICATED));
  assert.equal(gate.epoch, 1);
  assert.throws(() => admit("Bearer b", "1"), code(Code.UNAUTHENTICATED));
});

Deno.test("Supervise is for the orchestrator, without a token; a method without a rule is for nobody", () => {
  const supervise = "/rbs.v1.Agent/Supervise";
  gateOf().admit(undefined, undefined, { kind: "orchestrator" }, supervise);
  assert.throws(() => gateOf().admit("Bearer a", "1", ANN, supervise), code(Code.PERMISSION_DENIED));
  assert.throws(() => gateOf().admit("Bearer a", "1", ANN, "/rbs.v1.Agent/Reboot"), code(Code.PERMISSION_DENIED));
});

Deno.test("an agent has to do with its session's owner and the orchestrator only; one without an owner with no user", () => {
  const gate = new Gate({ accessToken: "", epoch: 0, owner: "" });
  const who = [
    { kind: "orchestrator" },
    { kind: "user", userId: "ann" },
    { kind: "user", userId: "bob" },
    { kind: "user", userId: "" },
    { kind: "agent", agentId: "a".repeat(32) },
  ] as const;
  assert.deepEqual(who.map((identity) => gate.accepts(identity)), [true, false, false, false, false]);
  gate.assign({ accessToken: "access", epoch: 1, owner: "ann" });
  assert.deepEqual(who.map((identity) => gate.accepts(identity)), [true, true, false, false, false]);
});
