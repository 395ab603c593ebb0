import assert from "node:assert/strict";
import type { Operation } from "../contract/operations.ts";
import { AccessDenied } from "./access_denied.ts";
import { admit, type Caller, permit, RULES } from "./access_rules.ts";

/** Everybody there is. The session, at an agent, is ann's. */
const CALLERS: Record<string, Caller> = {
  owner: { identity: { kind: "user", userId: "ann" } },
  user: { identity: { kind: "user", userId: "bob" } },
  agent: { identity: { kind: "agent", agentId: "a".repeat(32) } },
  orchestrator: { identity: { kind: "orchestrator" } },
  operator: { identity: { kind: "operator", name: "ann" } },
  stranger: { stranger: "it shows nothing" },
};

/** Who may do each operation. Written out, so that a change of a rule is seen twice. */
const ALLOWED: Record<Operation, string> = {
  "session.get": "owner user",
  "session.heartbeat": "owner user",
  "session.release": "owner user",
  "session.list": "owner user",
  "session.list-any": "operator",
  "session.end-any": "operator",
  "certificate.issue": "owner user agent orchestrator operator stranger",
  "certificate.renew": "owner user agent operator",
  "agent.supervise": "orchestrator",
  "command.run": "owner",
  "bazel-server.call": "owner",
  "workspace.open": "owner",
  "workspace.apply": "owner",
  "workspace.fetch": "owner",
};

function outcome(act: () => void): string {
  try {
    act();
    return "allowed";
  } catch (e) {
    assert(e instanceof AccessDenied, String(e));
    return e.kind;
  }
}

Deno.test("each operation is for those who may do it, and for nobody else", () => {
  assert.deepEqual(Object.keys(ALLOWED).sort(), Object.keys(RULES).sort());
  for (const [operation, allowed] of Object.entries(ALLOWED) as [Operation, string][]) {
    for (const [who, caller] of Object.entries(CALLERS)) {
      const expected = allowed.split(" ").includes(who)
        ? "allowed"
        : who === "stranger"
        ? "unauthenticated"
        : "forbidden";
      assert.equal(outcome(() => permit(operation, caller, "ann")), expected, `${operation}, ${who}`);
    }
  }
});

Deno.test("at an agent without an owner, nobody is the owner", () => {
  for (const operation of ["command.run", "bazel-server.call", "workspace.open"] as const) {
    for (const userId of ["ann", "", "undefined"]) {
      assert.equal(outcome(() => permit(operation, { identity: { kind: "user", userId } })), "forbidden");
    }
  }
});

Deno.test("a gRPC method without an operation is for nobody", () => {
  for (const path of ["/rbs.v1.Agent/Reboot", "/rbs.v1.Orchestrator/", "/toString", "session.list", ""]) {
    for (const caller of Object.values(CALLERS)) {
      assert.equal(outcome(() => admit(path, caller, "ann")), "forbidden", path);
    }
  }
  admit("/rbs.v1.Orchestrator/ListSessions", CALLERS.user);
});

Deno.test("a refusal says who may not do what, and a stranger is told why it is one", () => {
  const { user, stranger } = CALLERS;
  const forOthers = /^AccessDenied: User "bob" may not do agent\.supervise, which is for the orchestrator\.$/;
  assert.throws(() => permit("agent.supervise", user), forOthers);
  assert.throws(
    () => permit("session.list-any", user),
    /User "bob" may not do session\.list-any, which is for operators/,
  );
  assert.throws(() => permit("session.list", stranger), /not known here, since it shows nothing: run `jbazel login`/);
});
