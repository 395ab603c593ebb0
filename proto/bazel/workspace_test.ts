import assert from "node:assert/strict";
import { join } from "node:path";
import { findWorkspace, repoHash, WORKSPACE_MARKERS } from "./workspace.ts";

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
    const top = Deno.realPathSync(Deno.makeTempDirSync());
    try {
      const deep = join(top, "a", "b");
      Deno.mkdirSync(deep, { recursive: true });
      Deno.writeTextFileSync(join(top, marker), "");
      assert.equal(findWorkspace(deep), top);
      assert.equal(findWorkspace(top), top);
    } finally {
      Deno.removeSync(top, { recursive: true });
    }
  });
}

Deno.test("the nearest workspace wins, and a folder named WORKSPACE is none", () => {
  const top = Deno.realPathSync(Deno.makeTempDirSync());
  try {
    Deno.mkdirSync(join(top, "inner", "x", "WORKSPACE"), { recursive: true });
    Deno.writeTextFileSync(join(top, "MODULE.bazel"), "");
    Deno.writeTextFileSync(join(top, "inner", "WORKSPACE.bazel"), "");
    assert.equal(findWorkspace(join(top, "inner", "x")), join(top, "inner"));
    assert.equal(findWorkspace(top), top);
  } finally {
    Deno.removeSync(top, { recursive: true });
  }
});

Deno.test("outside of any workspace there is none", () => assert.equal(findWorkspace("/proc"), undefined));
