import assert from "node:assert/strict";
import { DeveloperPaths } from "./developer_paths.ts";

const paths = new DeveloperPaths({
  outputBase: "/home/ann/.cache/ob",
  storageOutputBase: () => "out",
});

Deno.test("the developer's paths are kept in the session's storage", () => {
  assert.equal(paths.storagePath("/home/ann/ws/BUILD"), "root/home/ann/ws/BUILD");
  assert.equal(paths.storagePath("/home"), "root/home");
  assert.equal(paths.storagePath("/varieties"), "root/varieties");
  assert.equal(paths.storagePath("/home/ann/.cache/ob"), "out");
  assert.equal(paths.storagePath("/home/ann/.cache/ob/execroot/x"), "out/execroot/x");
  assert.equal(paths.storagePath("/home/ann/.cache/ob2"), "root/home/ann/.cache/ob2");
});

Deno.test("what is the agent machine's own is kept nowhere", () => {
  for (const path of ["/usr/lib/x", "/etc", "/proc/self/environ", "/var/lib", "/", ""]) {
    assert.equal(paths.storagePath(path), undefined, path);
  }
});

Deno.test("a path that is none is kept nowhere", () => {
  for (
    const path of ["home", "../x", "/home/../etc/passwd", "/home/./x", "/home//x", "/home/", "/home/\0", "//etc/x"]
      .concat(["/home/ann/.cache/ob/../../../../../etc/passwd", "/home/ann/.cache/ob//x", "/home/ann/.cache/ob/"])
  ) assert.equal(paths.storagePath(path), undefined, path);
});

Deno.test("a root that cannot be had is refused with a sentence", () => {
  assert.equal(paths.refusal("/home/ann/ws"), undefined);
  assert.equal(paths.refusal("/tmp/x"), undefined);
  assert.match(paths.refusal("/usr/share/bazel")!, /^\/usr\/share\/bazel cannot be sent .* where \/usr is/);
  assert.match(paths.refusal("/lib64")!, /\/lib64 is the machine's own/);
  assert.match(paths.refusal("/")!, /^All of \/ cannot be sent/);
  assert.match(paths.refusal("/home/ann/.cache/ob")!, /lies in the output base/);
  assert.match(paths.refusal("/home/ann/.cache/ob/external/x")!, /lies in the output base/);
  assert.match(paths.refusal("/a/../b")!, /no absolute path/);
});
