import assert from "node:assert/strict";
import { isGone } from "./local_probe.ts";

Deno.test("a neighbour is gone when its port is closed, and for no other reason", async () => {
  for (const hostname of ["127.0.0.1", "::1"]) {
    const listener = Deno.listen({ hostname, port: 0 });
    const address = hostname.includes(":")
      ? `[${hostname}]:${listener.addr.port}`
      : `${hostname}:${listener.addr.port}`;
    assert.equal(await isGone(address), false);
    listener.close();
    assert.equal(await isGone(address), true);
  }
  assert.equal(await isGone(""), false);
  assert.equal(await isGone("no.such.host.invalid:1"), false);
});
