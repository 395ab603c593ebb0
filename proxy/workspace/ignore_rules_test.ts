import assert from "node:assert/strict";
import { IGNORE_FILE, IgnoreRules } from "./ignore_rules.ts";
import { tempDirSync } from "../../tests/support/temp_dir.ts";

function workspace() {
  const temp = tempDirSync(), { path } = temp;
  return {
    path,
    write: (text: string | Uint8Array) =>
      Deno.writeFileSync(`${path}/${IGNORE_FILE}`, typeof text === "string" ? new TextEncoder().encode(text) : text),
    load: (previous?: IgnoreRules) => IgnoreRules.load(path, "/out/base", previous),
    [Symbol.dispose]: temp[Symbol.dispose],
  };
}

Deno.test("without a file, only .git stays home", () => {
  using ws = workspace();
  const rules = ws.load();
  assert.equal(rules.skips(".git", "directory"), true);
  assert.equal(rules.skips("third_party/lib/.git", "file"), true);
  for (const path of [".github", ".gitignore", "x.git", "git", "a/.gitmodules"]) {
    assert.equal(rules.skips(path, "directory"), false, path);
  }
});

Deno.test("the file has gitignore's own syntax", () => {
  using ws = workspace();
  ws.write("# ours\n*.log\n!keep.log\n/build/\n/docs/**/*.pdf\nCase\n\\#odd\n");
  const rules = ws.load();
  const expected: [string, "file" | "directory", boolean][] = [
    ["a.log", "file", true],
    ["a/b/c.log", "file", true],
    ["a/keep.log", "file", false],
    ["build", "directory", true],
    ["build", "file", false],
    ["a/build", "directory", false],
    ["docs/a/b/c.pdf", "file", true],
    ["c.pdf", "file", false],
    ["Case", "file", true],
    ["case", "file", false],
    ["#odd", "file", true],
    [".git", "directory", true],
    ["raw\udcff.log", "file", true],
  ];
  for (const [path, kind, skipped] of expected) assert.equal(rules.skips(path, kind), skipped, path);
});

Deno.test("!.git takes the default rule back", () => {
  using ws = workspace();
  ws.write("!.git\n");
  assert.equal(ws.load().skips(".git", "directory"), false);
});

Deno.test("links into an execroot or the output base stay home, if Bazel would have made them there", () => {
  using ws = workspace();
  const rules = ws.load();
  const skips = (path: string, target: string) => rules.skips(path, "symlink", target);
  assert.equal(skips("bazel-out", "/elsewhere/execroot/_main/bazel-out"), true);
  assert.equal(skips("bazel-ws", "/elsewhere/execroot/_main"), true);
  assert.equal(skips("my-bin", "/out/base/execroot/_main/bazel-out/k8/bin"), true);
  assert.equal(skips("bazel-notes", "docs/bazel"), false);
  assert.equal(skips("link", "/out/based"), false);
  assert.equal(skips("sub/bazel-out", "/out/base/execroot/_main/bazel-out"), false);
  assert.equal(rules.skips("bazel-out", "directory"), false);
});

Deno.test("a file that cannot be understood is an error that names it", () => {
  using ws = workspace();
  ws.write(Uint8Array.of(0xc3, 0x28));
  assert.throws(() => ws.load(), { name: "RbsError", message: /\.rbsignore is not UTF-8: fix or remove it/ });
  Deno.removeSync(`${ws.path}/${IGNORE_FILE}`);
  Deno.mkdirSync(`${ws.path}/${IGNORE_FILE}`);
  assert.throws(() => ws.load(), { name: "RbsError", message: /\.rbsignore is not a file: fix or remove it/ });
});

Deno.test("rules are the same until their text is another one", () => {
  using ws = workspace();
  const none = ws.load();
  ws.write("a\n");
  const a = ws.load(none);
  assert.equal(a.same(none), false);
  assert.equal(ws.load(a).same(a), true);
  ws.write("b\n");
  assert.equal(ws.load(a).same(a), false);
  Deno.removeSync(`${ws.path}/${IGNORE_FILE}`);
  assert.equal(ws.load(a).same(none), true);
});
