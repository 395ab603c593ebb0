import assert from "node:assert/strict";
import { makeExpectedNames } from "./expected_names.ts";
import { tempDirSync } from "../../tests/support/temp_dir.ts";

Deno.test("what tools look for in an output base is made, and what is there stays", () => {
  using outputBase = tempDirSync();
  Deno.writeTextFileSync(`${outputBase.path}/README`, "Bazel's own");
  for (let i = 0; i < 2; i++) makeExpectedNames(outputBase.path, "/home/ann/ws");
  const names = [...Deno.readDirSync(outputBase.path)].map(({ name }) => name).sort();
  assert.deepEqual(names, ["DO_NOT_BUILD_HERE", "README", "execroot", "external", "java.log"]);
  assert.equal(Deno.readTextFileSync(`${outputBase.path}/README`), "Bazel's own");
  assert.equal(Deno.readTextFileSync(`${outputBase.path}/DO_NOT_BUILD_HERE`), "/home/ann/ws");
  assert.equal(Deno.readLinkSync(`${outputBase.path}/java.log`), "server/jvm.out");
  // A name that an agent has taken is no reason to fail.
  Deno.removeSync(`${outputBase.path}/execroot`, { recursive: true });
  Deno.symlinkSync("elsewhere", `${outputBase.path}/execroot`);
  makeExpectedNames(outputBase.path, "/home/ann/ws");
});
