import assert from "node:assert/strict";
import { CHECKS, type DoctorContext } from "./checks.ts";
import { nextStep, renderReport } from "./doctor_report.ts";
import { TestPlace } from "./fake_services.ts";

Deno.test("the command lines of the report do not steer the terminal, whatever files are called", async () => {
  using place = new TestPlace();
  const name = "x\x1b]0;owned\x07.rc";
  Deno.writeTextFileSync(`${place.workspace}/${name}`, "startup --server_javabase=/nowhere\n");
  Deno.writeTextFileSync(`${place.workspace}/.bazelrc`, `import "%workspace%/${name}"\n`);
  const [, check] = CHECKS.find(([name]) => name === "bazelrc")!;
  const context: Partial<DoctorContext> = {
    workingDirectory: place.workspace,
    javabase: "/j",
    self: "jbazel",
    env: (name) => name === "HOME" ? place.root : undefined,
    systemRcFiles: [],
    run: () => Promise.reject(new Error("no program is run")),
  };
  const finding = { name: "bazelrc", ...await check(context as DoctorContext) };
  assert.ok(finding.command?.includes("owned"), "the file is named");
  const lines = renderReport([finding], nextStep([finding], { self: "jbazel", workingDirectory: place.workspace }));
  assert.equal(lines.join("\n").includes("\x1b"), false);
});
