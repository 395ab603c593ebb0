import assert from "node:assert/strict";
import { tempDir } from "../../tests/support/temp_dir.ts";
import { localFiles } from "../../proto/tree/local_files.ts";
import { digestOf, readSmall } from "../../proto/tree/read.ts";
import { LocalTree } from "./pending_tree.ts";

const never = new AbortController().signal;

/** A tree of files that were sent without a digest. */
async function sentTree(root: string, files: number): Promise<LocalTree> {
  for (let i = 0; i < files; i++) {
    Deno.writeTextFileSync(`${root}/f${i}`, `content ${i}`);
    Deno.utimeSync(`${root}/f${i}`, 1_000_000, 1_000_000);
  }
  const tree = new LocalTree(root);
  await tree.refresh({});
  for (const entry of [...tree.entries.values()]) tree.sent(entry.path, entry);
  tree.settled();
  return tree;
}

Deno.test("files that were sent without a digest get it afterwards, but for those that have changed", async () => {
  await using directory = await tempDir();
  const tree = await sentTree(directory.path, 10);
  assert.equal(tree.undigested, 10);
  Deno.writeTextFileSync(directory.join("f3"), "something else");
  Deno.removeSync(directory.join("f5"));
  await tree.digestAll(never);
  assert.equal(tree.undigested, 0);
  for (const { path, digest } of tree.entries.values()) {
    const expected = path === "f3" || path === "f5"
      ? undefined
      : digestOf(new TextEncoder().encode(`content ${path.slice(1)}`));
    assert.deepEqual(digest && [...digest], expected && [...expected], path);
  }
  tree.distrust();
  await tree.refresh({});
  assert.deepEqual([...tree.pending.keys()].sort(), ["f3", "f5"]);
});

Deno.test("what is interrupted in making digests goes on with the rest", async () => {
  await using directory = await tempDir();
  const tree = await sentTree(directory.path, 2_000);
  const barrier = new AbortController();
  const digesting = tree.digestAll(barrier.signal);
  barrier.abort();
  await assert.rejects(digesting, { name: "AbortError" });
  assert.ok(tree.undigested > 0);
  await tree.digestAll(never);
  assert.ok([...tree.entries.values()].every(({ digest }) => digest));
});

Deno.test("a file without a digest that was touched is sent once more", async () => {
  await using directory = await tempDir();
  const tree = await sentTree(directory.path, 3);
  // The same content, size and time: only its digest could tell.
  Deno.writeTextFileSync(directory.join("new"), "content 1");
  Deno.utimeSync(directory.join("new"), 1_000_000, 1_000_000);
  Deno.renameSync(directory.join("new"), directory.join("f1"));
  tree.distrust();
  await tree.refresh({});
  assert.deepEqual([...tree.pending.keys()], ["f1"]);
});

Deno.test("a file that was saved just before it was sent is as sent until its content is another one", async () => {
  await using directory = await tempDir();
  const path = directory.join("f");
  Deno.writeTextFileSync(path, "saved");
  const tree = new LocalTree(directory.path);
  await tree.refresh({});
  // As the sync reads and sends it, so soon that its times tell nothing.
  const read = readSmall(localFiles, directory.path, "f")!;
  tree.sent("f", { ...read.entry, racy: true });
  tree.settled();
  assert.ok(tree.isAsSent("f"));
  // An editor that saves the same once more changes nothing.
  Deno.writeTextFileSync(path, "saved");
  assert.ok(tree.isAsSent("f"));
  const { mtime } = Deno.statSync(path);
  Deno.writeTextFileSync(path, "Saved");
  Deno.utimeSync(path, mtime!, mtime!);
  assert.ok(!tree.isAsSent("f"));
  Deno.writeTextFileSync(path, "saved");
  Deno.chmodSync(path, 0o755);
  assert.ok(!tree.isAsSent("f"));
  Deno.removeSync(path);
  assert.ok(!tree.isAsSent("f"));
});
