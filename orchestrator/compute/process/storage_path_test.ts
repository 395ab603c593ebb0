import assert from "node:assert/strict";
import { classArchiveDirectory, safeComponent, storageDirectory } from "./storage_path.ts";

Deno.test("user ids become different single path components of at most 255 bytes", () => {
  const ids = [
    "ann",
    "ANN",
    "a/b",
    "a%2Fb",
    ".",
    "..",
    ".ann",
    "a.b",
    "ä",
    "Ann Lee",
    "x".repeat(128),
    "€".repeat(128),
  ];
  ids.push("€".repeat(127) + "x");
  const components = ids.map(safeComponent);
  assert.equal(new Set(components).size, ids.length);
  for (const component of components) {
    assert.match(component, /^[A-Za-z0-9_@+%-][A-Za-z0-9_@+%.-]*$/);
    assert(component.length <= 255);
  }
  assert.equal(safeComponent("ann.lee@example.com"), "ann.lee@example.com");
  assert.equal(storageDirectory("/s", { userId: "..", repoHash: "f", serverId: "" }), "/s/%2E./f");
  assert.equal(storageDirectory("/s", { userId: "..", repoHash: "f", serverId: "a" }), "/s/%2E./f-a");
});

Deno.test("the class-data archives of a user lie beside the user's sessions, and are no session's", () => {
  const session = storageDirectory("/s", { userId: "ann", repoHash: "f", serverId: "a" });
  assert.equal(classArchiveDirectory(session), "/s/ann/.classes");
});
