import assert from "node:assert/strict";
import { formatHostPort, parseHostPort } from "./host_port.ts";

Deno.test("an address is taken apart and put together again", () => {
  for (
    const [address, host, port] of [
      ["localhost:50051", "localhost", 50051],
      ["127.0.0.1:0", "127.0.0.1", 0],
      ["[::1]:65535", "::1", 65535],
      [":80", "", 80],
    ] as const
  ) {
    assert.deepEqual(parseHostPort(address), { host, port });
    assert.equal(formatHostPort(host, port), address);
  }
});

Deno.test("what is no address is none", () => {
  for (const text of ["", "localhost", "localhost:", "::1:80", "[::1]", "a:b:1", "localhost:65536", "localhost:-1"]) {
    assert.equal(parseHostPort(text), undefined, text);
  }
});
