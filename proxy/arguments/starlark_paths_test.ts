import assert from "node:assert/strict";
import { filePath, readStarlark } from "./starlark_paths.ts";

Deno.test("paths that rules are given are found, however they are written", () => {
  const { paths } = readStarlark(`
local_repository(name = "a", path = "/home/ann/a")  # path = "/commented/out"
new_local_repository(
    name = 'b',
    build_file_content = """cc_library(name = "x", path = "/in/a/string")""",
    path='../b',
)
native.local_repository(name = "c", path = r"/c\\d")
maybe(local_repository, name = "d", path = "/d")
local_path_override(module_name = "e", path = "../e",)
git_override(module_name = "f", remote = "/srv/f.git", commit = "0")
git_repository(name = "g", remote = "https://example.com/g.git")
http_archive(name = "h", urls = ["https://example.com/h.zip", "file:///srv/h%20i.zip"])
`);
  assert.deepEqual(paths, [
    { path: "/home/ann/a", rule: "local_repository" },
    { path: "../b", rule: "new_local_repository" },
    { path: "/c\\d", rule: "local_repository" },
    { path: "/d", rule: "maybe" },
    { path: "../e", rule: "local_path_override" },
    { path: "/srv/f.git", rule: "git_override" },
    { path: "/srv/h i.zip", rule: "http_archive" },
  ]);
});

Deno.test("what is computed, or is no rule's path, is not taken for one", () => {
  const text = `
local_repository(name = "a", path = ROOT + "/a")
local_repository(name = "b", path = "/b" + SUFFIX)
local_repository(name = "c", path = "/%s" % C)
local_repository(name = "d", path = "/{}".format(D))
cc_library(name = "e", path = "/e")
path = "/f"
def f(path = "/g"): pass
`;
  assert.deepEqual(readStarlark(text).paths, []);
});

Deno.test("loaded and included files are found", () => {
  const text = `load("//tools:a.bzl", "a")
load(":b.bzl", b = "/b")
include("//c:c.MODULE.bazel")
ext = use_extension("//d:ext.bzl", "ext")
# load("//no:no.bzl", "no")
print("load(", ")")
`;
  assert.deepEqual(readStarlark(text).loads, ["//tools:a.bzl", ":b.bzl", "//c:c.MODULE.bazel", "//d:ext.bzl"]);
});

Deno.test("text that is not Starlark throws nothing", () => {
  for (
    const text of [
      "",
      '"',
      "'''",
      '"""\\',
      "))))",
      "load(",
      'path = "',
      "(".repeat(10_000),
      "\\",
      'r"',
      "\0\udcff#",
      "#".repeat(100_000),
      `x # it's "`,
    ]
  ) {
    assert.deepEqual(readStarlark(text).paths, [], text);
  }
});

Deno.test("only URLs of this machine's files have a path", () => {
  assert.equal(filePath("file:///a%20b"), "/a b");
  assert.equal(filePath("FILE://localhost/a?x#y"), "/a");
  assert.equal(filePath("file:///100%"), "/100%");
  assert.deepEqual([filePath("https:///a"), filePath("file://host/a"), filePath("/a")], [
    undefined,
    undefined,
    undefined,
  ]);
});
