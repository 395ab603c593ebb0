import assert from "node:assert/strict";
import { lstatSync } from "../../proto/tree/file_calls.ts";
import { tempDir } from "../../tests/support/temp_dir.ts";
import { HomeIndex } from "./outputs_index.ts";

const DIGEST = new Uint8Array(32).fill(7);

Deno.test("the index knows a file for as long as it looks the same, also in the next process", async () => {
  await using temp = await tempDir();
  const file = temp.join("out"), name = "execroot/\udcff/ü";
  Deno.writeTextFileSync(file, "content");
  const index = new HomeIndex(temp.join("rbs/index"));
  index.set(name, DIGEST, lstatSync(file));
  index.save();
  const again = new HomeIndex(temp.join("rbs/index"));
  assert.deepEqual(new Uint8Array(again.get(name, lstatSync(file))!.digest), DIGEST);
  Deno.utimeSync(file, 1, 1);
  assert.equal(again.get(name, lstatSync(file)), undefined, "another mtime");
  again.set(name, DIGEST, lstatSync(file));
  Deno.writeTextFileSync(file, "longer content");
  Deno.utimeSync(file, 1, 1);
  assert.equal(again.get(name, lstatSync(file)), undefined, "another size");
  again.set(name, DIGEST, lstatSync(file));
  Deno.copyFileSync(file, `${file}2`);
  Deno.utimeSync(`${file}2`, 1, 1);
  Deno.renameSync(`${file}2`, file);
  assert.equal(again.get(name, lstatSync(file)), undefined, "another inode");
});

Deno.test("an index that is cut short, changed or another program's is ignored", async () => {
  await using temp = await tempDir();
  const path = temp.join("index"), file = temp.join("file");
  Deno.writeTextFileSync(file, "content");
  const index = new HomeIndex(path);
  for (let i = 0; i < 50; i++) index.set(`a/${i}`, DIGEST, lstatSync(file));
  index.save();
  const good = Deno.readFileSync(path);
  const known = (bytes: Uint8Array) => {
    Deno.writeFileSync(path, bytes);
    return new HomeIndex(path).get("a/7", lstatSync(file)) !== undefined;
  };
  assert.ok(known(good));
  for (const length of [0, 1, 32, 100, good.length - 1]) assert.ok(!known(good.subarray(0, length)), `${length} bytes`);
  for (let at = 0; at < good.length; at += 97) {
    const bad = good.slice();
    bad[at] ^= 1;
    assert.ok(!known(bad), `byte ${at}`);
  }
});
