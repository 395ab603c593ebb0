import assert from "node:assert/strict";
import { isWholeOutput } from "./whole_output.ts";

Deno.test("a folder comes home as a whole if it is an output or of a repository, and not if many outputs are in it", () => {
  const out = "execroot/ws/bazel-out";
  for (const path of [`${out}/k8/bin/tree`, `${out}/k8/testlogs/t/test.outputs`, "external/npm", "external/npm/foo"]) {
    assert.ok(isWholeOutput(path), path);
  }
  for (const path of ["execroot/ws/external/npm", "execroot/ws/pkg"]) assert.ok(isWholeOutput(path), path);
  for (
    const path of ["execroot", "execroot/ws", out, `${out}/k8`, `${out}/k8/bin`, "external", "execroot/ws/external"]
  ) {
    assert.ok(!isWholeOutput(path), path);
  }
  for (const path of ["", "server/x/y", "rbs/external/x"]) assert.ok(!isWholeOutput(path), path);
});
