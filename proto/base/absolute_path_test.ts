import assert from "node:assert/strict";
import { absolutePath, isAbsolutePath, isAtOrIn, isIn, isInAny, pathFault } from "./absolute_path.ts";

Deno.test("an absolute path says by its text alone where it leads", () => {
  for (const path of ["/a", "/a/b", "/..a/b..", "/a b\n'", "/ä/.b", "/" + "a".repeat(4094)]) {
    assert.equal(absolutePath(path), path);
  }
  const none = ["", "/", "a", "./a", "/a/", "//a", "/a//b", "/.", "/..", "/a/./b", "/a/../b", "/a/..", "/a\0b"];
  for (const path of [...none, "/" + "a".repeat(4095), "/" + "ä".repeat(2048)]) {
    assert(!isAbsolutePath(path), path);
    assert.throws(() => absolutePath(path), (e) => e instanceof RangeError && !e.message.includes("\n"));
  }
  assert.match(pathFault("/a/../b")!, /without "\." and "\.\."/);
});

Deno.test("what lies in a folder is told by whole components", () => {
  assert(isAtOrIn("/a/b", "/a") && isAtOrIn("/a", "/a") && isAtOrIn("/a", "/"));
  assert(!isAtOrIn("/ab", "/a") && !isAtOrIn("/a", "/a/b"));
  assert(isIn("/a/b/c", "/a") && isIn("/a", "/"));
  assert(
    isInAny("/a/b/c", new Set(["/x", "/a"])) && !isInAny("/a", new Set(["/a"])) && !isInAny("/ab", new Set(["/a"])),
  );
  assert(!isIn("/a", "/a") && !isIn("/", "/") && !isIn("/ab", "/a"));
});
