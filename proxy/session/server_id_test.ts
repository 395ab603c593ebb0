import assert from "node:assert/strict";
import { serverId } from "./server_id.ts";
import { tempDirSync } from "../../tests/support/temp_dir.ts";

Deno.test("a server id stands for machine and output base, and its first half for the machine", () => {
  const ids = ["a", "b"].map((machine) => ["/one", "/two"].map((base) => serverId(machine, base)));
  for (const id of ids.flat()) assert.match(id, /^[0-9a-f]{16}$/);
  assert.equal(new Set(ids.flat()).size, 4);
  assert.deepEqual(ids.map((of) => new Set(of.map((id) => id.slice(0, 8))).size), [1, 1]);
  assert.notEqual(ids[0][0].slice(0, 8), ids[1][0].slice(0, 8));
  assert.equal(serverId("a", "/one"), ids[0][0]);
});

Deno.test("an output base has one server, whatever links lead to it", () => {
  using top = tempDirSync();
  Deno.mkdirSync(top.join("real"));
  Deno.symlinkSync("real", top.join("link"));
  assert.equal(serverId("a", top.join("link/base")), serverId("a", top.join("real/base")));
});
