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

Deno.test("that nothing listens is certain where this machine refuses connections, and nowhere else", async () => {
  const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const { port } = listener.addr as Deno.NetAddr;
  const [there, gone] = [`127.0.0.1:${port}`, "localhost:1"];
  const areRefused = (text: string) => new OrchestratorAddresses(text).areRefused();
  assert.deepEqual(await Promise.all([gone, there, `${gone},${there}`, `${gone},192.0.2.1:1`].map(areRefused)), [
    true,
    false,
    false,
    false,
  ]);
  listener.close();
});
