import assert from "node:assert/strict";
import { tempDir } from "../../tests/support/temp_dir.ts";
import { handBack, makeOurs, takeOver } from "./server_state.ts";

function write(path: string, text = "") {
  Deno.mkdirSync(path.slice(0, path.lastIndexOf("/")), { recursive: true });
  Deno.writeTextFileSync(path, text);
}

const read = (path: string) => Deno.readTextFileSync(path);
const names = (folder: string) => [...Deno.readDirSync(folder)].map(({ name }) => name).sort();

Deno.test("an agent's outputs and a local server's take turns, and neither finds the other's", async () => {
  await using temp = await tempDir();
  const ob = temp.path;
  for (const file of ["execroot/ws/x", "external/@a.marker", "external/a/x", "action_cache/x"]) {
    write(`${ob}/${file}`, "local");
  }
  write(`${ob}/server/x`);
  await takeOver(ob);
  assert.deepEqual(names(ob), [
    "action_cache.before-rbs",
    "execroot.before-rbs",
    "external.before-rbs",
    "rbs",
    "server",
  ]);
  for (const file of ["execroot/ws/x", "external/a/x"]) write(`${ob}/${file}`, "agent");
  await takeOver(ob);
  assert.equal(read(`${ob}/external/a/x`), "agent", "another proxy goes on with what is there");

  assert.equal(await handBack(ob), true);
  assert.deepEqual(names(ob), ["action_cache", "execroot", "external", "rbs", "server"]);
  for (const file of ["execroot/ws/x", "external/a/x"]) assert.equal(read(`${ob}/${file}`), "local");
  assert.equal(await handBack(ob), false, "a local server's outputs are none of an agent's");
  await takeOver(ob);
  for (const file of ["execroot/ws/x", "external/a/x"]) assert.equal(read(`${ob}/${file}`), "agent");
  assert.deepEqual(names(`${ob}/rbs`), ["agent"]);
});

Deno.test("what a local server has made since nobody handed anything back is its own", async () => {
  for (const trace of ["action_cache/x", "external/@a.marker"]) {
    await using temp = await tempDir();
    const ob = temp.path;
    await takeOver(ob);
    write(`${ob}/execroot/ws/x`, "agent");
    write(`${ob}/${trace}`);
    write(`${ob}/execroot/ws/y`, "local");
    assert.equal(await handBack(ob), false);
    assert.equal(read(`${ob}/execroot/ws/y`), "local");
    await takeOver(ob);
    assert.equal(read(`${ob}/execroot.before-rbs/ws/y`), "local");
    assert.ok(!names(ob).includes("execroot"));
  }
});

Deno.test("what an RBS that did not keep them apart has left is nobody's", async () => {
  await using temp = await tempDir();
  const ob = temp.path;
  for (const file of ["rbs/outputs.index", "execroot/ws/x", "external/@a.marker", "action_cache/x"]) {
    write(`${ob}/${file}`);
  }
  await takeOver(ob);
  assert.deepEqual(names(ob), ["rbs"]);
});

Deno.test("links to an agent's storage go as well, and where there is nothing nothing happens", async () => {
  await using temp = await tempDir();
  const ob = temp.join("ob"), storage = temp.join("storage");
  assert.equal(await handBack(ob), false);
  Deno.mkdirSync(ob);
  for (const name of ["execroot", "external", "command.log"]) Deno.symlinkSync(`${storage}/${name}`, `${ob}/${name}`);
  for (const name of ["execroot", "action_cache"]) write(`${ob}/${name}.before-rbs/x`, "local");
  Deno.symlinkSync("somewhere", `${ob}/sandbox`);
  assert.equal(await handBack(ob), true);
  assert.deepEqual(names(ob), ["action_cache", "execroot", "sandbox"]);
});

Deno.test("the folder of RBS is its user's alone, whatever the umask", async () => {
  await using temp = await tempDir();
  const before = Deno.umask(0);
  try {
    makeOurs(temp.path);
    assert.equal(Deno.lstatSync(`${temp.path}/rbs`).mode! & 0o7777, 0o700);
    Deno.chmodSync(`${temp.path}/rbs`, 0o777);
    makeOurs(temp.path);
    assert.equal(Deno.lstatSync(`${temp.path}/rbs`).mode! & 0o7777, 0o700);
  } finally {
    Deno.umask(before);
  }
});
