import assert from "node:assert/strict";
import { RbsError } from "../../proto/base/errors.ts";
import { OrchestratorAddresses } from "../../proto/base/orchestrator_addresses.ts";
import { Code, type NoAnswer, RpcError, TrustError } from "../../proto/transport/rpc/error.ts";
import { orchestratorError, type OrchestratorFailure } from "./orchestrator_error.ts";

const HERE = new OrchestratorAddresses("localhost:1");
const ELSEWHERE = new OrchestratorAddresses("rbs.example:1,b.example:2");
const unanswered = (noAnswer: NoAnswer) => new RpcError(Code.UNAVAILABLE, "grpc's text", undefined, noAnswer);

Deno.test("each failure of an orchestrator has a reason, one sentence, and an exit code", () => {
  const cases: [unknown, OrchestratorAddresses, OrchestratorFailure, RegExp][] = [
    [
      unanswered({ kind: "unknown name" }),
      ELSEWHERE,
      "unknown name",
      /host name in .* or .* is not known: correct RBS_/,
    ],
    [
      unanswered({ kind: "not connected", systemCode: "ECONNREFUSED" }),
      HERE,
      "not connected",
      /^The orchestrator at localhost:1 cannot be reached \(nothing listens there\): start it with "orchestrator install", or/,
    ],
    [
      unanswered({ kind: "not connected", systemCode: "EHOSTUNREACH" }),
      ELSEWHERE,
      "not connected",
      /cannot be reached \(EHOSTUNREACH\): ask its operator whether it runs, or .*RBS_FALLBACK=local/,
    ],
    [unanswered({ kind: "broken off" }), HERE, "broken off", /^The connection to .* broke off: run the command again/],
    [
      new RpcError(Code.DEADLINE_EXCEEDED, "late"),
      HERE,
      "silent",
      /has not answered within 10 s: see whether it hangs/,
    ],
    [new RpcError(Code.UNAVAILABLE, "No room."), HERE, "unavailable", /^No room\.$/],
    [new RpcError(Code.FAILED_PRECONDITION, "No Bazel."), HERE, "cannot start", /^No Bazel\.$/],
    [new RpcError(Code.UNIMPLEMENTED, "?"), HERE, "another program", /is not an orchestrator of this version: correct/],
    [new RpcError(Code.UNAUTHENTICATED, "No."), HERE, "certificate refused", /refuses this user's certificate: No\.$/],
    [new RpcError(Code.PERMISSION_DENIED, "No."), HERE, "refused", /^The orchestrator at localhost:1 refuses: No\.$/],
    [new RpcError(Code.INVALID_ARGUMENT, "No."), HERE, "refused", /refuses: No\.$/],
    [
      new TrustError("it is not"),
      HERE,
      "not trusted",
      /is not to be trusted: it is not\. Correct RBS_ORCHESTRATOR_ADDR/,
    ],
    [
      new TrustError("one is", undefined, true),
      HERE,
      "clocks differ",
      /because the clocks differ: one is; correct the/,
    ],
    [new RpcError(Code.CANCELLED, "gone"), HERE, "interrupted", /^Interrupted while waiting for the build server\.$/],
    [new TypeError("a bug"), HERE, "failed", /^The orchestrator at localhost:1 failed: a bug$/],
    [new RbsError("There is no key.", { cause: new Deno.errors.NotFound() }), HERE, "no key", /^There is no key\.$/],
    [new RbsError("The key is old."), HERE, "unusable key", /^The key is old\.$/],
  ];
  for (const [thrown, addresses, reason, sentence] of cases) {
    const error = orchestratorError(thrown, addresses);
    assert.equal(error.reason, reason);
    assert.match(error.message, sentence);
    assert.equal(error.exitCode, reason === "interrupted" ? 8 : 36, reason);
    assert.equal(error.cause instanceof Error, true);
    assert.equal(orchestratorError(error, addresses), error);
  }
  const passing = cases.map(([thrown, addresses]) => orchestratorError(thrown, addresses)).filter((e) => e.isPassing);
  assert.deepEqual(
    [...new Set(passing.map((e) => e.reason))],
    ["unknown name", "not connected", "broken off", "silent", "unavailable"],
  );
});

Deno.test("the sentence about silence names the time that was waited", () => {
  assert.match(orchestratorError(new RpcError(Code.DEADLINE_EXCEEDED, ""), HERE, 500).message, /within 0\.5 s/);
});
