import assert from "node:assert/strict";
import { tempDir } from "../../tests/support/temp_dir.ts";
import { exists, isFile, isFolder } from "./files.ts";

Deno.test("a file, a folder and links to them are told apart from what is not there", async () => {
  await using directory = await tempDir();
  const at = (name: string) => directory.join(name);
  Deno.writeTextFileSync(at("file"), "");
  Deno.mkdirSync(at("folder"));
  for (const to of ["file", "folder", "nowhere"]) Deno.symlinkSync(at(to), at(`to-${to}`));
  const seen = (name: string) => [exists(at(name)), isFile(at(name)), isFolder(at(name))];
  assert.deepEqual(seen("file"), [true, true, false]);
  assert.deepEqual(seen("folder"), [true, false, true]);
  assert.deepEqual(seen("to-file"), [true, true, false]);
  assert.deepEqual(seen("to-folder"), [true, false, true]);
  assert.deepEqual(seen("to-nowhere"), [true, false, false]);
  assert.deepEqual(seen("nowhere"), [false, false, false]);
  assert.deepEqual(seen("file/below"), [false, false, false]);
});
