import assert from "node:assert/strict";
import { makeExpectedNames } from "./expected_names.ts";

Deno.test("what tools look for in an output base is made, and what is there stays", () => {
  const outputBase = Deno.makeTempDirSync({ prefix: "rbs-expected-" });
  try {
    Deno.writeTextFileSync(`${outputBase}/README`, "Bazel's own");
    for (let i = 0; i < 2; i++) makeExpectedNames(outputBase, "/home/ann/ws");
    const names = [...Deno.readDirSync(outputBase)].map(({ name }) => name).sort();
    assert.deepEqual(names, ["DO_NOT_BUILD_HERE", "README", "execroot", "external", "java.log"]);
    assert.equal(Deno.readTextFileSync(`${outputBase}/README`), "Bazel's own");
    assert.equal(Deno.readTextFileSync(`${outputBase}/DO_NOT_BUILD_HERE`), "/home/ann/ws");
    assert.equal(Deno.readLinkSync(`${outputBase}/java.log`), "server/jvm.out");
    // A name that an agent has taken is no reason to fail.
    Deno.removeSync(`${outputBase}/execroot`, { recursive: true });
    Deno.symlinkSync("elsewhere", `${outputBase}/execroot`);
    makeExpectedNames(outputBase, "/home/ann/ws");
  } finally {
    Deno.removeSync(outputBase, { recursive: true });
  }
});
