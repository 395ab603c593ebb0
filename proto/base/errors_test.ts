import assert from "node:assert/strict";
import { appendFileSync } from "node:fs";
import { isDiskFull, systemCode } from "./errors.ts";

Deno.test("what the system refuses is known by its code, whoever asked it", () => {
  const thrown = (act: () => void): unknown => {
    try {
      act();
    } catch (e) {
      return e;
    }
  };
  using full = Deno.openSync("/dev/full", { write: true });
  assert.equal(isDiskFull(thrown(() => full.writeSync(new Uint8Array(1)))), true);
  assert.equal(isDiskFull(thrown(() => appendFileSync("/dev/full", "x"))), true);
  assert.equal(isDiskFull(thrown(() => Deno.statSync("/none"))), false);
  assert.equal(systemCode(thrown(() => Deno.statSync("/none"))), "ENOENT");
  for (const other of [new Error("No space left on device"), undefined, "ENOSPC"]) {
    assert.equal(isDiskFull(other), false);
  }
});
