import assert from "node:assert/strict";
import { networkOf } from "./network.ts";

Deno.test("all addresses of a network are one, however they are written", () => {
  const networks = [
    ["2001:db8::5", "2001:db8::6", "2001:0db8:0:0:1:2:3:4", "2001:db8:0:0:ffff::"],
    ["2001:db8:0:1::5", "2001:db8:0:1:a:b:c:d"],
    ["fe80::1%eth0", "fe80::2%eth1", "fe80::a:b"],
    ["::1", "::2", "::"],
    ["1:2:3:4:5:6:7:8", "1:2:3:4::"],
    ["10.0.0.1"],
    ["10.0.0.2"],
    ["::ffff:10.0.0.2"],
  ];
  const names = networks.map((addresses) => [...new Set(addresses.map(networkOf))]);
  for (const [i, found] of names.entries()) assert.equal(found.length, 1, networks[i].join());
  assert.equal(new Set(names.flat()).size, networks.length);
});
