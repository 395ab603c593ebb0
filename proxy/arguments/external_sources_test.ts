import assert from "node:assert/strict";
import { RbsError } from "../../proto/base/errors.ts";
import { externalSources } from "./external_sources.ts";

Deno.test("RBS_EXTERNAL_SOURCES is a list of repositories, or all of them", () => {
  assert.deepEqual(
    [undefined, "", "*", "rules_go,@gazelle", "@@a+b~c, a+b~c"].map(externalSources),
    [[], [], ["*"], ["rules_go", "gazelle"], ["a+b~c"]],
  );
});

Deno.test("what is no repository's name is one sentence, and Bazel's exit code for usage", () => {
  for (const value of ["../x", "a/b", "x.marker", "\x1b[31m", "@", "x,".repeat(10_000)]) {
    assert.throws(() => externalSources(value), (e) => {
      assert(e instanceof RbsError && e.exitCode === 2 && e.culprit === "caller");
      assert.match(e.message, /^RBS_EXTERNAL_SOURCES names no external repository with [ -~]{1,60}: .*\.$/);
      return true;
    });
  }
});
