import assert from "node:assert/strict";
import { findWorkspace, repoHash, WORKSPACE_MARKERS } from "./workspace.ts";
import { tempDirSync } from "../../tests/support/temp_dir.ts";

for (
  const [path, hash] of [
    ["/", "6666cd76f96956469e7be39d750cc7d9"],
    ["/home/ann/src/app", "69919a04c9b7036b212c37915acadf87"],
    ['/home/ann/my work/it\'s "here"', "a3c0a3d14641e02f7f4199c47eeed9f4"],
    ["/home/ann/line\nbreak", "f92397070146a637378fb4006f2a9781"],
    ["/home/ann/größe/日本", "22455afb8bd2f01fb662c3205b14d42c"],
  ]
) {
  Deno.test(`the RepoHash of ${JSON.stringify(path)} is ${hash}`, () => assert.equal(repoHash(path), hash));
}

for (const marker of WORKSPACE_MARKERS) {
  Deno.test(`a workspace is found by its ${marker} from any folder in it`, () => {
    using top = tempDirSync();
    const deep = top.join("a", "b");
    Deno.mkdirSync(deep, { recursive: true });
    Deno.writeTextFileSync(top.join(marker), "");
    assert.equal(findWorkspace(deep), top.path);
    assert.equal(findWorkspace(top.path), top.path);
  });
}

Deno.test("the nearest workspace wins, and a folder named WORKSPACE is none", () => {
  using top = tempDirSync();
  Deno.mkdirSync(top.join("inner", "x", "WORKSPACE"), { recursive: true });
  Deno.writeTextFileSync(top.join("MODULE.bazel"), "");
  Deno.writeTextFileSync(top.join("inner", "WORKSPACE.bazel"), "");
  assert.equal(findWorkspace(top.join("inner", "x")), top.join("inner"));
  assert.equal(findWorkspace(top.path), top.path);
});

Deno.test("outside of any workspace there is none", () => assert.equal(findWorkspace("/proc"), undefined));
