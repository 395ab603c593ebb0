import assert from "node:assert/strict";
import { readSettings } from "./settings.ts";

Deno.test("an address is HOST:PORT, or refused by name", () => {
  for (const good of ["localhost:1", "10.0.0.1:65535", "[::1]:50051", "a-b.example:443", "a:1,[::1]:2"]) {
    assert.equal(readSettings({ orchestrator: good, stateDir: "/s" }).orchestrator, good);
  }
  for (
    const bad of [
      "localhost",
      "localhost:",
      "localhost:0",
      "localhost:65536",
      "::1:5",
      "http://x:1",
      "a b:1",
      ":1",
      "a:1,b",
    ]
  ) {
    assert.throws(() => readSettings({ orchestrator: bad, stateDir: "/s" }), /RBS_ORCHESTRATOR_ADDR must be HOST:PORT/);
  }
  assert.throws(() => readSettings({ stateDir: "relative" }), /absolute/);
});
