import assert from "node:assert/strict";
import { startupOptionsHash } from "./startup_options_hash.ts";

Deno.test("the hash does not depend on the order of options, but on how often each is there", () => {
  assert.equal(startupOptionsHash(["--a", "--b"]), startupOptionsHash(["--b", "--a"]));
  assert.notEqual(startupOptionsHash(["--a"]), startupOptionsHash(["--a", "--a"]));
  assert.notEqual(startupOptionsHash(["--a", "--b"]), startupOptionsHash(["--a\0--b", "x"]));
  assert.equal(startupOptionsHash([]), "");
  assert.match(startupOptionsHash(["--max_idle_secs=1"]), /^[0-9a-f]{64}$/);
});

Deno.test("options that a client ignores when it compares servers do not count", () => {
  const volatile = [
    "--option_sources=x:y",
    "--max_idle_secs=5",
    "--connect_timeout_secs=30",
    "--local_startup_timeout_secs=120",
    "--client_debug=true",
    "--preemptible=false",
    "-XX:HeapDumpPath=/x",
  ];
  assert.equal(startupOptionsHash(["--a", ...volatile]), startupOptionsHash(["--a"]));
  assert.notEqual(startupOptionsHash(["--a", "-XX:+HeapDumpOnOutOfMemoryError"]), startupOptionsHash(["--a"]));
});

Deno.test("a caller that takes any server may name an output base", () => {
  assert.equal(startupOptionsHash(["--output_base=/ob"]), "");
});
