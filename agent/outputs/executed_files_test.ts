import assert from "node:assert/strict";
import { encodeFields } from "../../proto/base/protobuf_fields.ts";
import { executedFiles, filesOfScript } from "./executed_files.ts";

const request = (directory: string, argv: string[], environment: [string, string][] = []) =>
  encodeFields([
    [1, directory],
    ...argv.map((arg) => [2, arg] as [number, string]),
    ...environment.map((pair) => [3, encodeFields([[1, pair[0]], [2, pair[1]]])] as [number, Uint8Array]),
  ]);

Deno.test("a program is found in the command line of a shell", () => {
  const files = executedFiles(request("/o/t.runfiles/ws", ["/bin/bash", "-c", "'/o/a b/it'\\''s' 'x y' --in=/o/c"]));
  for (const path of ["/o/t.runfiles/ws", "/bin/bash", "/o/a b/it's", "/o/c"]) assert.ok(files.has(path), path);
});

Deno.test("a program is found below another (--run_under), and as an argument by itself", () => {
  const under = "/bin/bash -c '/o/under --x \"/o/the tool\" '";
  const files = executedFiles(request("/", ["/bin/bash", "-c", under, "/o/plain; not a shell's"]));
  for (const path of ["/o/under", "/o/the tool", "/o/plain; not a shell's"]) assert.ok(files.has(path), path);
});

Deno.test("relative names, as of a test that is run, are those of the folder that it runs in", () => {
  const files = executedFiles(
    request("/o/execroot", ["/bin/bash", "-c", "external/tools/setup.sh pkg/test"], [["RUNFILES_DIR", "bazel-out/r"]]),
  );
  for (const name of ["external/tools/setup.sh", "pkg/test", "bazel-out/r"]) {
    assert.ok(files.has(`/o/execroot/${name}`), name);
  }
});

Deno.test("a --script_path file names what it executes", () => {
  const files = filesOfScript(
    "#!/bin/bash\ncd /o/t.runfiles/ws && \\\n  exec env \\\n    A=/o/a \\\n  /o/t 'b' \"$@\"",
  );
  for (const path of ["/o/t.runfiles/ws", "/o/a", "/o/t"]) assert.ok(files.has(path), path);
});

Deno.test("quotes without an end, and endless nesting, do no harm", () => {
  for (
    const text of ["'/o/a", '"/o/a', "\\", "/o/a\\", "''", "\"'\"'\"'/o/a", "(".repeat(10_000), "'".repeat(10_001)]
  ) {
    filesOfScript(text);
  }
  let nested = "/o/a b";
  for (let i = 0; i < 10; i++) nested = `sh -c "${nested.replaceAll(/["\\]/g, "\\$&")}"`;
  filesOfScript(nested);
});
