import assert from "node:assert/strict";
import { isRepositoryName } from "./repository_name.ts";

Deno.test("names in external that are no repository's are a server's own", () => {
  for (const name of ["a", "_main~ext~a", "+ext+a", "rules_cc", "a.b-c"]) assert.ok(isRepositoryName(name), name);
  for (const name of ["@a.marker", "@@a.marker", "a.marker", "A.MARKER", "a.recorded_inputs", ".x", "", "a/b", "@a"]) {
    assert.ok(!isRepositoryName(name), name);
  }
});
