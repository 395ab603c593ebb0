import assert from "node:assert/strict";
import { type Identity, parseSpiffeUri, spiffeUri } from "./spiffe.ts";

const SESSION = "0123456789abcdef0123456789abcdef";

Deno.test("spiffe: each identity has one URI, which names it", () => {
  const cases: [Identity, string][] = [
    [{ kind: "orchestrator" }, "spiffe://rbs.test/orchestrator"],
    [{ kind: "agent", agentId: SESSION }, `spiffe://rbs.test/session/${SESSION}/agent`],
    [{ kind: "user", userId: "ann" }, "spiffe://rbs.test/user/ann"],
    [{ kind: "user", userId: "operator/ann" }, "spiffe://rbs.test/user/operator_2fann"],
    [{ kind: "user", userId: "../operator/ann" }, "spiffe://rbs.test/user/.._2foperator_2fann"],
    [{ kind: "operator", name: "ann" }, "spiffe://rbs.test/operator/ann"],
    [{ kind: "operator", name: "a/b" }, "spiffe://rbs.test/operator/a_2fb"],
    [{ kind: "user", userId: "a_b" }, "spiffe://rbs.test/user/a_5fb"],
    [{ kind: "user", userId: ".." }, "spiffe://rbs.test/user/_2e_2e"],
    [{ kind: "user", userId: "jürg@x" }, "spiffe://rbs.test/user/j_c3_bcrg_40x"],
    [{ kind: "user", userId: "\uFEFFa" }, "spiffe://rbs.test/user/_ef_bb_bfa"],
  ];
  for (const [identity, uri] of cases) {
    assert.equal(spiffeUri("rbs.test", identity), uri);
    assert.deepEqual(parseSpiffeUri("rbs.test", uri), identity);
  }
});

Deno.test("spiffe: what is not exactly such a URI is nobody", () => {
  for (
    const uri of [
      "",
      "spiffe://rbs.test",
      "spiffe://rbs.test/",
      "spiffe://rbs.test/user/",
      "spiffe://rbs.test/user/a/b",
      "spiffe://rbs.test/user/operator/ann",
      "spiffe://rbs.test/user/../operator/ann",
      "spiffe://rbs.test/operator",
      "spiffe://rbs.test/operator/",
      "spiffe://rbs.test/operator/ann/",
      "spiffe://rbs.test/operator/ann/user",
      "spiffe://rbs.test/Operator/ann",
      "spiffe://rbs.test/admin/ann",
      "spiffe://other.test/operator/ann",
      "spiffe://rbs.test/user/%61",
      "spiffe://rbs.test/user/_61",
      "spiffe://rbs.test/user/_5F",
      "spiffe://rbs.test/user/_ff",
      "spiffe://rbs.test/user/..",
      "spiffe://rbs.test/user/a?x=1",
      "spiffe://other.test/user/a",
      "spiffe://rbs.test.evil/user/a",
      "SPIFFE://rbs.test/user/a",
      "spiffe://rbs.test/orchestrator/",
      "spiffe://rbs.test/session/0123/agent",
      `spiffe://rbs.test/session/${SESSION.toUpperCase()}/agent`,
      `spiffe://rbs.test/session/${SESSION}/agent/x`,
      `spiffe://rbs.test/user/${"a".repeat(2048)}`,
    ]
  ) assert.equal(parseSpiffeUri("rbs.test", uri), undefined, uri);
});

Deno.test("spiffe: a trust domain that could change the URI's meaning is refused", () => {
  for (const domain of ["", "a/b", "A", "a:1", "a@b"]) {
    assert.throws(() => spiffeUri(domain, { kind: "orchestrator" }), TypeError);
  }
});
