import assert from "node:assert/strict";
import { MissingInputs } from "./missing_inputs.ts";

function warning(text: string, ignored: string[]): string | undefined {
  const inputs = new MissingInputs();
  inputs.read(new TextEncoder().encode(text));
  return inputs.warning((path) => ignored.includes(path));
}

Deno.test("inputs that stay home are named, however Bazel calls them, and others not", () => {
  const text = `ERROR: /ws/BUILD:3:8: Executing genrule //:miss failed: missing input file '//:ign/x.txt'
ERROR: /ws/a/BUILD:1:8: //a:b: missing input file '//a:data/y'
ERROR: /ws/BUILD:5:8: no such target '//:z.txt': target 'z.txt' not declared in package '' defined by /ws/BUILD
ERROR: no such package 'gone/for': BUILD file not found in any of the following directories.
ERROR: no such package '@@other//pack': The repository could not be resolved`;
  const all = ["ign/x.txt", "a/data/y", "z.txt", "gone/for"];
  assert.equal(
    warning(text, all),
    'ign/x.txt, a/data/y, z.txt, gone/for stay on this machine because of .rbsignore: remove the rule, or add one with "!" for what the build needs.',
  );
  assert.match(warning(text, ["a/data/y"])!, /^a\/data\/y stays on this machine because of \.rbsignore: /);
  assert.equal(warning(text, []), undefined);
  assert.equal(warning("nothing is missing", all), undefined);
});

Deno.test("not more is looked for than a person would read", () => {
  const text = Array.from({ length: 1_000 }, (_, i) => `missing input file '//:${i}'\n`).join("");
  assert.equal(warning(text, Array.from({ length: 1_000 }, (_, i) => String(i)))!.split(", ").length, 21);
});

Deno.test("what leads out of the workspace is not looked for, whoever says it", () => {
  const inputs = new MissingInputs();
  const paths = ["../../etc/passwd", "a/../../b", "/etc/passwd", "./x", "a//b", ".", "..", "a/.."];
  inputs.read(new TextEncoder().encode(paths.map((path) => `missing input file '${path}'\n`).join("")));
  assert.equal(inputs.warning(() => true), undefined);
});
