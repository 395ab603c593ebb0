import assert from "node:assert/strict";
import { tempDir } from "../../tests/support/temp_dir.ts";
import { Beneath } from "./beneath.ts";
import { openOrMake } from "./open_or_make.ts";

Deno.test("what is missing is made beneath the folder that was looked at", async () => {
  await using directory = await tempDir();
  const path = directory.join("a/b/c");
  assert.equal(openOrMake(path, false, () => {}), undefined);
  using folder = openOrMake(path, true, () => {});
  folder!.writeNew("file", new TextEncoder().encode("x"), 0o600, 0);
  assert.equal(Deno.readTextFileSync(`${path}/file`), "x");
  using again = openOrMake(path, false, () => {});
  assert.deepEqual([...again!.names("")], ["file"]);
});

Deno.test("nothing is made where a symlink leads out of what a session may write", async () => {
  await using directory = await tempDir();
  for (const name of ["own", "other"]) Deno.mkdirSync(directory.join(name));
  using own = Beneath.open(directory.join("own"));
  const check = (folder: Beneath) => {
    if (!folder.isIn([own])) throw new Error("it leads out");
  };
  Deno.symlinkSync("../other", directory.join("own/link"));
  assert.throws(() => openOrMake(directory.join("own/link/made"), true, check), /leads out/);
  assert.deepEqual([...Deno.readDirSync(directory.join("other"))], []);
  openOrMake(directory.join("own/made"), true, check)![Symbol.dispose]();
  assert.ok(Deno.statSync(directory.join("own/made")).isDirectory);
});

Deno.test("a file in the way is an error, and stays", async () => {
  await using directory = await tempDir();
  Deno.writeTextFileSync(directory.join("file"), "kept");
  assert.throws(() => openOrMake(directory.join("file/below"), true, () => {}));
  assert.equal(Deno.readTextFileSync(directory.join("file")), "kept");
});
