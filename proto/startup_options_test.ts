import assert from "node:assert/strict";
import { decisiveOptions, startupOption } from "./startup_options.ts";

Deno.test("an option's last value counts, and values may hold anything", () => {
  const options = ["-cp", "a:b", "--output_base=/x", "--output_base=/y=z", "--batch"];
  assert.equal(startupOption(options, "output_base"), "/y=z");
  assert.equal(startupOption(options, "output"), undefined);
  assert.equal(startupOption(options, "batch"), undefined);
});

Deno.test("what decides about a server is a multiset without the options that a client ignores", () => {
  assert.deepEqual(decisiveOptions(["--b", "--max_idle_secs=5", "--a", "-XX:HeapDumpPath=/x", "--b"]), [
    "--a",
    "--b",
    "--b",
  ]);
});
