import assert from "node:assert/strict";
import { storageFolder } from "./storage_folder.ts";
import { tempDir } from "../../tests/support/temp_dir.ts";

Deno.test("each output base of a workspace has a folder of its own, the same one each time", async () => {
  await using top = await tempDir();
  const storage = `${top.path}/ann/hash`;
  assert.equal(storageFolder(storage, "/home/ann/ob"), `${storage}/out`);
  const other = storageFolder(storage, "/home/ann/other\nob");
  assert.match(other, /\/out-[0-9a-f]{12}$/);
  assert.equal(storageFolder(storage, "/home/ann/ob"), `${storage}/out`);
  assert.equal(storageFolder(storage, "/home/ann/other\nob"), other);
  assert.equal(storageFolder(storage, undefined), `${storage}/out`);
});
