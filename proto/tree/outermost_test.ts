import assert from "node:assert/strict";
import { OutermostFolders } from "./outermost.ts";

Deno.test("a path belongs to the outermost folder that holds it, and to none by its name alone", () => {
  const folders = new OutermostFolders(new Set(["out/tool.runfiles", "out/tool.runfiles/ws/tree", "out/lib"]));
  assert.equal(folders.of("out/tool.runfiles/ws/tree/leaf"), "out/tool.runfiles");
  assert.equal(folders.of("out/tool.runfiles"), "out/tool.runfiles");
  assert.equal(folders.of("out/lib/a/b/c"), "out/lib");
  assert.equal(folders.of("out/library/a"), undefined);
  assert.equal(folders.of("out"), undefined);
  assert.equal(new OutermostFolders(new Set(["/ob"])).of("/ob/x"), "/ob");
  assert.equal(new OutermostFolders(new Set()).of("/ob/x"), undefined);
});
