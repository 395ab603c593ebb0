import assert from "node:assert/strict";
import { OrchestratorAddresses } from "./orchestrator_addresses.ts";

Deno.test("each orchestrator is tried once, beginning with the one that answered last", () => {
  const addresses = new OrchestratorAddresses("a:1, [::1]:2,c:3,");
  assert.deepEqual(addresses.all, ["a:1", "[::1]:2", "c:3"]);
  assert.equal(addresses.current, "a:1");
  assert.equal(addresses.next(), true);
  assert.equal(addresses.current, "[::1]:2");
  addresses.answered();
  assert.deepEqual([addresses.next(), addresses.current], [true, "c:3"]);
  assert.deepEqual([addresses.next(), addresses.current], [true, "a:1"]);
  assert.deepEqual([addresses.next(), addresses.current], [false, "[::1]:2"]);
  assert.deepEqual([addresses.next(), addresses.current], [true, "c:3"]);
  assert.equal(String(addresses), "a:1 or [::1]:2 or c:3");
});

Deno.test("of one orchestrator there is no next", () => {
  const addresses = new OrchestratorAddresses("a:1");
  assert.deepEqual([addresses.next(), addresses.next(), addresses.current], [false, false, "a:1"]);
  assert.equal(new OrchestratorAddresses("").current, "");
});
