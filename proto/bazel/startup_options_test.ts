import assert from "node:assert/strict";
import { decisiveOptions, startupOption, startupPathFault } from "./startup_options.ts";

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

Deno.test("a path that an option names is in normal form wherever it stands, and as its client writes it", () => {
  const good = ["--output_base=/o", "--output_user_root=/r/", "--install_base=/i", "--default_system_javabase="];
  assert.equal(startupPathFault(["-jar", "a/../b", "-XX:HeapDumpPath=../x", ...good]), undefined);
  for (const bad of ["--output_base=/o/../k", "--install_base=i", "--output_base=", "--output_user_root=/r//x"]) {
    for (const options of [[bad, ...good], [...good, bad]]) {
      assert.match(startupPathFault(options)!, /^The startup option --\w+ must be .*\.$/, bad);
    }
  }
  assert.match(startupPathFault(["--output_base", "/k"])!, /--output_base needs its value behind a "="/);
});
