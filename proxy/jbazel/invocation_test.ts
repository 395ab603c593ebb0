import assert from "node:assert/strict";
import { parseInvocation, readsStdin } from "./invocation.ts";

Deno.test("only the first word tells jbazel's own command lines from Bazel's", () => {
  assert.equal(parseInvocation([]).kind, "help");
  assert.equal(parseInvocation(["--help"]).kind, "help");
  assert.equal(parseInvocation(["--version"]).kind, "version");
  assert.deepEqual(parseInvocation(["setup", "--home"]), { kind: "verb", verb: "setup", args: ["--home"] });
  for (
    const args of [
      ["help"],
      ["version"],
      ["shutdown"],
      ["build", "--help"],
      ["--host_jvm_args=-Xmx1g", "setup"],
      [""],
      [
        "run",
        "//:x",
        "--",
        "doctor",
        "",
        "a b",
      ],
    ]
  ) {
    assert.deepEqual(parseInvocation(args), { kind: "bazel", args });
  }
});

Deno.test("only what may read standard input gets it", () => {
  for (const args of [["run", "//:x"], ["--batch", "run"], ["a-command-of-2030"]]) assert.ok(readsStdin(args));
  for (const args of [["build"], ["--nohome_rc", "query", "//..."], [], ["test", "--", "run"]]) {
    assert.ok(!readsStdin(args));
  }
});
