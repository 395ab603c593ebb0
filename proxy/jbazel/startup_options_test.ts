import assert from "node:assert/strict";
import { TestPlace } from "./fake_services.ts";
import { findStartupOptions } from "./startup_options.ts";

async function find(lines: string, imported: string, label?: string) {
  using place = new TestPlace();
  Deno.writeTextFileSync(`${place.workspace}/.bazelrc`, lines);
  Deno.writeTextFileSync(`${place.workspace}/more.rc`, imported);
  const warnings: string[] = [];
  let asked = 0;
  const options = await findStartupOptions({
    workspace: place.workspace,
    home: place.root,
    systemRcFiles: [],
    bazelLabel: () => (asked++, Promise.resolve(label)),
    warn: (sentence) => warnings.push(sentence),
  });
  return { options: options.map((o) => o.option), warnings, asked };
}

const LINE = "try-import-if-bazel-version >=9.0.0 %workspace%/more.rc\n";

Deno.test("Bazel is asked for its version only where a line depends on it", async () => {
  assert.deepEqual(await find("startup --x=1\n", ""), { options: ["--x=1"], warnings: [], asked: 0 });
  const followed = await find(LINE, "startup --output_base=/o\n", "9.0.0");
  assert.deepEqual(followed, { options: ["--output_base=/o"], warnings: [], asked: 1 });
  assert.deepEqual((await find(LINE, "startup --output_base=/o\n", "no_version")).options, []);
});

Deno.test("a line that cannot be followed is told once, and only if it names what matters here", async () => {
  const { warnings, options } = await find(LINE + LINE, "startup --output_base=/o\n");
  assert.deepEqual(options, []);
  assert.equal(warnings.length, 1);
  assert.match(
    warnings[0],
    /^"try-import-if-bazel-version >=9\.0\.0 %workspace%\/more\.rc" in .*\.bazelrc was not followed/,
  );
  assert.match(warnings[0], /: --output_base of that file/);
  assert.deepEqual((await find(LINE, "startup --host_jvm_args=-Xmx1g\nbuild --x\n")).warnings, []);
});
